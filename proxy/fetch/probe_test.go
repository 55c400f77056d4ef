package fetch_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

const supported = "/sumdb/sum.example/supported"

// Answers that prove an upstream alive, and the upstreams of a list that count.
func TestUnreachable(t *testing.T) {
	dir := filepath.ToSlash(t.TempDir())
	if dir[0] != '/' {
		dir = "/" + dir
	}
	for _, test := range []struct {
		list string
		want bool
	}{
		{"http://good", false},
		{"http://absent", false},
		{"http://denied", false},
		{"http://teapot", false},
		{"http://limited", false},
		{"http://elsewhere", false}, // a redirect is an answer
		{"http://nine", false},      // seconds for each answer
		{"http://rootonly", false},
		{"http://sick", true},
		{"http://broken", true},
		{"http://breaks", true},
		{"http://nobody", true},
		{"http://hole", true},
		{"http://stuck", true},
		{"http://nobody,http://good", false},
		{"http://nobody|http://good", false},
		{"http://good,http://nobody", false},
		{"http://nobody,http://sick|http://hole", true},
		{"http://nobody,direct", false},
		{"http://nobody|direct", false},
		{"http://nobody,off", true},
		{"http://nobody,off,http://good", true},
		{"http://nobody,file://" + dir, false},
		{"http://nobody,file://" + dir + "/gone", true},
		{"off", false},
		{"direct", false},
	} {
		t.Run(test.list, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.host("hole:80", nil)
				for host, handler := range handlers {
					n.serve(host, handler)
				}
				n.serve("limited", status(429))
				n.serve("broken", status(500))
				n.serve("elsewhere", func(w http.ResponseWriter, r *http.Request) {
					http.Redirect(w, r, "http://nobody/", http.StatusFound)
				})
				n.serve("nine", func(http.ResponseWriter, *http.Request) { time.Sleep(9 * time.Second) })
				n.serve("rootonly", func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/" {
						w.WriteHeader(http.StatusBadGateway)
					}
				})
				c := n.chain(fetch.Config{List: test.list, Database: "sum.example"})
				begin := time.Now()
				if got := c.Unreachable(t.Context()); got != test.want {
					t.Errorf("Unreachable is %v, want %v", got, test.want)
				}
				if d := time.Since(begin); d > 16*time.Second {
					t.Errorf("took %v, want at most 16 s", d)
				}
			})
		})
	}
}

// An upstream gets one probe at a time for all callers, and not again for a moment, with a
// path that no client has chosen.
func TestUnreachableIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			asked counter
			well  atomic.Bool
		)
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if asked.next(); r.URL.Path != supported && r.URL.Path != "/" {
				t.Errorf("probed with %s", r.URL.Path)
			}
			time.Sleep(time.Second / 2)
			if !well.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		c := n.chain(fetch.Config{List: "http://host", Database: "sum.example"})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if !c.Unreachable(t.Context()) {
					t.Error("reachable")
				}
			})
		}
		all.Wait()
		if !c.Unreachable(t.Context()) || asked.total() != 2 { // supported and the root
			t.Errorf("%d requests, want 2", asked.total())
		}
		well.Store(true)
		time.Sleep(3 * time.Second)
		if c.Unreachable(t.Context()) || asked.total() != 3 {
			t.Errorf("unreachable, or not 3 requests but %d", asked.total())
		}
	})
}

// For a caller that leaves, and in a closed chain, it is not known.
func TestUnreachableUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.host("hole:80", nil)
		n.serve("good", text("good"))
		c := n.list("http://hole")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if c.Unreachable(ctx) {
			t.Error("the caller's time-out passes for the upstream's")
		}
		c.Close()
		if c.Unreachable(t.Context()) {
			t.Error("a closed chain says that an upstream is unreachable")
		}
		// This machine has no descriptor left.
		c = n.list("http://good")
		n.refuse("good:80", os.NewSyscallError("socket", syscall.EMFILE))
		if c.Unreachable(t.Context()) {
			t.Error("our own limit passes for the upstream's trouble")
		}
	})
}

// While an upstream hangs, callers wait for the first probe, not for each of them.
func TestUnreachableIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("stuck", hang)
		c := n.list("http://stuck")
		if !c.Unreachable(t.Context()) {
			t.Error("reachable")
		}
		for range 30 {
			begin := time.Now()
			if !c.Unreachable(t.Context()) {
				t.Error("reachable")
			}
			if d := time.Since(begin); d > time.Second {
				t.Errorf("took %v", d)
			}
			time.Sleep(time.Second)
		}
	})
}
