package egress_test

import (
	"net/netip"
	"testing"

	"github.com/assay-proxy/assay/internal/egress"
)

func TestAllowed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		addr             string
		public, intranet bool
	}{
		{"198.51.100.7", true, true}, {"2606:4700::1111", true, true}, {"::ffff:198.51.100.7", true, true},
		{"64:ff9b::c633:6407", true, true}, // 198.51.100.7 behind NAT64
		{"10.1.2.3", false, true}, {"172.16.0.9", false, true}, {"192.168.7.7", false, true}, {"fd12::7", false, true},
		{"::ffff:10.1.2.3", false, true}, {"64:ff9b::a01:203", false, true},
		{"127.0.0.1", false, false}, {"127.9.9.9", false, false}, {"::1", false, false}, {"::ffff:127.0.0.1", false, false}, {"64:ff9b::7f00:1", false, false},
		{"0.0.0.0", false, false}, {"::", false, false}, {"::ffff:0.0.0.0", false, false}, {"0.1.2.3", false, false}, {"::127.0.0.1", false, false},
		{"169.254.169.254", false, false}, {"::ffff:169.254.169.254", false, false}, {"fe80::1", false, false}, {"fe80::1%lo", false, false}, {"64:ff9b::a9fe:a9fe", false, false},
		{"fd00:ec2::254", false, false}, {"fd20:ce::254", false, false}, {"168.63.129.16", false, false}, {"100.100.100.200", false, false},
		{"224.0.0.1", false, false}, {"255.255.255.255", false, false}, {"ff02::1", false, false}, {"fec0::1", false, false}, {"2002:7f00:1::", false, false},
	} {
		addr := netip.MustParseAddr(test.addr)
		for reach, want := range map[egress.Reach]bool{egress.Public: test.public, egress.Intranet: test.intranet} {
			if got, err := egress.Allowed([]netip.Addr{addr}, reach); err != nil || len(got) == 1 != want {
				t.Errorf("Allowed(%s, %d) = %v, %v, want %v", addr, reach, got, err, want)
			}
		}
	}
	if got, err := egress.Allowed([]netip.Addr{{}}, egress.Intranet); err != nil || len(got) != 0 {
		t.Errorf("no address is allowed: %v, %v", got, err)
	}
}

// No address of this machine is allowed, in any network.
func TestMachine(t *testing.T) {
	t.Parallel()
	own, err := egress.Machine()
	if err != nil || len(own) == 0 {
		t.Fatalf("Machine() = %v, %v", own, err)
	}
	for addr := range own {
		spellings := []netip.Addr{addr}
		if addr.Is4() {
			spellings = append(spellings, netip.AddrFrom16(addr.As16())) // ::ffff:a.b.c.d
		}
		if got, err := egress.Allowed(spellings, egress.Intranet); err != nil || len(got) != 0 {
			t.Errorf("Allowed(%s) = %v, %v", addr, got, err)
		}
	}
}

func TestAllowedName(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"cdn.example": true, "CDN.example.": true, "cdn": true, "198.51.100.7": true, "2606:4700::1111": true, "1.cdn.example": true,
		"localhost": false, "LOCALHOST.": false, "a.localhost": false, "127.0.0.1": false, "::1": false, "10.1.2.3": false, "169.254.169.254": false,
		"127.1": false, "2130706433": false, "0x7f000001": false, "0x7f.1": false, "0177.0.0.01": false, "": false, ".": false,
	} {
		if got := egress.AllowedName(host, egress.Public); got != want {
			t.Errorf("AllowedName(%q) = %v", host, got)
		}
	}
}
