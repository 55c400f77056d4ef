package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/internal/egress"
)

// streamBuffer is how much of a response HTTP/2 receives before we read it. Each response that
// waits for memory has one, and it bounds the speed over long distances: 50 MB/s at 20 ms.
const streamBuffer = 1 << 20

// newTransports returns the transports of a chain.
func newTransports(c Config) (transports, error) {
	roots, err := Roots(c.CAFile)
	if err != nil {
		return transports{}, err
	}
	dialer := net.Dialer{Timeout: c.Budget.Connect, KeepAlive: 15 * time.Second}
	named := newTransport(c.Budget, roots, &dialer)
	named.Proxy = http.ProxyFromEnvironment
	guarded := dialer
	guarded.Control = publicOnly
	other := newTransport(c.Budget, roots, &guarded)
	return transports{named, other, patient(named), patient(other)}, nil
}

// patient returns t for patient requests.
func patient(t *http.Transport) *http.Transport {
	t = t.Clone()
	t.DisableKeepAlives, t.ResponseHeaderTimeout = true, 0
	return t
}

func newTransport(b Budget, roots *x509.CertPool, dialer *net.Dialer) *http.Transport {
	return &http.Transport{
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   b.TLS,
		ResponseHeaderTimeout: b.FirstByte,
		ForceAttemptHTTP2:     true,
		// A connection that died silently would swallow a request and its retries, because HTTP/2
		// sends them all over the same one.
		HTTP2: &http.HTTP2Config{SendPingTimeout: b.FirstByte / 2, PingTimeout: b.FirstByte / 4, MaxReceiveBufferPerStream: streamBuffer},
		// Many clients start many fills from one upstream at once.
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// Transparent decompression hides the length of the body, without which no transfer can be
		// resumed, and zips do not shrink.
		DisableCompression: true,
	}
}

// Roots returns the certificate authorities of the system and those in file. It is nil, which means
// the system's, if file is empty.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a minimal container has no system roots
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authorities: no PEM certificate in %s", file)
	}
	return roots, nil
}

// maxDiscard bounds how much is read only to reuse a connection; a larger rest takes longer than a
// new connection.
const maxDiscard = 16 << 10

// discard reads the short rest of an unwanted body, so that its connection can be reused, and
// closes it.
func discard(resp *http.Response) {
	if resp.ContentLength <= maxDiscard {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDiscard)
	}
	_ = resp.Body.Close()
}

// escape returns path in the form in which the go command sends it in a URL.
func escape(path string) string {
	return strings.ReplaceAll(url.PathEscape(path), "%2F", "/")
}

// transports are the transports to a host.
type transports struct {
	named *http.Transport // to hosts that an administrator has configured
	other *http.Transport // to hosts that an upstream redirects to: public addresses only, no proxy

	// The same for patient requests: each of them makes a connection, and the context bounds the
	// time for the headers.
	fresh, freshOther *http.Transport
}

// closeIdle closes idle connections, and ends abandoned dials.
func (t transports) closeIdle() {
	for _, transport := range []*http.Transport{t.named, t.other, t.fresh, t.freshOther} {
		transport.CloseIdleConnections()
	}
}

// to returns the transport for req, and the proxy of the environment for it, nil if there is none.
// There are two transports, because connections are reused, and a connection to an address that is
// allowed only for configured hosts must not be reused for others.
//
// A proxy resolves a name itself, and is where an intranet decides which hosts may be reached.
func (t transports) to(req *http.Request, named, patient bool) (_ *http.Transport, through *url.URL, err error) {
	if patient {
		t.named, t.other = t.fresh, t.freshOther
	}
	if t.named.Proxy != nil {
		if through, err = t.named.Proxy(req); err != nil {
			return nil, nil, fmt.Errorf("proxy of the environment: %w", err)
		}
	}
	switch {
	case named:
		return t.named, through, nil
	case through == nil:
		return t.other, nil, nil
	case !egress.AllowedName(req.URL.Hostname(), egress.Public):
		return nil, nil, refusedAddress(req.URL.Hostname())
	}
	return t.named, through, nil
}

// publicOnly is the Control of a dialer. It sees the address of the connection, after the resolver,
// so that a name with changing addresses cannot evade it.
func publicOnly(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", errRedirect, err)
	}
	allowed, err := egress.Allowed([]netip.Addr{ap.Addr()}, egress.Public)
	if err != nil {
		return fmt.Errorf("%w: %w", errRedirect, err)
	}
	if len(allowed) == 0 {
		return refusedAddress(ap.Addr().String())
	}
	return nil
}

func refusedAddress(address string) error {
	return fmt.Errorf("%w: %s is this machine or a private network; if upstreams may redirect there, name the host in --redirect-hosts", errRedirect, address)
}
