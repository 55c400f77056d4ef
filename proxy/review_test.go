package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// evil is what somebody has published under the name of a private module.
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

// gate is an upstream that lets paths with a text in them wait.
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

// chainOf returns a chain that ends with the test.
func chainOf(t *testing.T, list string) *fetch.Chain {
	t.Helper()
	chain, err := fetch.New(fetch.Config{List: list})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	return chain
}

// wantUnnamed checks that no upstream has heard of a private module.
func (h *hosts) wantUnnamed() {
	h.t.Helper()
	for _, path := range h.world.Paths() {
		if strings.Contains(path, "corp.example") {
			h.t.Errorf("the upstream was asked for %s", path)
		}
	}
}

// What an upstream said of a name while it was public is never said of the private
// module, however fresh it is, nor when its repository cannot be asked; and the other
// way round.
func TestReloadRecords(t *testing.T) {
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Fresh = time.Hour })
	h.world.Add(evil)
	h.code.Module("lib", lib)
	public, private := noPolicy(t), policyOf(t, "corp.example")
	paths := []string{"corp.example/lib/@v/list", "corp.example/lib/@latest"}
	h.server.Reload(h.chain, public, h.vcs)
	for _, path := range paths {
		if got := h.ok(path); !strings.Contains(got, "v1.9.0") {
			t.Fatalf("GET %s of the public module = %s", path, got)
		}
	}
	h.server.Reload(h.chain, private, h.vcs)
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
	h.server.Reload(h.chain, public, h.vcs)
	for _, path := range paths {
		if got := h.ok(path); !strings.Contains(got, "v1.9.0") {
			t.Errorf("GET %s of the public module = %s", path, got)
		}
	}
	h.server.Reload(h.chain, private, nil)
	h.wantStatus("corp.example/lib/@v/main.info", http.StatusNotFound, "private here")
}

// A request for a private module does not join what runs for the public one of the
// same name, and what comes of that later changes nothing.
func TestReloadJoinsNothing(t *testing.T) {
	h := startPrivate(t, nil)
	h.world.Add(evil)
	h.code.Module("lib", lib)
	g := newGate(t, h.world, "/ok/corp.example/lib/")
	h.server.Reload(chainOf(t, g.url), noPolicy(t), h.vcs)
	paths := []string{"corp.example/lib/@v/list", "corp.example/lib/@latest", "corp.example/lib/@v/v1.0.0.info", "corp.example/lib/@v/v1.0.0.mod", "corp.example/lib/@v/v1.0.0.zip"}
	var before sync.WaitGroup
	for _, path := range paths {
		before.Go(func() { h.get(path) })
	}
	for range paths {
		<-g.came
	}
	h.server.Reload(chainOf(t, g.url), policyOf(t, "corp.example"), h.vcs)
	check := func() {
		t.Helper()
		for _, path := range paths {
			if got := h.ok(path); strings.Contains(got, "v1.9.0") || strings.Contains(got, "evil") || strings.HasSuffix(path, ".info") && !strings.Contains(got, "Origin") {
				t.Errorf("GET %s of the private module = %q", path, got)
			}
		}
		for _, path := range paths[2:] {
			if info, err := h.store.Stat(t.Context(), path); err != nil || info.Proof != "log.corp.example" {
				t.Errorf("the store has %+v, %v at %s", info, err, path)
			}
		}
	}
	check()
	g.release()
	before.Wait()
	check()
}

// A name that has become private while a request for it waited for a place is not
// sent any more.
func TestReloadQueue(t *testing.T) {
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Fills, c.ZipFills = 1, 1 })
	g := newGate(t, h.world, "/ok/example.com/")
	h.server.Reload(chainOf(t, g.url), noPolicy(t), h.vcs)
	var running, waiting sync.WaitGroup
	for _, file := range []string{"mod", "zip"} {
		running.Go(func() { h.get("example.com/hello/@v/v1.0.0." + file) })
		<-g.came
	}
	for _, file := range []string{"@v/list", "@latest", "@v/main.info", "@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip"} {
		waiting.Go(func() {
			if a := h.get("corp.example/lib/" + file); a.status != http.StatusServiceUnavailable || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("GET %s = %v %v", file, a, a.header)
			}
		})
	}
	time.Sleep(time.Second)
	h.server.Reload(chainOf(t, g.url), policyOf(t, "corp.example"), h.vcs)
	g.release()
	running.Wait()
	waiting.Wait()
	h.wantUnnamed()
}

