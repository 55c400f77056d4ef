package vcs_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// copyDir returns the git directory of the only clone.
func (s *source) copyDir() string {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "repos", "*", "cache", "vcs", "*", "HEAD"))
	if err != nil || len(names) != 1 {
		s.t.Fatalf("copies: %q, %v", names, err)
	}
	return filepath.Dir(names[0])
}

// truncate truncates all files below dir.
func truncate(t *testing.T, dir string, part int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		return errors.Join(err, os.Chmod(name, 0o600), os.Truncate(name, info.Size()*part/100))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A damaged clone says nothing about the repository: it is cloned again, and only the log
// says so.
func TestDamagedCopy(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"halves":     func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, "objects"), 50) },
		"empty":      func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, "objects"), 0) },
		"references": func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, "refs"), 0) },
		"name": func(t *testing.T, dir string) { // some file systems leave this after a power failure
			if err := os.WriteFile(dir+".info", make([]byte, 40), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no head":   func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "HEAD")) },
		"no refs":   func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "refs")) },
		"no origin": func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "config")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := vcstest.New(t)
			r := w.Module("hello", hello)
			s := newSource(t, w, nil)
			s.want("corp.example/hello", "v1.0.0")
			r.Commit("-- new.go --\npackage hello\n")
			r.Tag("v1.1.0")
			damage(t, s.copyDir())
			s.want("corp.example/hello", "v1.1.0")
			if rare := name == "empty" || name == "no refs" || name == "no origin"; rare {
				return
			}
			damage(t, s.copyDir())
			if v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); err != nil || len(v.Tagged) != 2 {
				t.Errorf("%+v, %v", v, err)
			}
			damage(t, s.copyDir())
			s.want("corp.example/hello", "v1.0.0")
			s.wantError("corp.example/hello", "v9.0.0", fs.ErrNotExist)
			if !strings.Contains(s.log.String(), "cloning again") {
				t.Error("the log says nothing")
			}
		})
	}
}

// An administrator may remove files of a running program to free space.
func TestRemovedWhileRunning(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.0.0")
	for _, part := range []string{"", "home", "empty", "repos", "roots.pem"} {
		if err := os.RemoveAll(filepath.Join(s.dir, part)); err != nil {
			t.Fatal(err)
		}
		r.Commit("-- new.go --\npackage hello // after " + part + "\n")
		r.Tag("v1.1.0-after" + part[:min(len(part), 4)])
		s.want("corp.example/hello", "v1.1.0-after"+part[:min(len(part), 4)])
	}
	if mode, err := os.ReadFile(filepath.Join(s.dir, "home", ".config", "go", "telemetry", "mode")); string(mode) != "off\n" {
		t.Errorf("telemetry %q, %v", mode, err)
	}
}

// A clone that was removed from outside no longer counts.
func TestRemovedTakesNoRoom(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	large := "-- sub/go.mod --\nmodule corp.example/sub\n-- sub/large.txt --\n" + noise(1<<18)
	for _, name := range []string{"a", "b", "c"} {
		w.Module(name, strings.ReplaceAll(hello, "/hello", "/"+name)+large)
	}
	s := newSource(t, w, nil)
	s.want("corp.example/a", "v1.0.0")
	one := int64(s.gauge("assay_vcs_cache_bytes"))
	s = newSource(t, w, func(c *vcs.Config) { c.MaxBytes = one * 5 / 2 })
	s.want("corp.example/a", "v1.0.0")
	if err := os.RemoveAll(filepath.Join(s.dir, "repos")); err != nil {
		t.Fatal(err)
	}
	s.want("corp.example/b", "v1.0.0")
	s.want("corp.example/c", "v1.0.0")
	if n := s.gauge("assay_vcs_evicted_total"); n != 0 || s.copies() != 2 {
		t.Errorf("%v evictions, %d copies are left; there is room for two", n, s.copies())
	}
}

// A git that fails on this machine, without memory for instance, says nothing about the
// repository.
func TestLocalFailure(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil || runtime.GOOS == "windows" {
		t.Skip("there is no git, or no shell")
	}
	w := vcstest.New(t)
	w.Module("hello", hello)
	bin := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in *\" archive --format=zip\"*) set -- archive --format=none HEAD;; esac\nexec " + git + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	s := newSource(t, w, nil)
	s.wantError("corp.example/hello", "v1.0.0", vcs.ErrTools)
	s.wantError("corp.example/hello", "v9.0.0", fs.ErrNotExist)
}

