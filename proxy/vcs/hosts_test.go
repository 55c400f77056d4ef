package vcs_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// twoHosts returns a world in which corp.example/hello is on a host that hangs, and
// corp.example/well on another one.
func twoHosts(t *testing.T) *vcstest.World {
	w := vcstest.New(t)
	const second = "git2.corp.example"
	w.Module("hello", hello)
	r := w.Module("well", strings.ReplaceAll(hello, "/hello", "/well"))
	w.Host(second, w.Git())
	w.Page("well", "corp.example/well git "+strings.Replace(r.URL(), vcstest.GitHost, second, 1))
	w.Hang(true)
	return w
}

// hold requests modules on the host that hangs n times, and returns when as many runs as
// possible wait. They end with the test.
func (s *source) hold(w *vcstest.World, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for { // the test ends first, unless another run was faster
				_, _, err := s.download("corp.example/hello", "v1.0.0")
				if !errors.Is(err, vcs.ErrBusy) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	s.t.Cleanup(wg.Wait)
	s.t.Cleanup(func() { w.Hang(false) })
	waitFor(s.t, "a run at the host that hangs", func() bool { return s.gauge("assay_vcs_running") > 0 })
}

// A host that hangs does not block other hosts, even if the same page names both.
func TestHungHost(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	s := newSource(t, w, func(c *vcs.Config) { c.Jobs = 2 })
	w.Module("hello2", strings.ReplaceAll(hello, "/hello", "/hello2"))
	s.hold(w, 3)
	go func() { _, _, _ = s.download("corp.example/hello2", "v1.0.0") }() // of another repository there
	s.want("corp.example/well", "v1.0.0")
	if _, err := s.Versions(t.Context(), "corp.example/well", vcs.Private); err != nil {
		t.Error(err)
	}
}

// A list does not wait for downloads, even if there is one place.
func TestListsDoNotWait(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	s := newSource(t, w, func(c *vcs.Config) { c.Jobs = 1 })
	s.hold(w, 2)
	if v, err := s.Versions(t.Context(), "corp.example/well", vcs.Private); err != nil || v.Latest.Version != "v1.0.0" {
		t.Errorf("%+v, %v", v, err)
	}
}

// A list does not wait for a download from its own repository.
func TestListDuringDownload(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	const second = "git2.corp.example"
	r := w.Module("hello", hello)
	var slow atomic.Bool
	slow.Store(true)
	came, release := make(chan struct{}, 10), make(chan struct{})
	w.Host(second, http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if slow.Load() {
			came <- struct{}{}
			<-release
		}
		w.Git().ServeHTTP(rw, req)
	}))
	w.Page("hello", "corp.example/hello git "+strings.Replace(r.URL(), vcstest.GitHost, second, 1))
	s := newSource(t, w, nil)
	downloaded := make(chan error, 1)
	go func() {
		_, _, err := s.download("corp.example/hello", "v1.0.0")
		downloaded <- err
	}()
	<-came
	slow.Store(false)
	if v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); err != nil || v.Latest.Version != "v1.0.0" {
		t.Errorf("%+v, %v", v, err)
	}
	select {
	case err := <-downloaded:
		t.Errorf("the download did not last: %v", err)
	default:
	}
	close(release)
	if err := <-downloaded; err != nil {
		t.Error(err)
	}
}

// A client with many requests to a host does not block other clients: they are not refused,
// and do not wait for all of its requests.
func TestGreedyClient(t *testing.T) {
	t.Parallel()
	greedy, other := vcs.WithClient(t.Context(), "greedy"), vcs.WithClient(t.Context(), "other")
	var limit vcs.HostLimit
	var leave []func()
	for {
		l, err := limit.Enter(greedy, "git.corp.example")
		if errors.Is(err, vcs.ErrBusy) {
			break
		}
		leave = append(leave, l)
	}
	for _, ctx := range []context.Context{other, t.Context()} {
		l, err := limit.Enter(ctx, "git.corp.example")
		if err != nil {
			t.Fatalf("refused because of %d of one client: %v", len(leave), err)
		}
		leave = append(leave, l)
	}
	for _, l := range leave {
		l()
	}
	if _, err := limit.Enter(greedy, "git.corp.example"); err != nil {
		t.Errorf("all have left: %v", err)
	}

	synctest.Test(t, func(t *testing.T) {
		var places vcs.Places
		var running sync.WaitGroup
		order := make(chan string, 10)
		take := func(ctx context.Context, name string) {
			running.Go(func() {
				release, err := places.Take(ctx, 2)
				if err != nil {
					t.Error(err)
				}
				order <- name
				time.Sleep(time.Second)
				release()
			})
			synctest.Wait()
		}
		for range 6 {
			take(vcs.WithClient(t.Context(), "greedy"), "greedy")
		}
		take(vcs.WithClient(t.Context(), "other"), "other")
		var got []string
		for range 7 {
			got = append(got, <-order)
		}
		if i := slices.Index(got, "other"); i != 2 && i != 3 { // two begin at the same moment
			t.Errorf("places went to %v", got)
		}
		running.Wait()
	})
}

// The queue for a host that hangs is limited, so that it cannot block the proxy.
func TestCrowd(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	s := newSource(t, w, func(c *vcs.Config) { c.Jobs = 2 })
	s.hold(w, vcs.MaxAtHost)
	waitFor(t, "a refusal", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		err := s.Download(ctx, module.Version{Path: "corp.example/hello", Version: "v1.0.0"}, vcs.Private, func(vcs.Files) error { return nil })
		var told *vcs.Error
		return errors.Is(err, vcs.ErrBusy) && errors.As(err, &told) && told.Host == vcstest.GitHost
	})
	s.want("corp.example/well", "v1.0.0")
}
