package vcs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

const hello = `v1.0.0
-- go.mod --
module corp.example/hello
-- hello.go --
package hello
`

// source is a Source in a world.
type source struct {
	*vcs.Source
	t      *testing.T
	dir    string
	log    *bytes.Buffer
	errors strings.Builder // texts of errors that wantError checked
}

func newSource(t *testing.T, w *vcstest.World, change func(*vcs.Config)) *source {
	t.Helper()
	s := &source{t: t, dir: filepath.Join(t.TempDir(), "vcs"), log: new(bytes.Buffer)}
	c := vcs.Config{Dir: s.dir, Network: vcs.Network{CAFile: w.CAFile(), Lookup: w.Lookup, Dial: w.Dial}, Timeout: time.Minute,
		Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&c)
	}
	var err error
	if s.Source, err = vcs.New(c); err != nil {
		t.Fatal(err)
	}
	if err := s.Tools(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// download returns the files of a version; the zip's content instead of its name.
func (s *source) download(path, version string) (files vcs.Files, zip []byte, err error) {
	err = s.Download(s.t.Context(), module.Version{Path: path, Version: version}, vcs.Private, func(f vcs.Files) error {
		files = f
		zip, err = os.ReadFile(f.Zip)
		return err
	})
	return files, zip, err
}

// want checks that a version can be downloaded.
func (s *source) want(path, version string) vcs.Files {
	s.t.Helper()
	files, zip, err := s.download(path, version)
	if err != nil {
		s.t.Fatalf("%s@%s: %v", path, version, err)
	}
	if len(zip) == 0 || !strings.Contains(string(files.Mod), path) || !strings.Contains(string(files.Info), `"`+version+`"`) {
		s.t.Fatalf("%s@%s: %d bytes of zip, go.mod %q, info %q", path, version, len(zip), files.Mod, files.Info)
	}
	return files
}

// wantError checks the error of a download.
func (s *source) wantError(path, version string, want error) *vcs.Error {
	s.t.Helper()
	_, _, err := s.download(path, version)
	var told *vcs.Error
	if !errors.Is(err, want) || !errors.As(err, &told) {
		s.t.Fatalf("%s@%s: %v, want %v", path, version, err, want)
	}
	// An error is an absence or anything else, never both: after an absence, a client
	// requests the module elsewhere.
	if want != fs.ErrNotExist && errors.Is(err, fs.ErrNotExist) {
		s.t.Fatalf("%s@%s: %v counts as absence", path, version, err)
	}
	fmt.Fprintln(&s.errors, err)
	return told
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	files := s.want("corp.example/hello", "v1.0.0")
	if files.Origin.URL != r.URL() || files.Origin.Hash != r.Git("rev-parse", "v1.0.0") {
		t.Errorf("origin %+v", files.Origin)
	}
	v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private)
	if err != nil || !slices.Equal(v.Tagged, []string{"v1.0.0"}) || v.Latest.Version != "v1.0.0" || v.Latest.Time.IsZero() {
		t.Errorf("versions %+v, %v", v, err)
	}
	if got := s.Repository("corp.example/hello"); got != "git.corp.example/hello" {
		t.Errorf("repository %q", got)
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	r.Branch("dev")
	commit := r.Commit("-- new.go --\npackage hello\n")
	for _, query := range []string{"dev", commit, commit[:12]} {
		info, err := s.Query(t.Context(), "corp.example/hello", query, vcs.Private)
		if err != nil || !strings.HasSuffix(info.Version, commit[:12]) || !strings.HasPrefix(info.Version, "v1.0.1-0.") || info.Origin.Hash != commit {
			t.Errorf("%s: %+v, %v", query, info, err)
		}
		s.want("corp.example/hello", info.Version)
	}
	// A rewritten branch is another commit at once.
	r.Git("reset", "-q", "--hard", "HEAD~1")
	rewritten := r.Commit("-- other.go --\npackage hello\n")
	info, err := s.Query(t.Context(), "corp.example/hello", "dev", vcs.Private)
	if err != nil || !strings.HasSuffix(info.Version, rewritten[:12]) {
		t.Errorf("after a force-push: %+v, %v", info, err)
	}
	for _, query := range []string{"no-such-branch", "0123456789ab", "v7.0.0"} {
		if _, err := s.Query(t.Context(), "corp.example/hello", query, vcs.Private); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// A module path may contain its repository.
func TestQualifiedPath(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", strings.ReplaceAll(hello, "corp.example/hello", "git.corp.example/hello.git"))
	s := newSource(t, w, nil)
	s.want("git.corp.example/hello.git", "v1.0.0")
	s.wantError("git.corp.example/hello.git", "v9.0.0", fs.ErrNotExist)
	s.wantError("git.corp.example/hello.git/sub", "v1.0.0", fs.ErrNotExist)
	if n := s.copies(); n != 1 || strings.Contains(s.log.String(), "made anew") {
		t.Errorf("%d copies\n%s", n, s.log)
	}
}

// A newest tag with a bad go.mod, or that of another module, does not hide the versions
// before it.
func TestBadNewest(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello, "v1.1.0\n-- go.mod --\nmodule corp.example/hello\nrequire (\n")
	r := w.Module("other", strings.ReplaceAll(hello, "/hello", "/other"), "v1.1.0\n-- go.mod --\nmodule corp.example/other/v3\n")
	s := newSource(t, w, nil)
	both := []string{"v1.0.0", "v1.1.0"}
	v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private)
	if err != nil || !slices.Equal(v.Tagged, both) || v.Latest.Version != "v1.1.0" || v.NoLatest != nil {
		t.Errorf("%+v, %v", v, err)
	}
	v, err = s.Versions(t.Context(), "corp.example/other", vcs.Private)
	if err != nil || !slices.Equal(v.Tagged, both) || v.Latest.Version != "" || !errors.Is(v.NoLatest, fs.ErrNotExist) || v.Origin.URL != r.URL() {
		t.Errorf("%+v, %v", v, err)
	}
	w.Status(503)
	if v, err = s.Versions(t.Context(), "corp.example/other", vcs.Private); !errors.Is(err, vcs.ErrUnavailable) {
		t.Errorf("%+v, %v", v, err)
	}
}

// A retracted version is in the list, for those that use it already, and is not the
// latest.
func TestRetracted(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello, "v1.0.1\n-- go.mod --\nmodule corp.example/hello\nretract v1.0.1\n")
	s := newSource(t, w, nil)
	want := func(latest string, tagged ...string) {
		t.Helper()
		v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private)
		if err != nil || !strings.HasPrefix(v.Latest.Version, latest) || !slices.Equal(v.Tagged, tagged) {
			t.Errorf("%+v, %v; want %s of %s", v, err, latest, tagged)
		}
	}
	want("v1.0.0", "v1.0.0", "v1.0.1")
	r.Commit("-- go.mod --\nmodule corp.example/hello\nretract [v0.0.0, v1.9.9]\n")
	r.Tag("v1.0.2")
	want("v0.0.0-", "v1.0.0", "v1.0.1", "v1.0.2") // as with GOPROXY=direct
	r.Commit("-- go.mod --\nmodule corp.example/hello/v2\n")
	want("v1.0.2", "v1.0.0", "v1.0.1", "v1.0.2") // there is nothing else
}

