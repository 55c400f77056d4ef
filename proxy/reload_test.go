package proxy_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// evil is content that an attacker published under the name of a private module.
const evil = `
-- corp.example/lib@v1.0.0/go.mod --
module corp.example/lib
-- corp.example/lib@v1.0.0/evil.go --
package evil
-- corp.example/lib@v1.9.0/go.mod --
module corp.example/lib
-- corp.example/lib@v1.9.0/evil.go --
package evil
`

// gate is an upstream that delays requests for paths that contain a text.
type gate struct {
	url, text string
	came      chan string
	open      chan struct{}
	once      sync.Once
}

func newGate(t *testing.T, world *proxytest.World, text string) *gate {
	g := &gate{text: text, came: make(chan string, 100), open: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, g.text) {
			g.came <- r.URL.Path
			<-g.open
		}
		world.ServeHTTP(w, r)
	}))
	g.url = server.URL + "/ok"
	t.Cleanup(func() {
		g.release()
		server.Close()
	})
	return g
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

// chainOf returns a chain that is closed at the end of the test.
func chainOf(t *testing.T, list string) *fetch.Chain {
	t.Helper()
	chain, err := fetch.New(fetch.Config{List: list})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	return chain
}

// wantUnnamed checks that no upstream got the name of a private module.
func (h *hosts) wantUnnamed() {
	h.t.Helper()
	for _, path := range h.world.Paths() {
		if strings.Contains(path, "corp.example") {
			h.t.Errorf("the upstream was asked for %s", path)
		}
	}
}

// An upstream's answer about a name from when it was public is never served for the
// private module, even if it is fresh or the repository is not reachable; and vice versa.
func TestReloadAnswers(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Content.Times.Fresh = time.Hour })
	h.world.Add(evil)
	h.code.Module("lib", lib)
	public, private := noPolicy(t), policyOf(t, "corp.example")
	paths := []string{"corp.example/lib/@v/list", "corp.example/lib/@latest"}
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: public, VCS: h.vcs})
	for _, path := range paths {
		if got := h.ok(path); !strings.Contains(got, "v1.9.0") {
			t.Fatalf("GET %s of the public module = %s", path, got)
		}
	}
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: private, VCS: h.vcs})
	h.code.Status(http.StatusServiceUnavailable)
	for _, path := range paths {
		h.wantStatus(path, http.StatusBadGateway)
	}
	h.code.Status(0)
	for _, path := range paths {
		if got := h.ok(path); strings.Contains(got, "v1.9.0") || !strings.Contains(got, "v1.0.0") {
			t.Errorf("GET %s of the private module = %s", path, got)
		}
	}
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: public, VCS: h.vcs})
	for _, path := range paths {
		if got := h.ok(path); !strings.Contains(got, "v1.9.0") {
			t.Errorf("GET %s of the public module = %s", path, got)
		}
	}
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: private})
	h.wantStatus("corp.example/lib/@v/main.info", http.StatusNotFound, "private here")
}

