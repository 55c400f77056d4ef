package access_test

import (
	"strings"
	"testing"

	"github.com/assay-proxy/assay/access"
)

func TestClientAndSite(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, tt := range []struct{ address, client, site string }{
		{"192.0.2.1", "192.0.2.1", "192.0.2.1"},
		{"192.0.2.1:443", "192.0.2.1", "192.0.2.1"},
		{"::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"},
		{"[::ffff:192.0.2.1]:443", "192.0.2.1", "192.0.2.1"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"2001:db8:1:2::/64", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"2001:db8:1::/64", "2001:db8:1::/64", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::/64", "fe80::/48"},
		{"::1", "::/64", "::/48"},
		{"@", "@", "@"},
		{"", "unknown", "unknown"},
		{long, long[:100], long[:100]},
	} {
		if client := access.ClientOf(tt.address); client != tt.client {
			t.Errorf("ClientOf(%q) = %q, want %q", tt.address, client, tt.client)
		}
		if site := access.SiteOf(tt.address); site != tt.site {
			t.Errorf("SiteOf(%q) = %q, want %q", tt.address, site, tt.site)
		}
		if site := access.SiteOf(access.ClientOf(tt.address)); site != tt.site {
			t.Errorf("the site of the client at %q is %q, want %q", tt.address, site, tt.site)
		}
	}
}
