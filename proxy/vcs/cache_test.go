package vcs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// copies returns the number of clones.
func (s *source) copies() int {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "repos"))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(entries)
}

// gauge returns the value of a metric without labels.
func (s *source) gauge(name string) float64 {
	s.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name })
	if i < 0 {
		s.t.Fatalf("no metric %s", name)
	}
	m := families[i].GetMetric()[0]
	return m.GetGauge().GetValue() + m.GetCounter().GetValue()
}

// waitFor waits until the condition is true.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// repositoriesAsked returns the repositories of requests to the git host.
func repositoriesAsked(requests []string) map[string]int {
	asked := map[string]int{}
	for _, request := range requests {
		if rest, ok := strings.CutPrefix(request, "GET "+vcstest.GitHost+"/"); ok {
			name, _, _ := strings.Cut(rest, ".git/")
			asked[name]++
		}
	}
	return asked
}

// fetched returns the repositories from which git requested more than the list of
// references, which takes one POST for each GET of git's protocol.
func fetched(requests []string) (names []string) {
	lists := repositoriesAsked(requests)
	for name := range lists {
		posts := 0
		for _, request := range requests {
			if strings.HasPrefix(request, "POST "+vcstest.GitHost+"/"+name+".git/") {
				posts++
			}
		}
		if posts > lists[name] {
			names = append(names, name)
		}
	}
	return names
}

