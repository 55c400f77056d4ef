package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// fleet are servers that share a bucket, with the own log in it.
type fleet struct {
	t      *testing.T
	bucket *s3test.Server
	code   *vcstest.World
	world  *proxytest.World
	key    string // file of the own log's key
	deaf   bool   // a server that is added now gets no news
}

func newFleet(t *testing.T, code *vcstest.World) *fleet {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	f := &fleet{t: t, bucket: s3test.Start(t), code: code, world: newWorld(t), key: filepath.Join(t.TempDir(), "key")}
	store := f.open(t.TempDir(), slog.New(slog.DiscardHandler))
	defer store.Close()
	if _, err := pinlog.Create(t.Context(), pinlog.Config{Dir: t.TempDir(), Name: "log.corp.example", Bucket: &pinlog.Bucket{Store: store, Key: f.key, KeyUnused: true}}); err != nil {
		t.Fatal(err)
	}
	return f
}

// open opens the bucket.
func (f *fleet) open(dir string, log *slog.Logger) *s3.DB {
	f.t.Helper()
	store, err := s3.Open(f.t.Context(), s3.Options{Bucket: "bucket", Endpoint: f.bucket.URL, Region: "us-east-1", PathStyle: true, Spool: filepath.Join(dir, "spool"), Logger: log})
	if err != nil {
		f.t.Fatal(err)
	}
	return store
}