// The same while a repository is fetched for a public module: what it has is not
// looked up at the public database any more, and a private request does not join.
func TestReloadDirect(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	direct := h.world.URL("404") + ",direct"
	h.server.Reload(chainOf(t, direct), noPolicy(t), h.vcs)
	h.code.Hang(true)
	h.code.Requests()
	var before, after sync.WaitGroup
	before.Go(func() { h.get("corp.example/lib/@v/v1.0.0.info") })
	waitUntil(t, func() bool { return len(h.code.Requests()) > 0 })
	h.world.ResetCounts()
	h.server.Reload(chainOf(t, direct), policyOf(t, "corp.example"), h.vcs)
	after.Go(func() {
		if a := h.get("corp.example/lib/@v/v1.0.0.info"); a.status != http.StatusOK {
			t.Errorf("the private module: %v", a)
		}
	})
	time.Sleep(300 * time.Millisecond)
	h.code.Hang(false)
	before.Wait()
	after.Wait()
	h.wantUnnamed()
}

func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to pass")
		}
	}
}

// slowStore is a store in which one thing waits.
type slowStore struct {
	storage.Store
	mu      sync.Mutex
	opened  chan struct{} // when an object was opened, if not nil
	written chan struct{} // before a record is written, if not nil
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

func (s *slowStore) SetRecord(ctx context.Context, name string, value []byte) error {
	s.wait(name, func() chan struct{} { return s.written })
	return s.Store.SetRecord(ctx, name, value)
}

// What a request from before has read is not in memory for those who come after.
func TestReloadHot(t *testing.T) {
	store := &slowStore{came: make(chan string, 100)}
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { store.Store, c.Store = c.Store, store })
	h.world.Add(evil)
	h.code.Module("lib", lib)
	path := "corp.example/lib/@v/v1.0.0.info"
	h.server.Reload(h.chain, noPolicy(t), h.vcs)
	h.ok(path)
	h.server.Reload(h.chain, noPolicy(t), h.vcs) // it is not in memory now
	wait := make(chan struct{})
	store.set(wait, nil)
	var before sync.WaitGroup
	before.Go(func() { h.get(path) })
	<-store.came
	h.server.Reload(h.chain, policyOf(t, "corp.example"), h.vcs)
	store.set(nil, nil)
	close(wait)
	before.Wait()
	if got := h.ok(path); !strings.Contains(got, "Origin") {
		t.Errorf("the private module's info is that of the public one: %s", got)
	}
}

// A push is not missed by who comes after it while the answer of before is still on
// its way.
func TestPushDuringRefresh(t *testing.T) {
	store := &slowStore{came: make(chan string, 100)}
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		c.Fresh = time.Hour
		store.Store, c.Store = c.Store, store
	})
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list") // the repository is known
	h.server.Pushed(repo.URL())
	wait := make(chan struct{})
	store.set(nil, wait)
	var clients sync.WaitGroup
	clients.Go(func() { h.get("corp.example/lib/@v/list") })
	<-store.came // it was asked, and had one tag
	repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	h.server.Pushed(repo.URL())
	clients.Go(func() {
		if a := h.get("corp.example/lib/@v/list"); string(a.body) != "v1.0.0\nv1.1.0\n" {
			t.Errorf("list after the push: %v", a)
		}
	})
	time.Sleep(300 * time.Millisecond)
	store.set(nil, nil)
	close(wait)
	clients.Wait()
}

// No cache in between keeps that a private module is not there.
func TestPrivateAbsenceIsNotKept(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	for _, path := range []string{"corp.example/lib/@v/v1.0.0.zip", "corp.example/lib/@v/list", "corp.example/lib/@v/main.info"} {
		if a := h.wantStatus("cached-only/"+path, http.StatusNotFound); a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("GET %s: Cache-Control is %q", path, a.header.Get("Cache-Control"))
		}
	}
}

