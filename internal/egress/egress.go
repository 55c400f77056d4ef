// Package egress decides whether this program may connect to an address that a third
// party named: in a redirect of an upstream, or in a page that says where a repository
// is. It does not apply to hosts that an administrator configured.
//
// It checks addresses, not names, because a name may have another address a moment later.
// The caller checks the address that it connects to.
package egress

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Reach says in which networks an address that a third party named may be.
type Reach uint8

const (
	Public   Reach = iota // the internet
	Intranet              // private networks too
)

// never has networks without upstreams or code hosts: shared address space, where some
// clouds have their metadata service; metadata services over IPv6, and one at a public
// address; IPv6 addresses from which routers extract IPv4 addresses.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/32"), netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("::/96"),
}

// nat64 has the IPv4 addresses of the internet for a network that has IPv6 alone
// (RFC 6052, section 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Allowed returns those of addrs to which a connection is allowed: no address of this
// machine (read at each call), none of its link, and no private one if reach is Public.
// If the addresses of this machine cannot be read, the error says so, and none is
// allowed.
func Allowed(addrs []netip.Addr, reach Reach) ([]netip.Addr, error) {
	own, err := Machine()
	if err != nil {
		return nil, err
	}
	refused := func(addr netip.Addr) bool {
		addr = plain(addr)
		return own[addr] || !remote(addr) || reach == Public && addr.IsPrivate()
	}
	return slices.DeleteFunc(slices.Clone(addrs), refused), nil
}

// remote reports whether addr can be an address of a machine beyond the local link.
func remote(addr netip.Addr) bool {
	switch {
	case !addr.IsValid(), addr.IsLoopback(), addr.IsUnspecified(), addr.IsLinkLocalUnicast(), addr.IsMulticast():
		return false
	}
	return !slices.ContainsFunc(never, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// plain returns the address at which packets for addr arrive.
func plain(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return addr
}

// Machine returns the addresses that this machine has now, on all its interfaces.
func Machine() (map[netip.Addr]bool, error) {
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this machine: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, a := range interfaces {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			own[plain(prefix.Addr())] = true
		}
	}
	return own, nil
}

// AllowedName reports whether host, a name or an address in a URL, may be sent to a proxy
// that resolves names itself: a name that is not this machine's, or an allowed address.
// Numbers in other notations, which some resolvers read as addresses, are neither.
func AllowedName(host string, reach Reach) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		allowed, err := Allowed([]netip.Addr{addr}, reach)
		return err == nil && len(allowed) == 1
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && last != "localhost" && (last[0] < '0' || last[0] > '9')
}
