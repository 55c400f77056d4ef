// Package guard connects with the hosts of repositories and of the pages that name them,
// as far as the administrator allows it.
//
// A page can name any host, and clients choose pages. So each address is checked right
// before it is connected with, and clients cannot tell why there is no connection.
package guard

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/egress"
)

// Config says what a Network may reach. The zero value of each field is its default.
type Config struct {
	// Hosts, as host or host:port, may have any address, on any port or on that one.
	// Others are reached on port 443, by SSH on 22, and on Ports.
	Hosts []string

	// CAFile is a PEM file with certificate authorities that are trusted besides the
	// system's.
	CAFile string

	// Lookup and Dial replace the resolver and the dialer.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

// Network reaches hosts, as far as that is allowed. Its methods may be called at the same
// time.
type Network struct {
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	dial   dialer
	hosts  []string // that may have any address and any port
	ports  []string // host:port of other hosts where the port may be used
	roots  *x509.CertPool
}

// New makes a Network. Its errors are those of the CAFile.
func New(c Config) (*Network, error) {
	n := &Network{lookup: c.Lookup, dial: c.Dial}
	for _, host := range c.Hosts {
		n.hosts = append(n.hosts, strings.ToLower(host))
	}
	if n.lookup == nil {
		n.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if n.dial == nil {
		n.dial = (&net.Dialer{Timeout: DialTime}).DialContext
	}
	if c.CAFile == "" {
		return n, nil
	}
	own, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	if n.roots, err = x509.SystemCertPool(); err != nil {
		n.roots = x509.NewCertPool()
	}
	if !n.roots.AppendCertsFromPEM(own) {
		return nil, fmt.Errorf("certificate authorities: no certificate in %s", c.CAFile)
	}
	return n, nil
}

// AllowPorts allows ports that an administrator has named with a host, as host:port. It is
// called before any other method.
func (n *Network) AllowPorts(ports []string) { n.ports = ports }

// requestTime is how long a request of a Client may take.
const requestTime = 15 * time.Second

// reachKey is the key of a context's Reach.
type reachKey struct{}

// WithReach returns a context in which a Client's requests reach as far as reach. Without
// one they reach as far as the zero value.
func WithReach(ctx context.Context, reach egress.Reach) context.Context {
	return context.WithValue(ctx, reachKey{}, reach)
}

// Client returns a client for https. Each connection that it makes must be allowed by the
// Reach in the context of the request.
func (n *Network) Client() *http.Client {
	return &http.Client{
		Timeout: requestTime,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				reach, _ := ctx.Value(reachKey{}).(egress.Reach)
				return n.Connect(ctx, address, reach)
			},
			TLSClientConfig:        &tls.Config{RootCAs: n.roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    DialTime,
			DisableKeepAlives:      true, // a connection must not outlive the decision that allowed it
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: 1 << 20,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || len(via) >= 10 {
				return fmt.Errorf("%w: redirected to a URL that is not allowed", ErrForbidden)
			}
			r.Header.Del("Referer") // it contains the name of a private module
			if r.URL.Host != via[0].URL.Host {
				r.Header.Del("Authorization") // net/http sends it to subdomains
			}
			return nil
		},
	}
}

// Connect returns a connection with address, host:port, for TLS: through the proxy of the
// environment if there is one for it, else with an address of the host that is allowed.
func (n *Network) Connect(ctx context.Context, address string, reach egress.Reach) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %.100q is not an address", ErrForbidden, address)
	}
	if err := n.checkPort(host, port, "443"); err != nil {
		return nil, err
	}
	through, addrs, err := n.route(ctx, host, port, reach)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	if through != nil {
		conn, err = n.dial.tunnel(ctx, through, address, n.roots)
	} else {
		conn, _, err = n.dial.any(ctx, addrs, port)
	}
	if err != nil {
		return nil, &unreachableError{err}
	}
	return conn, nil
}

// ConnectSSH returns a connection with an address of the host that is allowed, and the
// address.
func (n *Network) ConnectSSH(ctx context.Context, host, port string, reach egress.Reach) (conn net.Conn, addr netip.Addr, err error) {
	addrs, err := n.addresses(ctx, host, port, reach)
	if err != nil {
		return nil, addr, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, DialTime, context.DeadlineExceeded)
	defer cancel()
	if conn, addr, err = n.dial.any(ctx, addrs, port); err != nil {
		err = &unreachableError{err}
	}
	return conn, addr, err
}

// Check returns an error if the repository at u must not be reached, without connecting
// with its host.
func (n *Network) Check(ctx context.Context, u *url.URL, reach egress.Reach) error {
	usual := "443"
	if u.Scheme == "ssh" {
		usual = "22"
	}
	host, port := u.Hostname(), cmp.Or(u.Port(), usual)
	err := n.checkPort(host, port, usual)
	if err == nil && u.Scheme == "ssh" {
		_, err = n.addresses(ctx, host, port, reach)
	} else if err == nil {
		_, _, err = n.route(ctx, host, port, reach)
	}
	if err != nil {
		return &HostError{u.Host, err}
	}
	return nil
}

// checkPort refuses a port that is not the usual one, unless an administrator has named
// it: any service may listen on the others.
func (n *Network) checkPort(host, port, usual string) error {
	if port == usual || n.trusted(host, port) || slices.Contains(n.ports, net.JoinHostPort(strings.ToLower(host), port)) {
		return nil
	}
	return fmt.Errorf("%w: port %.20s of %s is not permitted for version control; to permit it, add %s to --vcs-hosts", ErrForbidden, port, host, net.JoinHostPort(host, port))
}

// route returns the proxy of the environment through which TLS goes to the host, or else
// the addresses of the host that are allowed. A proxy resolves names itself, and its
// administrator decides what it may reach.
func (n *Network) route(ctx context.Context, host, port string, reach egress.Reach) (through *url.URL, addrs []netip.Addr, err error) {
	through, err = http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}})
	if err != nil {
		return nil, nil, &unreachableError{fmt.Errorf("HTTPS_PROXY: %w", err)}
	}
	if through == nil {
		addrs, err = n.addresses(ctx, host, port, reach)
		return nil, addrs, err
	}
	if !n.trusted(host, port) && !egress.AllowedName(host, reach) {
		return nil, nil, &unreachableError{fmt.Errorf("%s is not permitted for version control; to permit it, add the host to --vcs-hosts", host)}
	}
	return through, nil, nil
}

// addresses returns the addresses of a host that are allowed.
func (n *Network) addresses(ctx context.Context, host, port string, reach egress.Reach) ([]netip.Addr, error) {
	addrs := []netip.Addr{}
	if addr, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, addr)
	} else if addrs, err = n.lookup(ctx, host); err != nil {
		return nil, &unreachableError{err}
	}
	if n.trusted(host, port) {
		return addrs, nil
	}
	good, err := egress.Allowed(addrs, reach)
	if err != nil {
		return nil, &unreachableError{err}
	}
	if len(good) == 0 && len(addrs) > 0 {
		return nil, &unreachableError{fmt.Errorf("%s has the address %s, which is not permitted for version control; to permit it, add the host to --vcs-hosts", host, addrs[0])}
	}
	if len(good) == 0 {
		return nil, &unreachableError{fmt.Errorf("%s has no address", host)}
	}
	return good, nil
}

// trusted reports whether an administrator has named the host.
func (n *Network) trusted(host, port string) bool {
	host = strings.ToLower(host)
	return slices.Contains(n.hosts, host) || slices.Contains(n.hosts, net.JoinHostPort(host, port))
}