// A code host that does not tell upper case from lower case, or takes .git for
// nothing, has other names for a module than the one in the rule.
func TestAccessOtherNames(t *testing.T) {
	r := startReaders(t)
	r.code.Module("lib", lib)
	r.code.Page("Lib", "corp.example/Lib git https://git.corp.example/lib")
	r.code.Page("lib.git", "corp.example/lib.git git https://git.corp.example/lib")
	for _, name := range []string{"corp.example/!lib", "corp.example/lib.git", "corp.example/!l!i!b.git"} {
		for _, path := range endpoints(name) {
			if a := r.as("", path); a.status != http.StatusNotFound || !strings.Contains(string(a.body), "if it is private, check") {
				t.Errorf("GET %s = %v", path, a)
			}
		}
	}
	if asked := r.code.Requests(); len(asked) > 0 {
		t.Errorf("somebody who may not read made us ask %q", asked)
	}
}

// The same while the repository is still being asked.
func TestPushDuringRun(t *testing.T) {
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Fresh = time.Hour })
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	h.code.Requests()
	h.server.Pushed(repo.URL())
	h.ok("corp.example/lib/@v/list")
	once := len(h.code.Requests())
	h.server.Pushed(repo.URL())
	h.code.Hang(true)
	var clients sync.WaitGroup
	clients.Go(func() { h.get("corp.example/lib/@v/list") })
	asked := 0
	waitUntil(t, func() bool { asked += len(h.code.Requests()); return asked > 0 })
	h.server.Pushed(repo.URL())
	clients.Go(func() { h.get("corp.example/lib/@latest") })
	clients.Go(func() { h.get("corp.example/lib/@v/list") })
	time.Sleep(300 * time.Millisecond)
	h.code.Hang(false)
	clients.Wait()
	if asked += len(h.code.Requests()); asked != 2*once {
		t.Errorf("the host had %d requests, want %d: one run from before the push and one for all that came after it", asked, 2*once)
	}
}

// A page of a private module that sends us elsewhere, to be logged in for instance,
// does not make us say there where we come from.
func TestPrivateReferer(t *testing.T) {
	h := startPrivate(t, nil)
	said := make(chan string, 100)
	h.code.Host("corp.example", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://login.corp.example/", http.StatusFound)
	}))
	h.code.Host("login.corp.example", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		said <- r.Header.Get("Referer")
	}))
	h.wantStatus("corp.example/secret/@v/list", http.StatusNotFound)
	close(said)
	if got, ok := <-said; !ok || got != "" {
		t.Errorf("the host that we were sent to has heard %q, %v", got, ok)
	}
}

