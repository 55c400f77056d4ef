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

// streamBuffer is how much of an answer HTTP/2 receives before we read it. It is there
// for each answer that waits for memory, and it bounds the speed where the way is long:
// 50 MB/s at 20 ms.
const streamBuffer = 1 << 20

// newTransports makes the transports of a chain.
func newTransports(c Config) (transports, error) {
	roots, err := readRoots(c.CAFile)
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
		// A connection that died in silence would swallow a request and its
		// retries too, for HTTP/2 puts them all on the same one.
		HTTP2: &http.HTTP2Config{SendPingTimeout: b.FirstByte / 2, PingTimeout: b.FirstByte / 4, MaxReceiveBufferPerStream: streamBuffer},
		// A fleet of clients starts many fills of one upstream at once.
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// Transparent decompression hides the length of the body, without
		// which nothing can be resumed, and zips do not shrink.
		DisableCompression: true,
	}
}

// readRoots returns the system's roots and those in file. It is nil, which means
// the system's, if file is empty.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a minimal container has none
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authorities: no PEM certificate in %s", file)
	}
	return roots, nil
}

// maxDiscard is what is read only to use a connection again; more than that takes
// longer than a new one.
const maxDiscard = 16 << 10

// discard reads what little there is of an unwanted body, so that its
// connection can be used again, and closes it.
func discard(resp *http.Response) {
	if resp.ContentLength <= maxDiscard {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDiscard)
	}
	_ = resp.Body.Close()
}

// escape returns path as the go command sends it in a URL.
func escape(path string) string {
	return strings.ReplaceAll(url.PathEscape(path), "%2F", "/")
}

// transports are the ways to a host.
type transports struct {
	named *http.Transport // to what an administrator has named
	other *http.Transport // to what an upstream has named: public addresses only, no proxy

	// The same for patient requests: they make a connection each, and leave the time
	// for the headers to the context.
	fresh, freshOther *http.Transport
}

// closeIdle closes idle connections, and ends dials that nothing waits for.
func (t transports) closeIdle() {
	for _, transport := range []*http.Transport{t.named, t.other, t.fresh, t.freshOther} {
		transport.CloseIdleConnections()
	}
}

// to returns the transport for req, and the proxy of the environment that it goes
// through, nil if there is none. They are two, because connections are used again, and
// one to an address that only named hosts may have must not be.
//
// A proxy finds the address of a name itself, and is where an intranet decides what may
// be reached.
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

// publicOnly is the Control of a dialer. It sees the address that is about to be
// connected with, after the resolver, so that a name which changes gains nothing.
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
