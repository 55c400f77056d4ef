package vcs

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/internal/egress"
)

// network reaches hosts, as far as that is allowed.
type network struct {
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	hosts  []string // that may have any address and any port
	ports  []string // host:port that an administrator has named otherwise: the port may be used
	roots  *x509.CertPool
}

const dialTime = 8 * time.Second

func newNetwork(c Config) (*network, error) {
	n := &network{lookup: c.Lookup, dial: c.Dial}
	for _, host := range c.Hosts {
		n.hosts = append(n.hosts, strings.ToLower(host))
	}
	if n.lookup == nil {
		n.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if n.dial == nil {
		n.dial = (&net.Dialer{Timeout: dialTime}).DialContext
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

// writeRoots makes a file with the system's authorities and those of c.CAFile, for
// git, which takes one file. It returns its name, "" if git's own will do. What
// SSL_CERT_FILE is for this program it is for git too, which does not know it; a file
// that is not there is nothing to this program, and the end to git.
func (n *network) writeRoots(c Config) (string, error) {
	if _, err := os.Stat(os.Getenv("SSL_CERT_FILE")); c.CAFile == "" && err != nil {
		return "", nil
	}
	var own []byte
	if c.CAFile != "" {
		var err error
		if own, err = os.ReadFile(c.CAFile); err != nil {
			return "", fmt.Errorf("certificate authorities: %w", err)
		}
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return "", fmt.Errorf("directory for version control: %w", err)
	}
	name, err := filepath.Abs(filepath.Join(c.Dir, "roots.pem"))
	if err != nil {
		return "", err
	}
	return name, os.WriteFile(name, slices.Concat(own, []byte("\n"), systemRoots()), 0o600)
}

// systemRoots returns the system's authorities, each once, from where crypto/x509 looks for
// them. Git reads all of them each time that it goes to the network, and left to itself it
// finds most of them three times: in a directory, under two names, and in a file.
func systemRoots() (roots []byte) {
	files := []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	}
	if name := os.Getenv("SSL_CERT_FILE"); name != "" {
		files = []string{name}
	}
	dirs := []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
	if list := os.Getenv("SSL_CERT_DIR"); list != "" {
		dirs = filepath.SplitList(list)
	}
	seen := map[string]bool{}
	add := func(data []byte) {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" && !seen[string(block.Bytes)] {
				seen[string(block.Bytes)] = true
				roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
			}
		}
	}
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil {
			add(data)
			break
		}
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir) // what cannot be read has none
		for _, entry := range entries {
			if data, err := os.ReadFile(filepath.Join(dir, entry.Name())); err == nil {
				add(data)
			}
		}
	}
	return roots
}

// reachKey is the key of a context's Reach.
type reachKey struct{}

// client returns a client for https. Whatever connection it makes is allowed by the
// Reach in the request's context.
func (n *network) client() *http.Client {
	return &http.Client{
		Timeout: pageTime,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				reach, _ := ctx.Value(reachKey{}).(Reach)
				return n.connect(ctx, address, reach)
			},
			TLSClientConfig:        &tls.Config{RootCAs: n.roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    dialTime,
			DisableKeepAlives:      true, // a connection must not outlive the decision that allowed it
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: 1 << 20,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || len(via) >= 10 {
				return fmt.Errorf("%w: redirected to a URL that is not allowed", ErrForbidden)
			}
			r.Header.Del("Referer") // the name of a private module is in it
			if r.URL.Host != via[0].URL.Host {
				r.Header.Del("Authorization") // net/http sends it to subdomains
			}
			return nil
		},
	}
}

// connect returns a connection to address, host:port, for TLS: through the proxy of
// the environment if there is one for it, else to an address of the host that is
// allowed.
func (n *network) connect(ctx context.Context, address string, reach Reach) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %.100q is not an address", ErrForbidden, address)
	}
	if err := n.checkPort(host, port, "443"); err != nil {
		return nil, err
	}
	through, addrs, err := n.way(ctx, host, port, reach)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	if through != nil {
		conn, err = n.tunnel(ctx, through, address)
	} else {
		conn, _, err = n.dialAny(ctx, addrs, port)
	}
	if err != nil {
		return nil, &unreachableError{err}
	}
	return conn, nil
}

