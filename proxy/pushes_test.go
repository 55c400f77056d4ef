package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// pushed says that a repository has changed.
func (h *hosts) pushed(urls ...string) {
	h.t.Helper()
	if err := h.server.Pushed(h.t.Context(), urls...); err != nil {
		h.t.Error(err)
	}
}

// A client that comes after a push does not miss it, even while the answer from before is
// still on its way.
func TestPushDuringRefresh(t *testing.T) {
	t.Parallel()
	store := &slowStore{came: make(chan string, 100)}
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		c.Content.Times.Fresh = time.Hour
		store.Store, c.Content.Store = c.Content.Store, store
	})
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list") // now the repository is known
	h.pushed(repo.URL())
	wait := make(chan struct{})
	store.set(nil, wait)
	var clients sync.WaitGroup
	clients.Go(func() { h.get("corp.example/lib/@v/list") })
	answered := func() {
		for !strings.HasSuffix(<-store.came, "/@v/list") {
		}
	}
	answered() // with one tag
	repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	h.pushed(repo.URL())
	clients.Go(func() {
		if a := h.get("corp.example/lib/@v/list"); string(a.body) != "v1.0.0\nv1.1.0\n" {
			t.Errorf("list after the push: %v", a)
		}
	})
	answered() // with both, although the first answer is not stored yet
	store.set(nil, nil)
	close(wait)
	clients.Wait()
}

// wantRunning waits until n pieces of work of private modules are under way.
func (h *hosts) wantRunning(n int) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%d are under way", n), func() bool { return h.server.Content().Places()["private"].Stats().Running == n })
}

// wantWaiting waits until n requests for private modules wait for work that is under way.
func (h *hosts) wantWaiting(n int) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%d requests wait", n), func() bool { return h.server.Content().Places()["private"].Stats().Clients == n })
}

// startHangingRun starts a server with a client that waits for the list of
// corp.example/lib, whose host hangs. It returns how many requests the host gets for a
// run, and how many it got for this one.
func startHangingRun(t *testing.T, clients *sync.WaitGroup) (h *hosts, repo *vcstest.Repo, once, asked int) {
	t.Helper()
	h = startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Content.Times.Fresh = time.Hour })
	repo = h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	h.code.Requests()
	h.pushed(repo.URL())
	h.ok("corp.example/lib/@v/list")
	once = len(h.code.Requests())
	h.pushed(repo.URL())
	h.code.Hang(true)
	clients.Go(func() { h.get("corp.example/lib/@v/list") })
	waitUntil(t, func() bool { asked += len(h.code.Requests()); return asked > 0 })
	return h, repo, once, asked
}

// The same while the request to the repository is still running.
func TestPushDuringRun(t *testing.T) {
	t.Parallel()
	var clients sync.WaitGroup
	h, repo, once, asked := startHangingRun(t, &clients)
	h.pushed(repo.URL())
	clients.Go(func() { h.get("corp.example/lib/@latest") })
	clients.Go(func() { h.get("corp.example/lib/@v/list") })
	h.wantRunning(3)
	h.code.Hang(false)
	clients.Wait()
	if asked += len(h.code.Requests()); asked != 2*once {
		t.Errorf("the host had %d requests, want %d: one run from before the push and one for all that came after it", asked, 2*once)
	}
}

// Any number of pushes while the request to the repository is running cause one more
// request.
func TestPushFlood(t *testing.T) {
	t.Parallel()
	var clients sync.WaitGroup
	h, repo, once, asked := startHangingRun(t, &clients)
	for i := range 10 {
		h.pushed(repo.URL())
		clients.Go(func() { h.get("corp.example/lib/@v/list") })
		h.wantRunning(2 + i)
	}
	repo.Tag("v1.1.0")
	h.pushed(repo.URL())
	clients.Go(func() {
		if a := h.get("corp.example/lib/@v/list"); string(a.body) != "v1.0.0\nv1.1.0\n" {
			t.Errorf("list after the last push: %v", a)
		}
	})
	h.wantRunning(12)
	h.code.Hang(false)
	clients.Wait()
	if asked += len(h.code.Requests()); asked > 2*once+3 { // a new tag is fetched, too
		t.Errorf("the host had %d requests, want %d or a few more", asked, 2*once)
	}
}

