package fetch

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/egress"
)

// lookupBudget bounds the DNS lookups at start. A slow resolver must not prevent us from serving
// stored objects.
const lookupBudget = 2 * time.Second

// refuseSelf returns an error if an entry leads back to this program: a request would be answered
// by itself. It accepts a name that cannot be resolved now; the Via header detects the loop later.
// It also accepts all entries, and logs that, if the addresses of this machine cannot be read.
func refuseSelf(entries []Entry, self []string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), lookupBudget)
	defer cancel()
	machine, err := egress.Machine()
	if err != nil && len(self) > 0 {
		log.Warn("cannot check whether an upstream is this proxy itself: not all addresses are known", "err", err)
	}
	for _, e := range entries {
		if e.URL == nil || e.URL.Scheme == "file" {
			continue
		}
		for _, address := range self {
			if leadsTo(ctx, e.URL, address, machine) {
				return fmt.Errorf("upstream %s is this proxy itself, which listens at %s; remove it from the list", e, address)
			}
		}
	}
	return nil
}

// leadsTo reports whether u is served at address, or at any loopback address with the same port.
// machine are the addresses of this machine.
func leadsTo(ctx context.Context, u *url.URL, address string, machine map[netip.Addr]bool) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" || port != portOf(u) {
		return false
	}
	if strings.EqualFold(host, u.Hostname()) {
		return true
	}
	ours := ownAddresses(ctx, host, machine)
	for _, ip := range resolve(ctx, u.Hostname()) {
		if ip.IsLoopback() || ip.IsUnspecified() || ours[ip] {
			return true
		}
	}
	return false
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// ownAddresses returns the addresses of a listener on host: all those of the machine if host is
// empty or unspecified.
func ownAddresses(ctx context.Context, host string, machine map[netip.Addr]bool) map[netip.Addr]bool {
	ip, err := netip.ParseAddr(host)
	if host == "" || err == nil && ip.IsUnspecified() {
		return machine
	}
	own := map[netip.Addr]bool{}
	for _, ip := range resolve(ctx, host) {
		own[ip] = true
	}
	return own
}

// resolve returns the addresses of host, none if they cannot be resolved.
func resolve(ctx context.Context, host string) []netip.Addr {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for i := range ips {
		ips[i] = ips[i].Unmap().WithZone("")
	}
	return ips
}