// checkPort refuses a port that is not the usual one, unless an administrator has
// named it: on the others of a host there may be anything.
func (n *network) checkPort(host, port, usual string) error {
	if port == usual || n.trusted(host, port) || slices.Contains(n.ports, net.JoinHostPort(strings.ToLower(host), port)) {
		return nil
	}
	return fmt.Errorf("%w: port %.20s of %s is not permitted for version control; to permit it, add %s to --vcs-hosts", ErrForbidden, port, host, net.JoinHostPort(host, port))
}

const (
	maxAddrs  = 8                      // of a host, that are tried
	dialAfter = 250 * time.Millisecond // the one before (RFC 8305, section 5)
)

// dialAny connects with the first of some addresses that answers. An address that
// says nothing, as one of IPv6 often does, does not use up the time of the others.
func (n *network) dialAny(ctx context.Context, addrs []netip.Addr, port string) (net.Conn, netip.Addr, error) {
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
				conn, err := n.dial(ctx, "tcp", netip.AddrPortFrom(addr, portNumber(port)).String())
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
			go func() { // results that come too late
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

// way returns the proxy of the environment through which TLS goes to the host, or
// else the addresses of the host that are allowed. A proxy finds the address of a
// name by itself, and is where an intranet decides what may be reached.
func (n *network) way(ctx context.Context, host, port string, reach Reach) (through *url.URL, addrs []netip.Addr, err error) {
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

// allows returns an error if the repository must not be reached, before anything is
// run for it.
func (n *network) allows(ctx context.Context, u *url.URL, reach Reach) error {
	usual := "443"
	if u.Scheme == "ssh" {
		usual = "22"
	}
	host, port := u.Hostname(), cmp.Or(u.Port(), usual)
	err := n.checkPort(host, port, usual)
	if err == nil && u.Scheme == "ssh" {
		_, err = n.addresses(ctx, host, port, reach)
	} else if err == nil {
		_, _, err = n.way(ctx, host, port, reach)
	}
	if err != nil {
		return &hostError{u.Host, err}
	}
	return nil
}

func portNumber(port string) uint16 {
	n, _ := net.LookupPort("tcp", port) // 0 cannot be connected to, which is an error of its own
	return uint16(n)
}

// addresses returns the addresses of a host that are allowed.
func (n *network) addresses(ctx context.Context, host, port string, reach Reach) ([]netip.Addr, error) {
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

// unreachableError says that there is no connection with a host. Its text, which clients
// read, is the same whether we refused the address, or the host would have refused or
// reset the connection, or there is none: else a page that says where repositories are
// could be used to find out which addresses and names there are around this machine.
// The log has the rest.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string {
	return ErrUnavailable.Error() + ": no connection, or a forbidden address; see the proxy's log"
}

// Unwrap tells want of file descriptors, which says nothing about any host.
func (e *unreachableError) Unwrap() []error {
	if isExhausted(e.err) {
		return []error{ErrUnavailable, syscall.EMFILE}
	}
	return []error{ErrUnavailable}
}

// isExhausted reports whether err is that this process, or this machine, has no file
// descriptor left. The resolver has it in its text only.
func isExhausted(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) && (strings.Contains(dns.Err, syscall.EMFILE.Error()) || strings.Contains(dns.Err, syscall.ENFILE.Error())) {
		return true
	}
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// logUnreachable logs what err keeps from clients, if anything.
func (s *Source) logUnreachable(what, host string, err error) {
	var unreachable *unreachableError
	if errors.As(err, &unreachable) {
		s.log.Warn("no connection to a version control host", "module", what, "host", host, "err", unreachable.err)
	}
}

// trusted reports whether an administrator has named the host.
func (n *network) trusted(host, port string) bool {
	host = strings.ToLower(host)
	return slices.Contains(n.hosts, host) || slices.Contains(n.hosts, net.JoinHostPort(host, port))
}

// tunnel asks a proxy for a connection to address (RFC 9110, section 9.3.6).
func (n *network) tunnel(ctx context.Context, through *url.URL, address string) (net.Conn, error) {
	if through.Scheme != "http" && through.Scheme != "https" {
		return nil, fmt.Errorf("%w: HTTPS_PROXY has the scheme %q; only http and https are supported", ErrUnavailable, through.Scheme)
	}
	port := through.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[through.Scheme]
	}
	conn, err := n.dial(ctx, "tcp", net.JoinHostPort(through.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	if through.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: through.Hostname(), RootCAs: n.roots, MinVersion: tls.VersionTLS12})
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user := through.User; user != nil {
		password, _ := user.Password()
		r.Header.Set("Proxy-Authorization", basic(user.Username(), password))
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
