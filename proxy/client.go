package proxy

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/request"
)

// client returns the key of the client of a request, by which places are shared: the
// user if they have proved who they are, else their address. Only a miss needs it: it
// may check a credential.
func (s *Server) client(a *answer) string {
	if a.client == "" {
		a.client = clientKey(s.identify(a), s.config.Remote(a.r))
	}
	return a.client
}

// clientKey returns the key for an identity at an address. Of an IPv6 address it is the
// /64 prefix: a host that has one address of it has all of them.
func clientKey(id access.Identity, remote string) string {
	if !id.Anonymous() {
		return "user " + id.Kind + " " + id.Name
	}
	address, err := netip.ParseAddr(remote)
	if err != nil {
		return cmp.Or(clip(remote, 100), "unknown")
	}
	address = address.Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	prefix, _ := address.Prefix(64) // valid for every IPv6 address
	return prefix.String()
}

// siteOf returns the site that a client is at: of IPv6 prefixes the first 48 bits, which
// one customer of a provider has and takes as many clients from as it likes; all others
// are sites of their own.
func siteOf(client string) string {
	if !strings.HasSuffix(client, "::/64") {
		return client
	}
	prefix, err := netip.ParsePrefix(client)
	if err != nil {
		return client // the name of a user
	}
	site, _ := prefix.Addr().Prefix(48) // valid for every IPv6 address
	return site.String()
}

// claimOf returns what a place for req is claimed for.
func claimOf(client string, req request.Request) places.For {
	host, _, _ := strings.Cut(req.Module, "/")
	return places.For{Client: client, Module: req.Module, Host: host}
}