// A request for a private module does not join work for the public one of the same name,
// and the later result of that work changes nothing.
func TestReloadJoinsNothing(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.world.Add(evil)
	h.code.Module("lib", lib)
	g := newGate(t, h.world, "/ok/corp.example/lib/")
	h.server.Reload(content.Settings{Upstream: chainOf(t, g.url), Policy: noPolicy(t), VCS: h.vcs})
	paths := []string{"corp.example/lib/@v/list", "corp.example/lib/@latest", "corp.example/lib/@v/v1.0.0.info", "corp.example/lib/@v/v1.0.0.mod", "corp.example/lib/@v/v1.0.0.zip"}
	var before sync.WaitGroup
	for _, path := range paths {
		before.Go(func() { h.get(path) })
	}
	for range paths {
		<-g.came
	}
	h.server.Reload(content.Settings{Upstream: chainOf(t, g.url), Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	check := func() {
		t.Helper()
		for _, path := range paths {
			if got := h.ok(path); strings.Contains(got, "v1.9.0") || strings.Contains(got, "evil") || strings.HasSuffix(path, ".info") && !strings.Contains(got, "Origin") {
				t.Errorf("GET %s of the private module = %q", path, got)
			}
		}
		for _, path := range paths[2:] {
			if info, err := h.store.Stat(t.Context(), pinnedKey(path)); err != nil || info.Proof != "log.corp.example" {
				t.Errorf("the store has %+v, %v at %s", info, err, path)
			}
		}
	}
	check()
	g.release()
	before.Wait()
	check()
}

// A client that comes after a reload does not wait for the earlier upstream.
func TestReloadUpstream(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	g := newGate(t, world, "/ok/example.com/")
	o := verified()
	o.config = func(c *proxy.Config) { c.Content.Times.Answer = 5 * time.Second }
	f := start(t, world, g.url, o)
	var before sync.WaitGroup
	paths := []string{"example.com/hello/@v/v1.0.0.info", "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip", "example.com/hello/@latest"}
	for _, path := range paths {
		before.Go(func() { f.get(path) })
		<-g.came
	}
	f.server.Reload(content.Settings{Upstream: chainOf(t, world.URL("ok")), Policy: noPolicy(t)})
	for _, path := range paths {
		f.want(path)
	}
	g.release()
	before.Wait()
}

// Nor does it wait for a checksum database behind the earlier upstream.
func TestReloadDatabase(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	g := newGate(t, world, "/lookup/")
	ask := func(chain *fetch.Chain) *sumdb.FetchFunc {
		f := sumdb.FetchFunc(chain.SumDB(proxytest.Database, "http://127.0.0.1:1", true))
		return &f
	}
	var current atomic.Pointer[sumdb.FetchFunc]
	f := start(t, world, g.url, option{config: func(c *proxy.Config) {
		current.Store(ask(c.Settings.Upstream))
		mirror, err := sumdb.Open(t.Context(), sumdb.Config{Key: world.GOSUMDB(), Store: c.Content.Store, Current: func() sumdb.FetchFunc { return *current.Load() }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(mirror.Close)
		c.Content.Databases, c.Content.Times.Answer = []*sumdb.Mirror{mirror}, 5*time.Second
	}})
	var before sync.WaitGroup
	before.Go(func() { f.get("example.com/hello/@v/v1.0.0.mod") })
	<-g.came
	chain := chainOf(t, world.URL("ok"))
	current.Store(ask(chain))
	f.server.Reload(content.Settings{Upstream: chain, Policy: noPolicy(t)})
	f.want("example.com/hello/@v/v1.0.0.mod")
	if a := f.get("sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.0.0"); a.status != http.StatusOK {
		t.Errorf("the record = %v", a)
	}
	g.release()
	before.Wait()
}

// An upstream's earlier answer about a module is not served if the module became private
// during a new request.
func TestReloadStale(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		c.Content.Times.Fresh, c.Content.Times.Stale, c.Content.Fills.Objects = time.Millisecond, time.Hour, 1
	})
	h.world.Add(evil)
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: noPolicy(t), VCS: h.vcs})
	h.ok("corp.example/lib/@v/v1.9.0.info")
	h.ok("corp.example/lib/@v/list")
	if err := h.store.SetState(t.Context(), "corp.example/lib/@v/list", fmt.Appendf(nil, "%d\nv1.9.0\n", time.Now().Add(-30*time.Minute).UnixMilli())); err != nil {
		t.Fatal(err)
	}
	g := newGate(t, h.world, "/ok/example.com/")
	h.server.Reload(content.Settings{Upstream: chainOf(t, g.url), Policy: noPolicy(t), VCS: h.vcs})
	var clients sync.WaitGroup
	clients.Go(func() { h.get("example.com/hello/@v/v1.0.0.info") }) // takes the only place
	<-g.came
	clients.Go(func() {
		if a := h.get("corp.example/lib/@v/list"); a.status != http.StatusServiceUnavailable {
			t.Errorf("GET list = %v", a)
		}
	})
	eventually(t, "it waits for the place", func() bool { return h.metric(t, "assay_places_waiting") == 1 })
	h.server.Reload(content.Settings{Upstream: chainOf(t, g.url), Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	g.release()
	clients.Wait()
}

// A name that became private while a request for it waited for a place is not sent.
func TestReloadQueue(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Content.Fills.Objects, c.Content.Fills.Zips = 1, 1 })
	g := newGate(t, h.world, "/ok/example.com/")
	h.server.Reload(content.Settings{Upstream: chainOf(t, g.url), Policy: noPolicy(t), VCS: h.vcs})
	var running, waiting sync.WaitGroup
	for _, file := range []string{"mod", "zip"} {
		running.Go(func() { h.get("example.com/hello/@v/v1.0.0." + file) })
		<-g.came
	}
	files := []string{"@v/list", "@latest", "@v/main.info", "@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip"}
	for _, file := range files {
		waiting.Go(func() {
			if a := h.get("corp.example/lib/" + file); a.status != http.StatusServiceUnavailable || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("GET %s = %v %v", file, a, a.header)
			}
		})
	}
	eventually(t, "all wait for a place", func() bool { return h.metric(t, "assay_places_waiting") == float64(len(files)) })
	h.server.Reload(content.Settings{Upstream: chainOf(t, g.url), Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	g.release()
	running.Wait()
	waiting.Wait()
	h.wantUnnamed()
}

// The same while a repository is fetched for a public module: its versions are not looked
// up in the public database, and a private request does not join.
func TestReloadDirect(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	direct := h.world.URL("404") + ",direct"
	h.server.Reload(content.Settings{Upstream: chainOf(t, direct), Policy: noPolicy(t), VCS: h.vcs})
	h.code.Hang(true)
	h.code.Requests()
	var before, after sync.WaitGroup
	before.Go(func() { h.get("corp.example/lib/@v/v1.0.0.info") })
	waitUntil(t, func() bool { return len(h.code.Requests()) > 0 })
	h.world.ResetCounts()
	h.server.Reload(content.Settings{Upstream: chainOf(t, direct), Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	after.Go(func() {
		if a := h.get("corp.example/lib/@v/v1.0.0.info"); a.status != http.StatusOK {
			t.Errorf("the private module: %v", a)
		}
	})
	h.wantRunning(1)
	h.code.Hang(false)
	before.Wait()
	after.Wait()
	h.wantUnnamed()
}

func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to pass")
		}
	}
}

