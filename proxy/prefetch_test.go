package proxy_test

import (
	"context"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/request"
)

// ahead is a client for which an object is prefetched.
type ahead struct{}

func (ahead) Key() string         { return "192.0.2.1" }
func (ahead) Request() string     { return "" }
func (ahead) Site() string        { return "192.0.2.1" }
func (ahead) Keep(int) error      { return nil }
func (ahead) HasCredential() bool { return false }
func (ahead) Covers(string) bool  { return true }
func (ahead) In(string) bool      { return false }
func (ahead) Limited() bool       { return false }

// prefetch makes the server prefetch a path.
func (f *fixture) prefetch(path string) {
	f.t.Helper()
	req, err := request.Parse(path)
	if err != nil {
		f.t.Fatal(err)
	}
	origin, q := f.server.Content().Origin(req.Module), content.Ask{Client: ahead{}, Req: req, Path: path}
	if err := origin.Admit(f.t.Context(), &q); err != nil {
		f.t.Fatal(err)
	}
	origin.Prefetch(f.t.Context(), &q, func(context.Context, bool, error) {})
}

func (f *fixture) objects() places.Stats { return f.server.Content().Places()["objects"].Stats() }

// A prefetched object is a hit, and is fetched once.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	const path = "example.com/hello/@v/v1.0.0.mod"
	f.prefetch(path)
	waitUntil(t, func() bool { return f.holds(path) })
	f.prefetch(path)
	if a := f.want(path); a.header.Get("Cache-Status") != "assay; hit" {
		t.Errorf("Cache-Status %q, want a hit", a.header.Get("Cache-Status"))
	}
	if n := world.Count(path); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// A prefetch takes no place that a client needs: it does not wait for a place, and yields
// the one that it has.
func TestPrefetchYields(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	g := newGate(t, world, "/hello/@v/v1.1.0")
	o := verified()
	o.config = func(c *proxy.Config) { c.Content.Fills.Objects = 1 }
	f := start(t, world, g.url, o)
	f.prefetch("example.com/hello/@v/v1.1.0.info")
	<-g.came // it has the only place
	f.want("example.com/hello/@v/v1.0.0.info")
	if n := f.objects().Abandoned; n != 1 {
		t.Errorf("%d fetches have yielded, want the one ahead", n)
	}

	var clients sync.WaitGroup
	clients.Go(func() { f.get("example.com/hello/@v/v1.1.0.mod") })
	<-g.came // a client has the only place
	f.prefetch("example.com/major/v2/@v/v2.3.4.info")
	if n := f.objects().Waiting; n != 0 {
		t.Errorf("%d fetches wait, want none", n)
	}
	g.release()
	clients.Wait()
	if n := world.Count("example.com/major/v2/@v/v2.3.4.info"); n != 0 {
		t.Errorf("what would have had to wait was asked for %d times", n)
	}
}
