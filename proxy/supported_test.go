package proxy_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

const (
	supported = "sumdb/" + proxytest.Database + "/supported"
	latest    = "sumdb/" + proxytest.Database + "/latest"
)

// The server promises to answer for a database only with a head: a stored one, or one
// that comes in time. The response is never a 404, after which a client would contact the
// database.
func TestSupported(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	for name, tt := range map[string]struct {
		list, path string
		status     int
		text       string
	}{
		"fetched":               {world.URL("ok"), supported, http.StatusOK, ""},
		"refused once":          {world.URL("sumdb-503-once"), supported, http.StatusOK, ""},
		"refused":               {world.URL("sumdb-503"), supported, http.StatusServiceUnavailable, "no verified tree head of " + proxytest.Database},
		"hangs":                 {world.URL("sumdb-hang"), supported, http.StatusServiceUnavailable, "no verified tree head"},
		"garbage":               {world.URL("sumdb-html"), supported, http.StatusServiceUnavailable, "not verified"},
		"not at the upstream":   {world.URL("sumdb-404"), supported, http.StatusServiceUnavailable, "no verified tree head"}, // the database itself is dead
		"upstream dead":         {"http://127.0.0.1:1", supported, http.StatusServiceUnavailable, "no verified tree head"},
		"no upstream":           {"off", supported, http.StatusServiceUnavailable, "has no upstream"},
		"nothing to be fetched": {world.URL("ok"), "cached-only/" + supported, http.StatusServiceUnavailable, "forbids fetching"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := verified()
			if tt.status != http.StatusOK {
				o.budget = quick
				o.config = func(c *proxy.Config) { c.Content.Times.Answer = time.Second }
			}
			f := start(t, world, tt.list, o)
			begin := time.Now()
			if tt.status == http.StatusOK {
				if a := f.get(tt.path); a.status != http.StatusOK || len(a.body) != 0 {
					t.Errorf("%s = %v", tt.path, a)
				}
				return
			}
			a := f.wantStatus(tt.path, tt.status, tt.text)
			if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Retry-After") == "" {
				t.Errorf("headers %v", a.header)
			}
			if tt.list == world.URL("sumdb-hang") && time.Since(begin) < time.Second {
				t.Errorf("it did not wait for its answer time, but %v", time.Since(begin))
			}
		})
	}
}

// A stored head is enough, whatever the state of the upstream; a database that was not
// reachable at first is served as soon as it is.
func TestSupportedLater(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	o := verified()
	o.budget = quick
	f := start(t, world, world.URL("sumdb-503"), o)
	f.wantStatus(supported, http.StatusServiceUnavailable)
	f.close()
	for _, list := range []string{world.URL("ok"), world.URL("sumdb-503"), world.URL("hang"), "http://127.0.0.1:1", "off"} {
		f.open(list, o)
		for _, path := range []string{supported, "cached-only/" + supported} {
			if a := f.get(path); a.status != http.StatusOK {
				t.Errorf("upstream %s: %s = %v", list, path, a)
			}
		}
		f.close()
	}
}

// Many clients without a head make one request.
func TestSupportedIsShared(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	statuses := make(chan int)
	for range 50 {
		go func() { statuses <- f.get(supported).status }()
	}
	for range 50 {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
	if n := world.Count(latest); n != 1 {
		t.Errorf("asked for the head %d times, want once", n)
	}
}
