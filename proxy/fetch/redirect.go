package fetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"

	"github.com/assay-proxy/assay/internal/egress"
)

// maxRedirects is how many redirects are followed, the same number as in the go command.
const maxRedirects = 10

// sender sends requests to one upstream and follows its redirects.
type sender struct {
	at     *endpoint
	client *client
	probe  *probe
}

// away returns an error that clients may see in place of err, which is the error of a host that the
// upstream redirects to, and logs err.
func (s *sender) away(ctx context.Context, host string, err error) error {
	if ctx.Err() == nil {
		s.client.log.Warn("redirect of upstream failed", "source", s.at.label, "host", printable(host), "err", s.at.clean(err.Error()))
	}
	return &awayError{err}
}

// response is the response at the end of the redirects.
type response struct {
	*http.Response
	away bool // a redirect led to another host than the upstream's, at the end or on the way
}

// roundTrip sends a GET for target and follows redirects. The http.Client is not
// used: it sends credentials on to subdomains and other ports, a Referer to
// every host, and quotes URLs in its errors.
func (s *sender) roundTrip(ctx context.Context, target *url.URL, header http.Header) (response, error) {
	away, inside := false, false
	for hops := 0; ; hops++ {
		away = away || !sameHost(s.at.base, target)
		resp, near, err := s.hop(ctx, target, header, away, inside)
		if err != nil && away {
			err = s.away(ctx, target.Host, err)
		}
		if err != nil {
			return response{}, err
		}
		next, err := location(resp)
		if err == nil && next == nil {
			return response{resp, away}, nil
		}
		discard(resp)
		switch {
		case err != nil && away:
			return response{}, s.away(ctx, target.Host, err)
		case err != nil:
			return response{}, err
		case hops == maxRedirects:
			return response{}, fmt.Errorf("%w: more than %d of them", errRedirect, maxRedirects)
		}
		target, inside = next, near
	}
}

// hop sends one request for target. away means that a redirect led away from the upstream, inside
// that this redirect came from the internal network. hop reports whether the response came from the
// internal network: neither from a public address nor through a proxy.
func (s *sender) hop(ctx context.Context, target *url.URL, header http.Header, away, inside bool) (resp *http.Response, near bool, err error) {
	var remote net.Addr
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { remote = info.Conn.RemoteAddr() }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, false, fmt.Errorf("%w: not a URL", errRedirect)
	}
	req.Header = header.Clone()
	if s.at.authorization != "" && !away && target.Scheme == s.at.base.Scheme && target.Host == s.at.base.Host {
		req.Header.Set("Authorization", s.at.authorization)
	}
	patient := callerOf(ctx).last || s.probe.isSlow()
	transport, through, err := s.client.transports.to(req, !away || s.client.trusted.redirect(target, inside), patient)
	if err != nil {
		return nil, false, err
	}
	if resp, err = transport.RoundTrip(req); err != nil {
		return nil, false, err
	}
	return resp, through == nil && remote != nil && isInside(remote), nil
}

// isInside reports whether a connection to addr stays in the internal network.
func isInside(addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return false
	}
	public, err := egress.Allowed([]netip.Addr{ap.Addr()}, egress.Public)
	return err == nil && len(public) == 0
}

// location returns the target to which resp redirects, nil if it does not.
func location(resp *http.Response) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	value := resp.Header.Get("Location")
	if value == "" {
		return nil, nil // handled like any other status than 200
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