// slowStore is a store in which one operation waits.
type slowStore struct {
	storage.Store
	mu      sync.Mutex
	opened  chan struct{} // if not nil, Open waits for it after it has opened an object
	written chan struct{} // if not nil, SetState waits for it before it writes
	came    chan string
}

func (s *slowStore) set(opened, written chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened, s.written = opened, written
}

func (s *slowStore) wait(what string, which func() chan struct{}) {
	s.mu.Lock()
	wait := which()
	s.mu.Unlock()
	if wait != nil {
		s.came <- what
		<-wait
	}
}

func (s *slowStore) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Store.Open(ctx, key)
	s.wait(key, func() chan struct{} { return s.opened })
	return object, err
}

func (s *slowStore) SetState(ctx context.Context, name string, value []byte) error {
	s.wait(name, func() chan struct{} { return s.written })
	return s.Store.SetState(ctx, name, value)
}

// An object that an earlier request read is not in memory for later requests.
func TestReloadHot(t *testing.T) {
	t.Parallel()
	store := &slowStore{came: make(chan string, 100)}
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { store.Store, c.Content.Store = c.Content.Store, store })
	h.world.Add(evil)
	h.code.Module("lib", lib)
	path := "corp.example/lib/@v/v1.0.0.info"
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: noPolicy(t), VCS: h.vcs})
	h.ok(path)
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: noPolicy(t), VCS: h.vcs}) // now it is not in memory
	wait := make(chan struct{})
	store.set(wait, nil)
	var before sync.WaitGroup
	before.Go(func() { h.get(path) })
	<-store.came
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	store.set(nil, nil)
	close(wait)
	before.Wait()
	if got := h.ok(path); !strings.Contains(got, "Origin") {
		t.Errorf("the private module's info is that of the public one: %s", got)
	}
}

