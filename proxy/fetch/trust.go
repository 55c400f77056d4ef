package fetch

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
)

// errRedirect means that a redirect is not followed.
var errRedirect = errors.New("redirect not followed")

// trustedHosts are the hosts to which an upstream may redirect, whatever their address is.
type trustedHosts struct {
	upstreams map[string]bool // host:port of the configured ones
	redirects []string        // host, or host:port
}

// trust returns the hosts of a list, and those in Config.RedirectHosts.
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

// redirect reports whether a redirect to target is followed, whatever its address is. The upstreams
// may redirect to each other, but none outside to one inside.
func (h trustedHosts) redirect(target *url.URL, fromInside bool) bool {
	host := hostPort(target)
	name, _, _ := net.SplitHostPort(host)
	return slices.Contains(h.redirects, host) || slices.Contains(h.redirects, name) || fromInside && h.upstreams[host]
}

// hostPort returns the host and port of u in the spelling that is compared.
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

// awayError is a failed connection to a host that an upstream redirects to. Clients read
// its text, so it is the same for all causes: otherwise an upstream and a client together
// could scan the network around this machine. The log has the cause.
type awayError struct{ err error }

func (e *awayError) Error() string {
	return "no connection to the host that the upstream redirects to; the log of this proxy says why"
}

func (e *awayError) Unwrap() error { return e.err }