// A killed process has not written the end of its trace.
func TestLocalFailureTraces(t *testing.T) {
	t.Parallel()
	start, end := `{"event":"start","sid":"1"}`+"\n", `{"event":"exit","sid":"1","code":`
	name := func(n string) string { return `{"event":"cmd_name","sid":"1","name":"` + n + "\"}\n" }
	other := func(n string) string { return strings.ReplaceAll(start+name(n), `"1"`, `"2"`) }
	otherEnd := strings.ReplaceAll(end, `"1"`, `"2"`) + "0}\n"
	for trace, fails := range map[string]bool{
		start + name("archive"):                 true,
		start + name("cat-file"):                true,
		start + name("cat-file") + end + `128}`: false, // there is no such file
		start + name("archive") + end + `0}`:    false,
		start + name("archive") + end + `128}`:  true,
		start + name("archive") + `{"event":"error","sid":"1","fmt":"pathspec '%s' did not match any files"}` + "\n" + end + `128}`: false,
		start + name("fetch"): false, // a failure of the host
		// Two at the same time, and one that was started by another one.
		start + other("fetch") + name("archive") + otherEnd + end + `0}`:                            false,
		start + other("fetch") + name("archive") + otherEnd:                                         true,
		start + name("archive") + strings.ReplaceAll(other("archive"), `"2"`, `"1/2"`) + end + `0}`: false,
	} {
		name := filepath.Join(t.TempDir(), "trace")
		if err := os.WriteFile(name, []byte(trace), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := vcs.LocalFailure(name); (err != nil) != fails || fails && !errors.Is(err, vcs.ErrTools) {
			t.Errorf("%s: %v", trace, err)
		}
	}
}

// A clone that cannot be read at the moment is not damaged.
func TestCopyNotLookedAt(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("there is no git")
	}
	w := vcstest.New(t)
	w.Module("hello", hello)
	link := filepath.Join(t.TempDir(), "git")
	if err := os.Symlink(git, link); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(link)+string(os.PathListSeparator)+os.Getenv("PATH"))
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.0.0")
	if err := os.Remove(link); err != nil { // as during an update
		t.Fatal(err)
	}
	s.wantError("corp.example/hello", "v9.0.0", fs.ErrNotExist)
	if strings.Contains(s.log.String(), "cloning again") {
		t.Error(s.log)
	}
}

// A file that is missing in the clone is noticed when it is needed, and fetched again. One
// that no module may have is not needed.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello, "v1.1.0\n-- sub/file.txt --\nsome text\n", "v1.2.0\n-- HELLO.go --\npackage hello\n")
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.1.0")
	blob := r.Git("rev-parse", "v1.1.0:sub/file.txt")
	truncateObject := func() {
		t.Helper()
		name := filepath.Join(s.copyDir(), "objects", blob[:2], blob[2:])
		if err := errors.Join(os.Chmod(name, 0o600), os.Truncate(name, 0)); err != nil {
			t.Fatal(err)
		}
	}
	truncateObject()
	s.want("corp.example/hello", "v1.1.0")
	if !strings.Contains(s.log.String(), "cloning again") {
		t.Error("the log says nothing")
	}
	s.log.Reset()
	s.wantError("corp.example/hello", "v1.2.0", fs.ErrNotExist)
	if strings.Contains(s.log.String(), "cloning again") {
		t.Error(s.log)
	}
}

// A module path with its repository, and a page that names the same one, have two git
// directories in one clone. A commit that only one of them has is no damage.
func TestTwoCopies(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	if _, _, err := s.download("git.corp.example/hello.git", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	r.Commit("-- HELLO.go --\npackage hello\n")
	r.Tag("v1.2.0")
	s.wantError("corp.example/hello", "v1.2.0", fs.ErrNotExist)
	if n := s.copies(); n != 1 || strings.Contains(s.log.String(), "cloning again") {
		t.Errorf("%d places for copies\n%s", n, s.log)
	}
}
