package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/assay-proxy/assay/internal/egress"
)

// maxRedirects is what the go command follows.
const maxRedirects = 10

// errRedirect says that an upstream redirects to where we do not follow.
var errRedirect = errors.New("redirect not followed")

// awayError is trouble with a host that an upstream redirects to. Its text, which clients
// read, is the same whatever happened: else an upstream and a client together could
// find out which addresses and ports there are around this machine. The log has the rest.
type awayError struct{ err error }

func (e *awayError) Error() string {
	return "no connection to the host that the upstream redirects to; the log of this proxy says why"
}

func (e *awayError) Unwrap() error { return e.err }

// away returns err, of the host that u redirects to, as what a client may know, and logs
// what it must not.
func (u *upstream) away(ctx context.Context, host string, err error) error {
	if ctx.Err() == nil {
		u.client.log.Warn("redirect of upstream failed", "source", u.label, "host", printable(host), "err", u.clean(err.Error()))
	}
	return &awayError{err}
}

// answer is what came for a request, at the end of its redirects.
type answer struct {
	*http.Response
	away bool // from another host than the upstream, or by way of one
}

// roundTrip sends a GET for target and follows redirects. The http.Client is not
// used: it sends credentials on to subdomains and other ports, a Referer to
// every host, and quotes URLs in its errors.
func (u *upstream) roundTrip(ctx context.Context, target *url.URL, header http.Header) (answer, error) {
	away, inside := false, false
	for hops := 0; ; hops++ {
		away = away || !sameHost(u.base, target)
		resp, near, err := u.hop(ctx, target, header, away, inside)
		if err != nil && away {
			err = u.away(ctx, target.Host, err)
		}
		if err != nil {
			return answer{}, err
		}
		next, err := location(resp)
		if err == nil && next == nil {
			return answer{resp, away}, nil
		}
		discard(resp)
		switch {
		case err != nil && away:
			return answer{}, u.away(ctx, target.Host, err)
		case err != nil:
			return answer{}, err
		case hops == maxRedirects:
			return answer{}, fmt.Errorf("%w: more than %d of them", errRedirect, maxRedirects)
		}
		target, inside = next, near
	}
}

// hop sends one request for target: to the upstream itself, or away from it, where a
// redirect leads that came from inside or not. It reports whether the answer came from
// inside: neither from a public address nor through a proxy.
func (u *upstream) hop(ctx context.Context, target *url.URL, header http.Header, away, inside bool) (resp *http.Response, near bool, err error) {
	var remote net.Addr
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { remote = info.Conn.RemoteAddr() }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, false, fmt.Errorf("%w: not a URL", errRedirect)
	}
	req.Header = header.Clone()
	if u.authorization != "" && !away && target.Scheme == u.base.Scheme && target.Host == u.base.Host {
		req.Header.Set("Authorization", u.authorization)
	}
	patient := callerOf(ctx).last || u.probe.isSlow()
	transport, through, err := u.client.transports.to(req, !away || u.client.trusted.redirect(target, inside), patient)
	if err != nil {
		return nil, false, err
	}
	if resp, err = transport.RoundTrip(req); err != nil {
		return nil, false, err
	}
	return resp, through == nil && remote != nil && isInside(remote), nil
}

// isInside reports whether a connection to addr stays inside.
func isInside(addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return false
	}
	public, err := egress.Allowed([]netip.Addr{ap.Addr()}, egress.Public)
	return err == nil && len(public) == 0
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

// trustedHosts are where an upstream may redirect to, whatever the address is.
type trustedHosts struct {
	upstreams map[string]bool // host:port of those that are configured
	redirects []string        // host, or host:port
}

// trust returns the hosts of a list, and those that an administrator has named otherwise.
func trust(entries []Entry, redirects []string) trustedHosts {
	h := trustedHosts{upstreams: map[string]bool{}}
	for _, e := range entries {
		if e.URL != nil && e.URL.Scheme != "file" {
			h.upstreams[hostPort(e.URL)] = true
		}
	}
	for _, host := range redirects {
		h.redirects = append(h.redirects, strings.ToLower(host))
	}
	return h
}

// redirect reports whether a redirect to target is followed whatever its address is. The
// upstreams may redirect among each other, but none from outside to one inside.
func (h trustedHosts) redirect(target *url.URL, fromInside bool) bool {
	host := hostPort(target)
	name, _, _ := net.SplitHostPort(host)
	return slices.Contains(h.redirects, host) || slices.Contains(h.redirects, name) || fromInside && h.upstreams[host]
}

// hostPort returns the host and port of u in the one spelling that is compared.
func hostPort(u *url.URL) string {
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), portOf(u))
}

// sameHost reports whether target is at the host and port of base, or at its https port
// where base has the http one.
func sameHost(base, target *url.URL) bool {
	upgraded := *base
	if base.Scheme == "http" && portOf(base) == "80" {
		upgraded.Scheme, upgraded.Host = "https", net.JoinHostPort(base.Hostname(), "443")
	}
	return hostPort(target) == hostPort(base) || target.Scheme == "https" && hostPort(target) == hostPort(&upgraded)
}

// location returns where resp redirects to, nil if it does not.
func location(resp *http.Response) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	value := resp.Header.Get("Location")
	if value == "" {
		return nil, nil // a 3xx like any other that is not a 200
	}
	from := resp.Request.URL
	next, err := from.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("%w: its Location is not a URL", errRedirect)
	}
	switch {
	case next.Hostname() == "" || next.Scheme != "https" && next.Scheme != "http":
		return nil, fmt.Errorf("%w: to the scheme %q", errRedirect, printable(next.Scheme))
	case from.Scheme == "https" && next.Scheme == "http":
		return nil, fmt.Errorf("%w: from https to http, host %s", errRedirect, printable(next.Host))
	}
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	return next, nil
}