// add adds a server, whose parts change may change.
func (f *fleet) add(change func(*proxy.Config, *vcs.Config)) *hosts {
	t := f.t
	t.Helper()
	logs, dir := new(lockedBuffer), t.TempDir()
	log := slog.New(slog.NewTextHandler(logs, nil))
	store := f.open(dir, log)
	own, err := pinlog.Open(t.Context(), pinlog.Config{Dir: filepath.Join(dir, "log"), Name: "log.corp.example", Bucket: &pinlog.Bucket{Store: store, Key: f.key, Trust: true}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := fetch.New(fetch.Config{List: "off", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	board := news.New(store, log)
	c := proxy.Config{
		Content: content.Config{
			Store: store, Log: own, News: board, Logger: log, Scratch: filepath.Join(dir, "scratch"), Evidence: filepath.Join(dir, "evidence"),
			Times: content.Times{Answer: 2 * time.Minute, Patience: time.Minute, Fresh: time.Hour},
		},
		Settings: content.Settings{Upstream: chain, Policy: ruled(t, "")},
	}
	v := vcs.Config{Dir: filepath.Join(dir, "vcs"), Network: vcs.Network{CAFile: f.code.CAFile(), Lookup: f.code.Lookup, Dial: f.code.Dial}, Timeout: time.Minute, Logger: log}
	if change != nil {
		change(&c, &v)
	}
	source, err := vcs.New(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Tools(); err != nil {
		t.Fatal(err)
	}
	c.Settings.VCS = source
	server, err := proxy.New(c)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(server)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	if !f.deaf {
		running.Go(func() { board.Run(ctx) })
	}
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		closing, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		_ = server.Close(closing) // what runs is aborted
		cancel()
		running.Wait()
		chain.Close()
		_ = source.Close()
		_ = own.Close()
		store.Close()
	})
	return &hosts{fixture: &fixture{t: t, world: f.world, dir: dir, logs: logs, chain: chain, server: server, url: front.URL}, code: f.code, log: own, vcs: source}
}

// A webhook at one server is seen by all: the next list has the new tag, although the stored answer is current by its
// time. A server that cannot tell the others says so, and knows it itself.
func TestPushReachesReplicas(t *testing.T) {
	f := newFleet(t, vcstest.New(t))
	repo := f.code.Module("lib", lib)
	a, b := f.add(nil), f.add(nil)
	list := func(h *hosts) string { return h.ok("corp.example/lib/@v/list") }
	for _, h := range []*hosts{a, b} {
		if got := list(h); got != "v1.0.0\n" {
			t.Fatalf("list %q", got)
		}
	}
	tagged := func(version string) {
		repo.Commit("-- go.mod --\nmodule corp.example/lib\n-- lib.go --\npackage lib // " + version + "\n")
		repo.Tag(version)
	}
	tagged("v1.1.0")
	if got := list(b); got != "v1.0.0\n" {
		t.Fatalf("without a webhook: %q", got)
	}
	a.pushed(repo.URL())
	if got := list(a); got != "v1.0.0\nv1.1.0\n" {
		t.Errorf("at the server with the webhook: %q", got)
	}
	await := func(h *hosts, want string) {
		t.Helper()
		begin := time.Now()
		for deadline := begin.Add(time.Minute); list(h) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after the webhook: %q, want %q", list(h), want)
			}
		}
		t.Logf("seen %v after the webhook", time.Since(begin).Round(time.Millisecond))
	}
	await(b, "v1.0.0\nv1.1.0\n")

	tagged("v1.2.0")
	f.bucket.Fail(func(r s3test.Request) s3test.Fault {
		if strings.HasSuffix(r.Key, "s/pushes") || strings.HasSuffix(r.Key, "s/news") {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	if err := a.server.Pushed(t.Context(), repo.URL()); err == nil {
		t.Error("a push that others cannot be told of: no error")
	}
	if got := list(a); got != "v1.0.0\nv1.1.0\nv1.2.0\n" {
		t.Errorf("at the server with the webhook, without the bucket: %q", got)
	}
	f.bucket.Fail(nil)
	a.pushed(repo.URL()) // the code host sends it again
	await(b, "v1.0.0\nv1.1.0\nv1.2.0\n")
}

// A server that was not told of pushes, because it did not run, asks the repository for what was answered before
// the last of them.
func TestMissedPush(t *testing.T) {
	f := newFleet(t, vcstest.New(t))
	repo := f.code.Module("lib", lib)
	a := f.add(nil)
	a.ok("corp.example/lib/@v/list")
	repo.Tag("v1.1.0")
	a.pushed(repo.URL())
	late := f.add(nil)
	for deadline := time.Now().Add(2 * time.Minute); late.ok("corp.example/lib/@v/list") != "v1.0.0\nv1.1.0\n"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the list is from before the push")
		}
	}
}

// Servers fetch a version from its repository once.
func TestReplicasCloneOnce(t *testing.T) {
	f := newFleet(t, vcstest.New(t))
	f.code.Module("lib", lib)
	a, b := f.add(nil), f.add(nil)
	var clients sync.WaitGroup
	for _, h := range []*hosts{a, b} {
		for _, file := range []string{"info", "mod", "zip"} {
			clients.Go(func() {
				if got := h.get("corp.example/lib/@v/v1.0.0." + file); got.status != http.StatusOK {
					t.Errorf("%s: %v", file, got)
				}
			})
		}
	}
	clients.Wait()
	if n := strings.Count(a.logs.String()+b.logs.String(), "pinned"); n > 1 {
		t.Errorf("%d pins", n)
	}
	if n := a.log.Size(); n != 1 {
		t.Errorf("the log has %d entries", n)
	}
}

// pageRules let the group pay alone read the vanity path, and all users the path of a page.
const pageRules = payPath + "=pay,evil.corp.example=*"

// guardedFleet is a fleet that reads the payment repository with a credential. Only the group pay may read its vanity
// path; dev may read the path of a page that names it. evil is a version by that page which declares no path: nothing in
// it says whose it is.
type guardedFleet struct {
	*fleet
	*guarded
	evil string
}

func newGuardedFleet(t *testing.T) *guardedFleet {
	t.Helper()
	g := startGuarded(t, pageRules)
	var old struct{ Version string }
	if err := json.Unmarshal([]byte(g.ok(evilPath+"/@v/"+g.old+".info", "Authorization", g.dev)), &old); err != nil {
		t.Fatal(err)
	}
	return &guardedFleet{newFleet(t, g.code), g, evilPath + "/@v/" + old.Version}
}

// server adds a server.
func (f *guardedFleet) server() *hosts {
	return f.add(func(c *proxy.Config, v *vcs.Config) {
		v.Netrc, c.Access = f.netrc, f.auth
		c.Settings.Policy = ruled(f.fleet.t, pageRules)
	})
}

// wantHidden checks that a client gets the refusal that says nothing.
func wantHidden(t *testing.T, h *hosts, path, as string) {
	t.Helper()
	if got := h.get(path, "Authorization", as); got.status != http.StatusNotFound {
		t.Errorf("GET %s = %.200v", path, got)
	}
}

// What one server has learned about a repository protects it at another one before that serves anything new of it,
// also if it gets no news. Without the fact, dev could read the repository by the path of the page, to which it has
// a right.
func TestFactsProtectAtReplicas(t *testing.T) {
	f := newGuardedFleet(t)
	f.deaf = true
	b, a := f.server(), f.server()
	// a learns that the repository is that of the rule; b was started before and knows nothing.
	a.ok(payPath+"/@v/v1.0.0.zip", "Authorization", f.pay)
	for _, path := range []string{f.evil + ".zip", f.evil + ".mod", f.evil + ".info", evilPath + "/@v/" + f.old + ".info", evilPath + "/@v/list", evilPath + "/@latest"} {
		wantHidden(t, b, path, f.dev)
	}
	// b serves what a has stored to clients that may read it, and hides it from the others.
	b.ok(payPath+"/@v/v1.0.0.zip", "Authorization", f.pay)
	wantHidden(t, b, payPath+"/@v/v1.0.0.zip", f.dev)
}

// A version that another server has stored under the path of the page, before any knew that a rule protects the
// repository, is refused when one knows it.
func TestFactsComeBeforeVersions(t *testing.T) {
	f := newGuardedFleet(t)
	f.deaf = true
	a, b := f.server(), f.server()
	a.ok(f.evil+".zip", "Authorization", f.dev) // it is known as the repository of the page alone
	a.ok(evilPath+"/@v/"+f.old+".info", "Authorization", f.dev)
	a.ok(payPath+"/@v/v1.0.0.zip", "Authorization", f.pay)
	for _, h := range []*hosts{a, b} {
		wantHidden(t, h, f.evil+".zip", f.dev)
		wantHidden(t, h, evilPath+"/@v/"+f.old+".info", f.dev)
	}
}

// With news, the facts reach a server that serves what it has in memory.
func TestFactsReachMemory(t *testing.T) {
	f := newGuardedFleet(t)
	a, b := f.server(), f.server()
	for range 2 {
		b.ok(f.evil+".mod", "Authorization", f.dev) // it is in memory then
	}
	a.ok(payPath+"/@v/v1.0.0.zip", "Authorization", f.pay)
	for deadline := time.Now().Add(2 * time.Minute); b.get(f.evil+".mod", "Authorization", f.dev).status != http.StatusNotFound; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is still served from memory")
		}
	}
}

