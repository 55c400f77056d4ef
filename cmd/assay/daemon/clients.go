package daemon

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// clients determines the addresses of clients.
type clients struct {
	trusted []netip.Prefix                  // reverse proxies
	read    func(http.Handler) http.Handler // reads the headers of reverse proxies; nil if there are none
}

// newClients returns clients behind reverse proxies in networks, a list separated by commas.
func newClients(networks string) (*clients, error) {
	c := &clients{}
	for _, network := range config.List(networks) {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			return nil, fmt.Errorf("trusted-proxies: %w", err)
		}
		c.trusted = append(c.trusted, prefix)
	}
	if len(c.trusted) > 0 {
		c.read = middleware.ClientIPFromXFF(config.List(networks)...)
	}
	return c, nil
}

// forwarded takes the client address that a reverse proxy puts into X-Forwarded-For.
func (c *clients) forwarded(next http.Handler) http.Handler {
	if c.read == nil {
		return next
	}
	return withoutPorts(c.read(next))
}

// withoutPorts removes the ports that some proxies add to the addresses in X-Forwarded-For. Without
// that, all their clients would have the proxy's address.
func withoutPorts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines := r.Header["X-Forwarded-For"]
		for i, line := range lines {
			entries := strings.Split(line, ",")
			for j, entry := range entries {
				if withPort, err := netip.ParseAddrPort(strings.TrimSpace(entry)); err == nil {
					entries[j] = withPort.Addr().String()
				}
			}
			lines[i] = strings.Join(entries, ",")
		}
		next.ServeHTTP(w, r)
	})
}

// address returns the address of the client: that of the connection, or the one that a trusted
// proxy states.
func (c *clients) address(r *http.Request) string {
	if len(c.trusted) > 0 {
		if ip := middleware.GetClientIP(r.Context()); ip != "" {
			return ip
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// proxied reports whether the connection is from one of the reverse proxies.
func (c *clients) proxied(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && slices.ContainsFunc(c.trusted, func(network netip.Prefix) bool {
		return network.Contains(peer.Addr().Unmap().WithZone(""))
	})
}

// loopback reports whether a host, or host:port, is this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
