package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/proxy"
)

// These tests are about prediction under attack, and at its limits.

// wantPredicted checks that the counts of predictions agree: what was fetched is used, wasted or still open.
func (f *fixture) wantPredicted() {
	f.t.Helper()
	for _, unit := range []string{"", "bytes_"} {
		settled := f.metric(f.t, "assay_predicted_used_"+unit+"total") + f.metric(f.t, "assay_predicted_wasted_"+unit+"total")
		if all := f.metric(f.t, "assay_predicted_"+unit+"total"); settled > all {
			f.t.Errorf("%v %sare used or wasted, of %v that were predicted", settled, unit, all)
		}
	}
}

// addressed is predicting for clients whose address is in a header.
func addressed() option {
	return predictingWith(func(c *proxy.Config) {
		c.Remote = func(r *http.Request) string { return r.Header.Get("Address") }
	})
}

// A party with 1,000 addresses, each of which makes Assay predict and leaves, takes no prediction from a
// client that comes meanwhile, and no answer.
func TestPredictCrowd(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func(i int) string{
		"one site":       func(i int) string { return fmt.Sprintf("2001:db8:1::%x", i) },
		"IPv6 sites":     func(i int) string { return fmt.Sprintf("2001:db8:%x::1", i) },
		"IPv4 addresses": func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/256, i%256) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			var hostile []string
			for i := range 20 {
				var mod strings.Builder
				fmt.Fprintf(&mod, "-- hostile.example/%d@v1.0.0/go.mod --\nmodule hostile.example/%d\n", i, i)
				for j := range 3 {
					fmt.Fprintf(&mod, "require unused.example/%d-%d v1.0.0\n", i, j)
				}
				world.Add(mod.String())
				hostile = append(hostile, fmt.Sprintf("hostile.example/%d/@v/v1.0.0.mod", i))
			}
			paths := graph(world, 30, "")
			f := start(t, world, world.URL("ok"), addressed())
			next := 0
			crowd := func() { // requests of some of the addresses
				var clients sync.WaitGroup
				for range 8 {
					from := address(next)
					path, absent := hostile[next%len(hostile)], fmt.Sprintf("absent.example/%d/@latest", next)
					next++
					clients.Go(func() {
						f.get(absent, "Address", from) // no hit, so that the client is noted
						if a := f.get(path, "Address", from); a.status != http.StatusOK {
							t.Errorf("GET %s: %v", path, a)
						}
					})
				}
				clients.Wait()
			}
			for range 1000/8 - 92 {
				crowd()
			}
			predicted := 0
			want := func(path string) {
				t.Helper()
				if f.holds(path) {
					predicted++
				}
				if a := f.get(path, "Address", "192.0.2.1"); a.status != http.StatusOK {
					t.Errorf("GET %s: %v", path, a)
				}
			}
			want("graph.example/old/@v/v1.0.0.mod")
			for _, kind := range []string{"mod", "info", "zip"} {
				for _, path := range paths {
					want(path + kind)
					crowd()
					f.idle()
				}
			}
			if predicted < 60 {
				t.Errorf("%d of 91 requests were predicted", predicted)
			}
			for name, of := range f.server.Content().Places() {
				if stats := of.Stats(); stats.ClientFull+stats.Full+stats.Late > 0 {
					t.Errorf("%s: %+v, want no refusal", name, stats)
				}
			}
			f.wantPredicted()
		})
	}
}