// Without the bucket, nothing is served of which the facts are unknown.
func TestFactsWithoutBucket(t *testing.T) {
	f := newGuardedFleet(t)
	f.deaf = true
	b, a := f.server(), f.server()
	a.ok(payPath+"/@v/v1.0.0.zip", "Authorization", f.pay)
	f.bucket.Fail(func(r s3test.Request) s3test.Fault {
		if strings.Contains(r.Key, "s/bindings/") {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	for path, as := range map[string]string{f.evil + ".zip": f.dev, payPath + "/@v/v1.0.0.zip": f.pay} {
		if got := b.get(path, "Authorization", as); got.status < 500 {
			t.Errorf("GET %s = %.200v", path, got)
		}
	}
	f.bucket.Fail(nil)
	b.ok(payPath+"/@v/v1.0.0.zip", "Authorization", f.pay)
	wantHidden(t, b, f.evil+".zip", f.dev)
}

// Each server lists the leaks of all, also of one that has ended, and adds up those of a client.
func TestLeaksOfReplicas(t *testing.T) {
	f := newFleet(t, vcstest.New(t))
	a, b, c := f.add(nil), f.add(nil), f.add(nil)
	for i, h := range []*hosts{a, b} {
		h.server.NoteLeak("both")
		h.server.NoteLeak(fmt.Sprint("only ", i))
		if err := h.server.Close(t.Context()); err != nil { // it saves its list
			t.Error(err)
		}
	}
	c.server.NoteLeak("third")
	leaks, err := c.server.AllLeaks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, leak := range leaks {
		got = append(got, fmt.Sprint(leak.Client, " ", leak.Requests))
	}
	slices.Sort(got)
	if want := []string{"both 2", "only 0 1", "only 1 1", "third 1"}; !slices.Equal(got, want) {
		t.Errorf("leaks %q, want %q", got, want)
	}
	f.bucket.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Before: 403, Code: "AccessDenied"} })
	if _, err := c.server.AllLeaks(t.Context()); err == nil {
		t.Error("without the bucket: no error")
	}
}

// While the bucket is silent, a client waits for the own log no longer than for anything else.
func TestOwnLogOfSilentBucket(t *testing.T) {
	f := newFleet(t, vcstest.New(t))
	h := f.add(func(c *proxy.Config, _ *vcs.Config) {
		mirror, err := sumdb.Open(t.Context(), sumdb.Config{Key: f.world.GOSUMDB(), Store: c.Content.Store})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(mirror.Close)
		c.Content.Databases, c.Content.Unified, c.Content.Times.Answer = []*sumdb.Mirror{mirror}, true, 100*time.Millisecond
	})
	answered := make(chan struct{})
	defer close(answered)
	f.bucket.Fail(func(r s3test.Request) s3test.Fault {
		if strings.Contains(r.Key, "/batches/") {
			return s3test.Fault{Hold: answered}
		}
		return s3test.Fault{}
	})
	a := h.get("sumdb/log.corp.example/lookup/corp.example/lib@v1.0.0")
	if a.status != http.StatusGatewayTimeout {
		t.Errorf("answer %v", a)
	}
}