func TestMonorepo(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("mono", `v1.0.0 sub/v0.3.0 v2.0.0-rc.1
-- go.mod --
module corp.example/mono
-- a.go --
package mono
-- sub/go.mod --
module corp.example/mono/sub
-- sub/s.go --
package sub
-- v2/go.mod --
module corp.example/mono/v2
-- v2/b.go --
package mono
`)
	w.Page("mono/sub", "corp.example/mono git "+r.URL())
	w.Page("mono/v2", "corp.example/mono git "+r.URL())
	s := newSource(t, w, nil)
	s.want("corp.example/mono", "v1.0.0")
	s.want("corp.example/mono/sub", "v0.3.0")
	s.want("corp.example/mono/v2", "v2.0.0-rc.1")
	v, err := s.Versions(t.Context(), "corp.example/mono/sub", vcs.Private)
	if err != nil || !slices.Equal(v.Tagged, []string{"v0.3.0"}) {
		t.Errorf("%+v, %v", v, err)
	}
	r.Commit("-- go.mod --\nmodule corp.example/mono\nretract v1.0.0\n")
	r.Tag("v1.1.0")
	if v, err = s.Versions(t.Context(), "corp.example/mono", vcs.Private); err != nil || !slices.Equal(v.Tagged, []string{"v1.0.0", "v1.1.0"}) {
		t.Errorf("retracted versions are listed by a proxy: %+v, %v", v, err)
	}
}

