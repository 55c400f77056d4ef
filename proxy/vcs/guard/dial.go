package guard

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// DialTime is how long a connection may take.
const DialTime = 8 * time.Second

const (
	maxAddrs  = 8                      // of a host, that are tried
	dialAfter = 250 * time.Millisecond // after the address before (RFC 8305, section 5)
)

// dialer connects with an address.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// any connects with the first of some addresses that answers. An address that does not
// answer, as one of IPv6 often does not, does not use up the time of the others.
func (d dialer) any(ctx context.Context, addrs []netip.Addr, port string) (net.Conn, netip.Addr, error) {
	type dialed struct {
		conn net.Conn
		addr netip.Addr
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs = addrs[:min(maxAddrs, len(addrs))]
	results := make(chan dialed, len(addrs))
	for i, addr := range addrs {
		go func() {
			select {
			case <-time.After(time.Duration(i) * dialAfter):
				conn, err := d(ctx, "tcp", netip.AddrPortFrom(addr, portNumber(port)).String())
				results <- dialed{conn, addr, err}
			case <-ctx.Done():
				results <- dialed{err: context.Cause(ctx)}
			}
		}()
	}
	first := dialed{err: errors.New("no address")}
	for i := range addrs {
		r := <-results
		if r.err == nil {
			go func() { // closes connections that come too late
				for range len(addrs) - i - 1 {
					if late := <-results; late.err == nil {
						_ = late.conn.Close()
					}
				}
			}()
			return r.conn, r.addr, nil
		}
		if i == 0 {
			first = r
		}
	}
	return nil, first.addr, first.err
}

func portNumber(port string) uint16 {
	n, _ := net.LookupPort("tcp", port) // a connection with port 0 fails with an error of its own
	return uint16(n)
}

// tunnel asks a proxy for a connection with address (RFC 9110, section 9.3.6).
func (d dialer) tunnel(ctx context.Context, through *url.URL, address string, roots *x509.CertPool) (net.Conn, error) {
	if through.Scheme != "http" && through.Scheme != "https" {
		return nil, fmt.Errorf("%w: HTTPS_PROXY has the scheme %q; only http and https are supported", ErrUnavailable, through.Scheme)
	}
	port := through.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[through.Scheme]
	}
	conn, err := d(ctx, "tcp", net.JoinHostPort(through.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	if through.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: through.Hostname(), RootCAs: roots, MinVersion: tls.VersionTLS12})
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user := through.User; user != nil {
		password, _ := user.Password()
		r.Header.Set("Proxy-Authorization", BasicAuth(user.Username(), password))
	}
	if err := r.Write(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(oneByte{conn}), r)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	return conn, nil
}

// oneByte reads a byte at a time, so that a buffered reader takes no more than the
// header.
type oneByte struct{ net.Conn }

func (c oneByte) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(1, len(p))]) }

// BasicAuth returns the value of a header for basic authentication (RFC 7617).
func BasicAuth(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
