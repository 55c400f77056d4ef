package proxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
)

// One client that requests 1,000 different hanging modules does not affect misses of
// other clients, of new modules or new files.
func TestOneClientsHangingModules(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	var archive strings.Builder
	for i := range 30 {
		fmt.Fprintf(&archive, "-- good.example/m%d@v1.0.0/go.mod --\nmodule good.example/m%[1]d\n", i)
	}
	world.Add(archive.String())
	h := hang(t, world, func(path string) bool { return strings.Contains(path, "/hang.example/") })
	o := verified()
	o.budget = fetch.Budget{FirstByte: 2 * time.Second, Answer: 20 * time.Second} // healthy requests need time on a busy machine
	o.config = func(c *proxy.Config) { byClient(c); c.Content.Times.Answer = 25 * time.Second }
	f := start(t, world, h.url, o)
	t.Cleanup(h.release)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	var mallory sync.WaitGroup
	for i := range 1000 {
		mallory.Go(func() {
			if w := f.ask(r, "192.0.2.66", fmt.Sprintf("hang.example/m%d/@v/v1.0.0.info", i)); w.Code < 500 {
				t.Errorf("what hangs is answered with %d", w.Code)
			}
		})
	}
	eventually(t, "the hanging ones have their places", func() bool { return h.now.Load() >= 40 })
	for i := range 30 {
		for _, file := range []string{"list", "v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip"} {
			path := fmt.Sprintf("good.example/m%d/@v/%s", i, file)
			if w := f.ask(r, fmt.Sprint("192.0.2.", i%5), path); w.Code != http.StatusOK {
				t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
			}
		}
	}
	h.release()
	mallory.Wait()
}

// A go command requests all prefixes of a path with six elements. An upstream that
// answers 500 for modules that it does not have stays in use, for the module that it has
// and for others.
func TestPathOfSixElements(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	world.Add("-- deep.example/a/b@v1.0.0/go.mod --\nmodule deep.example/a/b\n")
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		if world.ServeHTTP(recorder, r); recorder.Code == http.StatusNotFound {
			recorder.Code = http.StatusInternalServerError
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	}))
	t.Cleanup(upstream.Close)
	f := start(t, world, upstream.URL+"/ok", verified())
	for range 2 {
		var all sync.WaitGroup
		for _, prefix := range []string{"deep.example", "deep.example/a", "deep.example/a/b", "deep.example/a/b/c", "deep.example/a/b/c/d", "deep.example/a/b/c/d/e"} {
			all.Go(func() {
				want := http.StatusBadGateway
				if prefix == "deep.example/a/b" {
					want = http.StatusOK
				}
				if a := f.get(prefix + "/@v/list"); a.status != want {
					t.Errorf("%s: %v, want %d", prefix, a, want)
				}
			})
		}
		all.Wait()
	}
	for _, path := range []string{"deep.example/a/b/@v/v1.0.0.mod", "deep.example/a/b/@v/v1.0.0.zip", "example.com/hello/@v/v1.0.0.zip"} {
		f.want(path)
	}
	if a := f.get("deep.example/a/b/c/@v/list"); a.status != http.StatusBadGateway || a.header.Get("Retry-After") == "" {
		t.Errorf("what failed a moment ago: %v, Retry-After %q", a, a.header.Get("Retry-After"))
	}
}

// An upstream always answers, but later than an attempt lasts and than a client waits:
// the first client gets a 504, the work continues, once, and the next client gets its
// result.
func TestLateUpstream(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"example.com/hello/@v/v1.0.0.info", "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip",
		"example.com/hello/@v/list", "example.com/hello/@latest", lookups + "example.com/hello@v1.0.0",
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			if strings.HasSuffix(path, "@latest") {
				world.Set(path, world.File("example.com/hello/@v/v1.1.0.info"))
			}
			answered := make(chan struct{}) // closed when the first client is
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, path) {
					time.Sleep(1500 * time.Millisecond)
					select {
					case <-answered:
					case <-r.Context().Done():
					}
					if r.Context().Err() != nil { // both may have come
						return
					}
				}
				world.ServeHTTP(w, r)
			}))
			t.Cleanup(upstream.Close)
			o := verified()
			o.budget = fetch.Budget{FirstByte: 500 * time.Millisecond, Answer: 1200 * time.Millisecond}
			o.config = func(c *proxy.Config) { c.Content.Times.Answer = 1300 * time.Millisecond }
			f := start(t, world, upstream.URL+"/ok", o)
			first := f.get(path)
			close(answered)
			if first.status != http.StatusGatewayTimeout || first.header.Get("Retry-After") == "" {
				t.Fatalf("the first client: %v, Retry-After %q, want 504 with one", first, first.header.Get("Retry-After"))
			}
			var last response
			eventually(t, "the next client finds it done", func() bool {
				last = f.get(path)
				return last.status == http.StatusOK
			})
			if !strings.HasPrefix(path, "sumdb/") && string(last.body) != string(world.File(path)) {
				t.Errorf("the next client has %q", last.body)
			}
			if n := world.Count(path); n > 2 { // aborted ones did not come so far
				t.Errorf("the upstream was asked %d times to the end", n)
			}
		})
	}
}
