package daemon

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// clients determines the addresses of clients.
type clients struct {
	trusted []netip.Prefix // networks of reverse proxies
	sockets bool           // some listener is a socket
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
	return c, nil
}

// local is the address of a client that connects to a socket.
const local = "socket"

// address returns the address of the client: that of the connection, or the one that a trusted
// proxy states.
func (c *clients) address(r *http.Request) string {
	if c.proxied(r) {
		if stated := c.forwardedFor(r); stated.IsValid() {
			return stated.String()
		}
	}
	if c.overSocket(r) {
		return local
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// forwardedFor returns the last address in X-Forwarded-For that is not one of a reverse proxy: each
// proxy adds the address that it sees. It returns the zero Addr if there is none, or if an entry
// after it is no address: what is left of that was not written by a reverse proxy.
func (c *clients) forwardedFor(r *http.Request) netip.Addr {
	for _, line := range slices.Backward(r.Header["X-Forwarded-For"]) {
		for line != "" {
			comma := strings.LastIndexByte(line, ',')
			entry := strings.TrimSpace(line[comma+1:])
			line = line[:max(comma, 0)]
			if entry == "" {
				continue
			}
			address, err := netip.ParseAddr(entry)
			if err != nil { // some proxies add the port
				withPort, err := netip.ParseAddrPort(entry)
				if err != nil {
					return netip.Addr{}
				}
				address = withPort.Addr()
			}
			if address = address.Unmap().WithZone(""); !c.trusts(address) {
				return address
			}
		}
	}
	return netip.Addr{}
}

// proxied reports whether the connection is from one of the reverse proxies.
func (c *clients) proxied(r *http.Request) bool {
	if len(c.trusted) == 0 && !c.sockets {
		return false
	}
	if c.overSocket(r) {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && c.trusts(peer.Addr().Unmap().WithZone(""))
}

// overSocket reports whether the connection is to a socket. The remote address does not say so: its
// name is chosen by the other side.
func (c *clients) overSocket(r *http.Request) bool {
	if !c.sockets {
		return false
	}
	to, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && to.Network() == "unix"
}

func (c *clients) trusts(address netip.Addr) bool {
	return slices.ContainsFunc(c.trusted, func(network netip.Prefix) bool { return network.Contains(address) })
}

// loopback reports whether a host, or host:port, is this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