// However a path is spelled, and however it is asked for, a module that some may read
// cannot be told from one that is not there.
func TestAccessSpellings(t *testing.T) {
	r := startReaders(t)
	r.code.Module("lib", lib)
	for _, file := range []string{"@v/list", "@latest", "@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/main.info"} {
		for range 2 { // the second one is in memory
			if a := r.as(r.right[0], "corp.example/lib/"+file); a.status != http.StatusOK {
				t.Fatal(a)
			}
		}
	}
	etag := r.as(r.right[0], "corp.example/lib/@v/v1.0.0.mod").header.Get("Etag")
	var requests [][]string
	for _, header := range [][]string{nil, {"Range", "bytes=0-3"}, {"If-None-Match", etag}, {"If-None-Match", "*"}, {"If-Match", etag}, {"If-Range", etag},
		{"If-Modified-Since", "Sat, 21 Nov 2026 00:00:00 GMT"}, {"Disable-Module-Fetch", "true"}, {"Accept-Encoding", "gzip"}} {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "DELETE"} {
			requests = append(requests, append([]string{method}, header...))
		}
	}
	for _, path := range []string{
		"corp.example/NAME/@v/v1.0.0.mod", "corp.example/NAME/@v/v1.0.0.zip", "corp.example/NAME/@v/v1.0.0.info", "corp.example/NAME/@latest", "corp.example/NAME/@v/list",
		"corp.example/NAME/@v/v1.0.0.mod/", "/corp.example/NAME/@v/v1.0.0.mod", "corp.example//NAME/@v/v1.0.0.mod", "corp.example/NAME//@v/v1.0.0.mod", "corp.example/NAME/@v//v1.0.0.mod",
		"corp.example%2FNAME/@v/v1.0.0.mod", "corp.example/NAME/%40v/v1.0.0.mod", "%63orp.example/NAME/@v/v1.0.0.mod", "corp.example/NAME/@v/v1%2e0.0.mod", "corp.example/NAME%2F@v%2Fv1.0.0.mod",
		"corp.example%252FNAME/@v/v1.0.0.mod", "corp.example/./NAME/@v/v1.0.0.mod", "corp.example/x/../NAME/@v/v1.0.0.mod", "corp.example/NAME/@v/v1.0.0.MOD", "corp.example/NAME/@v/v1.0.mod",
		"corp.example/NAME/@v/v1.info", "corp.example/NAME/@v/v1.0.0+incompatible.info", "corp.example/NAME/@v/!main.info", "corp.example/NAME/@v/", "corp.example/NAME/", "corp.example/NAME",
		"cached-only/corp.example/NAME/@v/v1.0.0.mod", "cached-only//corp.example/NAME/@v/v1.0.0.mod", "cached-only/cached-only/corp.example/NAME/@v/v1.0.0.mod", "mod/corp.example/NAME/@v/v1.0.0.mod",
		"corp.example/NAME/@v/v1.0.0.mod?x=y", "corp.example/NAME/@v/v1.0.0.ziphash", "corp.example/NAME/v2/@v/list", "corp.example/NAME/sub/@latest",
		"sumdb/log.corp.example/lookup/corp.example/NAME@v1.0.0", "sumdb/log.corp.example/lookup/corp.example/NAME@v1.0.0/", "sumdb//log.corp.example/lookup/corp.example/NAME@v1.0.0",
		"sumdb/log.corp.example/lookup/corp.example%2FNAME%40v1.0.0", "sumdb/" + proxytest.Database + "/lookup/corp.example/NAME@v1.0.0", "sumdb/nosuch.example/lookup/corp.example/NAME@v1.0.0",
	} {
		for _, request := range requests {
			ask := func(name string) string {
				header := append([]string{"Authorization", r.wrong["wrong group"], "X-Test-Client", path}, request[1:]...)
				a := r.do(request[0], strings.ReplaceAll(path, "NAME", name), header...)
				if a.err != nil || a.status < 400 {
					t.Errorf("%q %s of %s: %v", request, path, name, a)
				}
				a.header.Del("Date")
				a.header.Del("Content-Length") // the name is in it
				return strings.ReplaceAll(fmt.Sprint(a.status, a.header, string(a.body)), name, "NAME")
			}
			if there, not := ask("lib"), ask("lib/nothing"); there != not {
				t.Errorf("%q %s is told apart:\n%s\n%s", request, path, there, not)
			}
		}
	}
}

// Our log has no hash of an info. One on the disk that is of another version is not
// served all the same.
func TestPrivateTamperedInfo(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	key := "corp.example/lib/@v/v1.0.0.info"
	good := h.ok(key)
	h.stop()
	store, err := storage.Open(filepath.Join(h.dir, "data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := store.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	replaceStored(t, store, info, `{"Version":"v1.9.9","Time":"2020-01-01T00:00:00Z"}`)
	store.Close()
	again := openPrivate(t, h.world, h.code, h.dir, nil)
	if got := again.ok(key); got != good {
		t.Errorf("the info is %s", got)
	}
}

// countedStore counts what is read whole, which takes a while.
type countedStore struct {
	storage.Store
	read atomic.Int32
}

type countedObject struct {
	storage.Object
	s *countedStore
}

func (s *countedStore) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	return countedObject{object, s}, nil
}

func (o countedObject) WriteTo(w io.Writer) (int64, error) {
	o.s.read.Add(1)
	time.Sleep(200 * time.Millisecond)
	return o.Object.WriteTo(w)
}

// After a restart everybody asks for the same zip. It is compared with the log once,
// not once for each with a copy on the disk for each.
func TestPrivateCheckedOnce(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	store := &countedStore{}
	again := openPrivate(t, h.world, h.code, h.dir, func(c *proxy.Config, _ *vcs.Config) { store.Store, c.Store = c.Store, store })
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			if a := again.do(http.MethodHead, "corp.example/lib/@v/v1.0.0.zip"); a.status != http.StatusOK {
				t.Error(a)
			}
		})
	}
	clients.Wait()
	if n := store.read.Load(); n != 1 {
		t.Errorf("the zip was read %d times, want once", n)
	}
}
