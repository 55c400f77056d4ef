package access

import (
	"cmp"
	"net"
	"net/netip"
	"strings"

	"github.com/assay-proxy/assay/internal/text"
)

// ClientOf returns the client at an address, which may have a port. For IPv6 it is the /64
// prefix: a host that has one address of the prefix has all of them.
func ClientOf(address string) string { return prefixOf(address, 64) }

// SiteOf returns the site of an address, which may have a port, or of a client that ClientOf
// returned. For IPv6 it is the /48 prefix: a provider assigns it to one customer, and it
// has 65,536 /64 prefixes. Every other client is a site of its own.
func SiteOf(address string) string { return prefixOf(address, 48) }

func prefixOf(address string, bits int) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(address, "/64"))
	if err != nil {
		return cmp.Or(text.Clip(address, 100), "unknown")
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	prefix, _ := ip.Prefix(bits) // valid for every IPv6 address
	return prefix.String()
}