// An absence from before a push is not remembered after it.
func TestPushDuringAbsence(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	paths := []string{"corp.example/lib/@v/v1.1.0.info", "corp.example/lib/@v/dev.info"}
	h.code.Requests()
	h.code.Hang(true)
	var clients sync.WaitGroup
	for _, path := range paths {
		clients.Go(func() { h.get(path) })
	}
	waitUntil(t, func() bool { return len(h.code.Requests()) > 0 })
	h.wantRunning(len(paths))
	h.pushed(repo.URL())
	h.code.Hang(false)
	clients.Wait()
	repo.Tag("v1.1.0")
	repo.Git("branch", "dev")
	for _, path := range paths {
		h.ok(path)
	}
}

// If a version is pushed while an older request for it, which finds nothing, is running,
// a client that requests it after the push gets it.
func TestPushDuringFill(t *testing.T) {
	t.Parallel()
	held := heldHandler{slog.DiscardHandler, make(chan struct{}, 100), make(chan struct{})}
	h := startPrivate(t, func(c *proxy.Config, v *vcs.Config) { c.Content.Unified, v.Logger = true, slog.New(held) })
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	var clients sync.WaitGroup
	clients.Go(func() { h.get("corp.example/lib/@v/v1.1.0.info") })
	clients.Go(func() { h.get("corp.example/lib/@v/v1.1.0.zip") })
	<-held.came // the repository has answered that it has no such tag
	repo.Tag("v1.1.0")
	h.pushed(repo.URL())
	for _, path := range []string{"corp.example/lib/@v/v1.1.0.info", "corp.example/lib/@v/v1.1.0.zip", // join the fill
		"corp.example/lib/@v/v1.1.0.mod", // joins the fetch of the fill
		"sumdb/log.corp.example/lookup/corp.example/lib@v1.1.0"} {
		clients.Go(func() {
			if a := h.get(path); a.status != http.StatusOK {
				t.Errorf("GET %s after the push = %v", path, a)
			}
		})
	}
	h.wantWaiting(6)
	close(held.open)
	clients.Wait()
}

// heldHandler delays the result when the go command finds nothing.
type heldHandler struct {
	slog.Handler
	came, open chan struct{}
}

func (heldHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h heldHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "go command failed" {
		h.came <- struct{}{}
		<-h.open
	}
	return nil
}

// A tag is visible within Fresh, in the .info of its commit at once, and after a
// webhook of its repository.
func TestPrivateNewTags(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Content.Times.Fresh = time.Hour })
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	h.ok("corp.example/lib/@latest")
	h.wantStatus("corp.example/lib/@v/v1.1.0.info", http.StatusNotFound)
	commit := repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\n" {
		t.Errorf("list = %q, which is not yet an hour old", got)
	}
	if got := h.ok("corp.example/lib/@v/" + commit + ".info"); !strings.Contains(got, `"v1.1.0"`) {
		t.Errorf("the commit is %s", got)
	}
	h.pushed("https://other.example/x")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\n" {
		t.Errorf("list after another repository's push = %q", got)
	}
	h.pushed("git@git.corp.example:lib.git")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\nv1.1.0\n" {
		t.Errorf("list after the push = %q", got)
	}
	if got := h.ok("corp.example/lib/@latest"); !strings.Contains(got, `"v1.1.0"`) {
		t.Errorf("latest after the push = %q", got)
	}
	h.ok("corp.example/lib/@v/v1.1.0.info") // its absence is dropped too

	h.code.Requests()
	h.ok("corp.example/lib/@v/list")
	h.ok("corp.example/lib/@latest")
	if asked := h.code.Requests(); len(asked) != 0 {
		t.Errorf("fresh answers asked for %q", asked)
	}
}

// For a private module, unlike for a public one, an answer older than Fresh is never
// served without asking the repository.
func TestPrivateFreshness(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Content.Times.Fresh = time.Millisecond })
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\nv1.1.0\n" {
		t.Errorf("list = %q", got)
	}
	h.code.Status(http.StatusServiceUnavailable)
	a := h.get("corp.example/lib/@v/list")
	if a.status != http.StatusOK || a.header.Get("Cache-Status") != "assay; hit; detail=stale" || a.header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("while the host is down: %v %v", a, a.header)
	}
}