func TestNoTags(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello")
	commit := r.Commit("-- hello.go --\npackage hello\n") // and no go.mod
	s := newSource(t, w, nil)
	v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private)
	if err != nil || len(v.Tagged) != 0 || !strings.HasSuffix(v.Latest.Version, commit[:12]) {
		t.Errorf("%+v, %v", v, err)
	}
	if files := s.want("corp.example/hello", v.Latest.Version); string(files.Mod) != "module corp.example/hello\n" {
		t.Errorf("go.mod %q", files.Mod)
	}
}

// Only clones outlive a run, and a second version is an incremental fetch.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.0.0")
	w.Requests()
	r.Commit("-- new.go --\npackage hello\n")
	r.Tag("v1.1.0")
	s.want("corp.example/hello", "v1.1.0")
	err := filepath.WalkDir(filepath.Join(s.dir, "repos"), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if rel, _ := filepath.Rel(s.dir, name); !d.IsDir() && !strings.Contains(filepath.ToSlash(rel), "/cache/vcs/") {
			t.Errorf("left: %s", rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "repos")); err != nil || len(left) != 1 {
		t.Errorf("%d directories, %v, want one for the one repository", len(left), err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	w.Module("declared", strings.ReplaceAll(hello, "corp.example/hello", "corp.example/elsewhere"))
	w.Page("gone", "corp.example/gone git https://git.corp.example/gone.git")
	w.Page("lost", "corp.example/lost git https://lost.corp.example/lost.git")
	s := newSource(t, w, nil)
	s.wantError("corp.example/nothing", "v1.0.0", fs.ErrNotExist)
	s.wantError("corp.example/gone", "v1.0.0", fs.ErrNotExist)
	s.wantError("corp.example/hello", "v9.0.0", fs.ErrNotExist)
	s.wantError("corp.example/hello", "v1.0.1-0.20200101000000-0123456789ab", fs.ErrNotExist)
	if told := s.wantError("corp.example/declared", "v2.0.0+incompatible", fs.ErrNotExist); told.Host != vcstest.GitHost {
		t.Errorf("host %q", told.Host)
	}
	s.wantError("corp.example/lost", "v1.0.0", vcs.ErrUnavailable)
	s.wantError("nowhere.example/x", "v1.0.0", vcs.ErrUnavailable)

	// Versions in the clone need no host, so these are new.
	w.Password("ci", "secret")
	if told := s.wantError("corp.example/hello", "v1.0.7", vcs.ErrCredential); told.Host != vcstest.GitHost || strings.Contains(told.Error(), s.dir) {
		t.Errorf("%v", told)
	}
	w.Password("", "")
	for _, status := range []int{500, 503, 429} {
		w.Status(status)
		s.wantError("corp.example/hello", "v1.0.7", vcs.ErrUnavailable)
	}
	w.Status(404)
	s.wantError("corp.example/hello", "v1.0.7", fs.ErrNotExist)
	w.Status(403)
	s.wantError("corp.example/hello", "v1.0.7", vcs.ErrCredential)
	w.Status(0)
	s.want("corp.example/hello", "v1.0.0")
	r.Remove()
	s.wantError("corp.example/hello", "v1.0.1", fs.ErrNotExist)
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	s := newSource(t, w, func(c *vcs.Config) { c.MaxBytes = 100 })
	// It can be downloaded if that is quick, and is not kept. What a process that was killed has still written is removed
	// after the next use.
	waitFor(t, "nothing is left", func() bool {
		if _, _, err := s.download("corp.example/hello", "v1.0.0"); err != nil && !errors.Is(err, vcs.ErrTooLarge) {
			t.Error(err)
		}
		left, err := os.ReadDir(filepath.Join(s.dir, "repos"))
		return err == nil && len(left) == 0
	})
}

func TestTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	s, err := vcs.New(vcs.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !errors.Is(s.Tools(), vcs.ErrTools) {
		t.Errorf("Tools: %v", s.Tools())
	}
	if _, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); !errors.Is(err, vcs.ErrTools) {
		t.Errorf("Versions: %v", err)
	}
}

// The error for a module that needs a future go command says so.
func TestNewerGo(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", strings.Replace(hello, "corp.example/hello\n", "corp.example/hello\ngo 1.999\n", 1))
	s := newSource(t, w, nil)
	if told := s.wantError("corp.example/hello", "v1.0.0", vcs.ErrTools); !strings.Contains(told.Error(), "needs go1.999") {
		t.Error(told)
	}
}