// A repository that was removed has no versions any more; the versions in its clone can
// still be downloaded.
func TestVanishedRepository(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.0.0")
	r.Remove()
	s.want("corp.example/hello", "v1.0.0")
	if v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := s.Query(t.Context(), "corp.example/hello", "main", vcs.Private); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// A major version can be a branch with another go.mod, in the same repository.
func TestMajorBranch(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	r.Commit("-- go.mod --\nmodule corp.example/hello/v2\n")
	r.Tag("v2.1.0")
	w.Page("hello/v2", "corp.example/hello git "+r.URL())
	s := newSource(t, w, nil)
	s.want("corp.example/hello/v2", "v2.1.0")
	s.want("corp.example/hello", "v1.0.0")
	for path, tagged := range map[string]string{"corp.example/hello/v2": "v2.1.0", "corp.example/hello": "v1.0.0"} {
		if v, err := s.Versions(t.Context(), path, vcs.Private); err != nil || !slices.Equal(v.Tagged, []string{tagged}) || v.Latest.Version != tagged {
			t.Errorf("%s: %+v, %v", path, v, err)
		}
	}
	if n := s.copies(); n != 1 {
		t.Errorf("%d copies of one repository", n)
	}
}

// Concurrent requests for many versions make one clone of the repository and one request
// for its page, and fetch what the versions have in common once.
func TestOneCopy(t *testing.T) {
	t.Parallel()
	const versions = 8
	w := vcstest.New(t)
	r := w.Module("hello")
	r.Commit("-- go.mod --\nmodule corp.example/hello\n-- large.txt --\n" + noise(1<<18))
	for i := range versions {
		r.Git("commit", "-q", "--allow-empty", "-m", "change")
		r.Git("tag", fmt.Sprintf("v1.%d.0", i))
	}
	newSource(t, w, nil).want("corp.example/hello", "v1.0.0")
	single := w.Sent()
	w.Requests()
	s := newSource(t, w, nil)
	var wg sync.WaitGroup
	for i := range versions {
		wg.Go(func() {
			version := fmt.Sprintf("v1.%d.0", i)
			if files, _, err := s.download("corp.example/hello", version); err != nil || files.Origin.Ref != "refs/tags/"+version {
				t.Errorf("%s: %+v, %v", version, files.Origin, err)
			}
		})
	}
	wg.Wait()
	if sent := w.Sent() - single; sent > 2*single {
		t.Errorf("%d bytes for %d versions, %d for one", sent, versions, single)
	}
	pages, lists := 0, 0
	for _, request := range w.Requests() {
		if strings.HasPrefix(request, "GET "+vcstest.PageHost) {
			pages++
		} else if strings.HasSuffix(request, "/info/refs?service=git-upload-pack") {
			lists++
		}
	}
	// The references and a fetch for each version; the newest tag comes with another one,
	// and is compared.
	if pages != 1 || lists > 2*versions+1 {
		t.Errorf("the page was asked %d times, git %d times", pages, lists)
	}
	if n := s.copies(); n != 1 {
		t.Errorf("%d copies of one repository", n)
	}
}

// At one host at most half of all commands run at the same time; the others wait, and run
// later.
func TestJobs(t *testing.T) {
	t.Parallel()
	const jobs, modules = 2, 6
	w := vcstest.New(t)
	for i := range modules {
		name := fmt.Sprintf("m%d", i)
		w.Module(name, strings.ReplaceAll(hello, "/hello", "/"+name))
	}
	w.Hang(true)
	s := newSource(t, w, func(c *vcs.Config) { c.Jobs = 2 * jobs })
	var wg sync.WaitGroup
	for i := range modules {
		wg.Go(func() {
			if _, _, err := s.download(fmt.Sprintf("corp.example/m%d", i), "v1.0.0"); err != nil {
				t.Error(err)
			}
		})
	}
	var requests []string
	waitFor(t, "as many requests as places", func() bool {
		requests = append(requests, w.Requests()...)
		return len(repositoriesAsked(requests)) >= jobs
	})
	time.Sleep(300 * time.Millisecond) // a further request would be a failure
	requests = append(requests, w.Requests()...)
	groups := map[int]bool{}
	for _, p := range running(t, s.dir) {
		groups[p.group] = true
	}
	if n := len(repositoriesAsked(requests)); n != jobs || len(groups) != jobs || s.gauge("assay_vcs_running") != jobs {
		t.Errorf("%d repositories asked, %d process groups, %v running; want %d", n, len(groups), s.gauge("assay_vcs_running"), jobs)
	}
	w.Hang(false)
	wg.Wait()
	if n := s.gauge("assay_vcs_running"); n != 0 {
		t.Errorf("%v running at the end", n)
	}
}

// A caller that waits for a place, or for a run with the same repository, can leave at any
// time.
func TestWaitingLeaves(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello, hello2)
	w.Module("other", strings.ReplaceAll(hello, "/hello", "/other"))
	s := newSource(t, w, func(c *vcs.Config) { c.Jobs = 1 })
	err := s.Download(t.Context(), module.Version{Path: "corp.example/hello", Version: "v1.0.0"}, vcs.Private, func(vcs.Files) error {
		for _, mod := range []module.Version{{Path: "corp.example/hello", Version: "v1.1.0"}, {Path: "corp.example/other", Version: "v1.0.0"}} {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			err := s.Download(ctx, mod, vcs.Private, func(vcs.Files) error { return nil })
			cancel()
			if !isTimeout(err) {
				t.Errorf("%s: %v", mod, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The least recently used clone is evicted first, and never one in use.
func TestEviction(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	// It is in the clone and not in the zip; everything else that a run needs is small.
	large := "-- sub/go.mod --\nmodule corp.example/sub\n-- sub/large.txt --\n" + noise(1<<18)
	for _, name := range []string{"a", "b", "c", "d"} {
		w.Module(name, strings.ReplaceAll(hello, "/hello", "/"+name)+large)
	}
	s := newSource(t, w, nil)
	s.want("corp.example/a", "v1.0.0")
	one := int64(s.gauge("assay_vcs_cache_bytes"))

	s = newSource(t, w, func(c *vcs.Config) { c.MaxBytes = one * 5 / 2 })
	for _, name := range []string{"a", "b", "a", "c"} {
		s.want("corp.example/"+name, "v1.0.0")
		time.Sleep(20 * time.Millisecond) // so that one is older
	}
	w.Requests()
	s.want("corp.example/c", "v1.0.0")
	s.want("corp.example/a", "v1.0.0")
	if names := fetched(w.Requests()); len(names) != 0 {
		t.Errorf("fetched %v, which were used last", names)
	}
	s.want("corp.example/b", "v1.0.0")
	if names := fetched(w.Requests()); !slices.Equal(names, []string{"b"}) {
		t.Errorf("fetched %v, want b", names)
	}
	if size := int64(s.gauge("assay_vcs_cache_bytes")); size > one*5/2 || s.copies() != 2 || s.gauge("assay_vcs_evicted_total") != 2 {
		t.Errorf("%d bytes in %d copies after %v evictions", size, s.copies(), s.gauge("assay_vcs_evicted_total"))
	}

	s = newSource(t, w, func(c *vcs.Config) { c.MaxBytes = one * 5 / 2 })
	err := s.Download(t.Context(), module.Version{Path: "corp.example/a", Version: "v1.0.0"}, vcs.Private, func(files vcs.Files) error {
		for _, name := range []string{"b", "c", "d"} {
			s.want("corp.example/"+name, "v1.0.0")
		}
		_, err := os.Stat(files.Zip)
		return err
	})
	if err != nil || s.gauge("assay_vcs_evicted_total") == 0 {
		t.Errorf("in use: %v, %v evictions", err, s.gauge("assay_vcs_evicted_total"))
	}
	w.Requests()
	s.want("corp.example/a", "v1.0.0")
	if names := fetched(w.Requests()); len(names) != 0 {
		t.Errorf("fetched %v, which was in use", names)
	}
}

// noise is n bytes of text that compresses badly.
func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, n)
	for i := range text {
		text[i] = byte(' ' + r.IntN('~'-' '))
		if i%80 == 79 {
			text[i] = '\n'
		}
	}
	return strings.ReplaceAll(string(text), "\n-- ", "\n++ ")
}

// The size of the clones is measured again at the start.
func TestSizeAtStart(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.0.0")
	size := s.gauge("assay_vcs_cache_bytes")
	again, err := vcs.New(vcs.Config{Dir: s.dir})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := (&source{Source: again, t: t}).gauge("assay_vcs_cache_bytes"); got != size || size == 0 {
		t.Errorf("%v bytes, %v before", got, size)
	}
}

// A relative directory is relative to the working directory of this program, not to that
// of its commands.
func TestRelativeDir(t *testing.T) {
	t.Chdir(t.TempDir())
	w := vcstest.New(t)
	w.Module("hello", hello)
	host := w.SSH()
	for _, change := range []func(*vcs.Config){
		func(c *vcs.Config) { c.Dir = "vcs" },
		func(c *vcs.Config) {
			bySSH(host)(c)
			c.Dir = "a directory's name"
		},
	} {
		dir := ""
		newSource(t, w, func(c *vcs.Config) {
			change(c)
			dir = c.Dir
		}).want("corp.example/hello", "v1.0.0")
		if entries, err := os.ReadDir(filepath.Join(dir, "empty")); err != nil || len(entries) != 0 {
			t.Errorf("where commands run there is %v, %v", entries, err)
		}
	}
}

// An error of using the files of a module that exists is not an absence.
func TestErrorOfUse(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	s := newSource(t, w, nil)
	for _, want := range []error{fs.ErrNotExist, fs.ErrPermission} {
		err := s.Download(t.Context(), module.Version{Path: "corp.example/hello", Version: "v1.0.0"}, vcs.Private, func(vcs.Files) error { return want })
		var told *vcs.Error
		if !errors.As(err, &told) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), want.Error()) {
			t.Errorf("%v becomes %v", want, err)
		}
	}
}

// A missing directory of ours, or a missing go command, says nothing about a module.
func TestNothingHereIsNoAbsence(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello, hello2)
	for _, part := range []string{"", "empty", "home", "repos"} {
		s := newSource(t, w, nil)
		s.want("corp.example/hello", "v1.0.0")
		if err := os.RemoveAll(filepath.Join(s.dir, part)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.download("corp.example/hello", "v1.1.0"); errors.Is(err, fs.ErrNotExist) || err != nil && strings.Contains(err.Error(), s.dir) {
			t.Errorf("without %q: %v", part, err)
		}
	}
}

// Repositories that do not exist, or do not answer, leave nothing on the disk: a client can
// name any number of them. A repository that exists stays.
func TestNoCopyOfNothing(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	w.Page("none", "corp.example/none git https://git.corp.example/none.git")
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.0.0")
	s.wantError("corp.example/none", "v1.0.0", fs.ErrNotExist)
	s.wantError("git.corp.example/none.git", "v1.0.0", fs.ErrNotExist)
	w.Status(503)
	s.wantError("git.corp.example/hello.git", "v1.0.0", vcs.ErrUnavailable)
	s.wantError("corp.example/hello", "v1.9.0", vcs.ErrUnavailable)
	kept, err := os.ReadDir(filepath.Join(s.dir, "repos"))
	if err != nil || len(kept) != 1 {
		t.Errorf("%d repositories are kept, %v; want the one that was fetched", len(kept), err)
	}
	w.Status(0)
	w.Module("none", strings.ReplaceAll(hello, "/hello", "/none"))
	s.want("corp.example/none", "v1.0.0")
}