// A private module is fetched from its repository even if a public one of the same name
// is stored; and a stored private one is never served as public.
func TestPrivateConfusion(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	mod := module.Version{Path: "corp.example/lib", Version: "v1.0.0"}
	h.world.Add("-- corp.example/lib@v1.0.0/go.mod --\nmodule corp.example/lib\n-- corp.example/lib@v1.0.0/evil.go --\npackage evil\n")
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: noPolicy(t), VCS: h.vcs})
	public := h.ok("corp.example/lib/@v/v1.0.0.zip") // the private pattern is missing
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	h.ok("corp.example/lib/@v/v1.0.0.info")

	h.server.Reload(content.Settings{Upstream: h.chain, Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	private := h.ok("corp.example/lib/@v/v1.0.0.zip")
	if private == public || strings.Contains(private, "evil") {
		t.Error("the public module is served as the private one")
	}
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	if !strings.Contains(h.ok("corp.example/lib/@v/v1.0.0.info"), "Origin") {
		t.Error("the info is that of the public module")
	}
	if _, err := h.log.Find(t.Context(), mod); err != nil {
		t.Error(err)
	}
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: noPolicy(t), VCS: h.vcs})
	if got := h.ok("corp.example/lib/@v/v1.0.0.zip"); got != public {
		t.Error("the private module is served as the public one")
	}
}

// Clients that request a private module do not get the result of a fill that began while
// the module was public.
func TestPrivateConfusionUnderWay(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	large := make([]byte, 1<<20)
	rand.NewChaCha8(sha256.Sum256(nil)).Read(large)
	h.world.AddModule(module.Version{Path: "corp.example/lib", Version: "v1.0.0"}, []txtar.File{{Name: "evil", Data: large}})
	chain, err := fetch.New(fetch.Config{List: h.world.URL("gated")})
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	const key = "corp.example/lib/@v/v1.0.0.zip"
	h.server.Reload(content.Settings{Upstream: chain, Policy: noPolicy(t), VCS: h.vcs})
	public, err := http.Get(h.url + "/" + key)
	if err != nil {
		t.Fatal(err)
	}
	defer public.Body.Close()
	if public.StatusCode != http.StatusOK {
		t.Fatalf("the public module: %s", public.Status)
	}

	h.server.Reload(content.Settings{Upstream: chain, Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	private := h.ok(key)
	if len(private) > 10<<10 {
		t.Error("the public module is served as the private one")
	}
	h.world.OpenGate()
	if body, err := io.ReadAll(public.Body); err == nil { // its last part is never sent
		t.Errorf("the client that asked before has all of it: %d bytes", len(body))
	}
	if again := h.ok(key); again != private {
		t.Error("the private module has changed")
	}
}

// storeWithHook calls a function when an object is opened.
type storeWithHook struct {
	storage.Store
	opened func()
}

func (s *storeWithHook) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Store.Open(ctx, key)
	if s.opened != nil {
		s.opened()
	}
	return object, err
}

// Nor do they get an object that came into memory while the module became private.
func TestPrivateConfusionInMemory(t *testing.T) {
	t.Parallel()
	var store *storeWithHook
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		store = &storeWithHook{Store: c.Content.Store}
		c.Content.Store = store
	})
	h.code.Module("lib", lib)
	h.world.Add("-- corp.example/lib@v1.0.0/go.mod --\nmodule corp.example/lib\n\n// evil\n")
	const key = "corp.example/lib/@v/v1.0.0.mod"
	h.server.Reload(content.Settings{Upstream: h.chain, Policy: noPolicy(t), VCS: h.vcs})
	h.ok(key)
	store.opened = func() {
		store.opened = nil
		h.server.Reload(content.Settings{Upstream: h.chain, Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	}
	h.ok(key)
	if store.opened != nil {
		t.Fatal("nothing was opened")
	}
	for range 2 {
		if got := h.ok(key); strings.Contains(got, "evil") {
			t.Error("the public module is served as the private one")
		}
	}
}
