package proxy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// errStopped is the error of a store after the process would have been killed.
var errStopped = errors.New("stopped")

// stopBeforeSignature lets the next batch with files and a guard reach the disk, and nothing after it: the
// head is not signed, as if the process had been killed there.
func (s *tapped) stopBeforeSignature() {
	s.set(func() {
		s.apply = func(b storage.Batch, do func() error) error {
			err := do()
			if b.Swap == nil || b.Swap.Name != guardState {
				return err
			}
			s.set(func() { s.to = storagetest.Cut(s.Store, 0) })
			return errors.Join(err, errStopped)
		}
	})
}

// goOn ends stopBeforeSignature.
func (s *tapped) goOn() { s.set(func() { s.apply, s.to = nil, nil }) }

// wantHeld checks which versions of lib are held for clients: the list, the latest version and the
// catalog have them, each of their files is served, and no file of another version.
func (h *hosts) wantHeld(when string, versions ...string) {
	h.t.Helper()
	held := func(path string) response { return h.get(path, "Disable-Module-Fetch", "true") }
	for range 2 { // the second time from memory
		var list string
		if a := held("corp.example/lib/@v/list"); a.status == http.StatusOK {
			list = string(a.body)
		}
		if got := strings.Fields(list); !slices.Equal(got, versions) {
			h.t.Errorf("%s: the list is %q, want %q", when, got, versions)
		}
		var latest struct{ Version string }
		a := held("corp.example/lib/@latest")
		if err := json.Unmarshal(a.body, &latest); a.status == http.StatusOK && err != nil {
			h.t.Errorf("%s: the latest version: %v", when, err)
		}
		if len(versions) == 0 && a.status == http.StatusOK || len(versions) > 0 && latest.Version != versions[len(versions)-1] {
			h.t.Errorf("%s: the latest version is %v, want the last one of %q", when, a, versions)
		}
		catalog := h.server.Content().Origin("corp.example/lib").Catalog()
		if got, err := catalog.Versions(h.t.Context(), "corp.example/lib"); err != nil || !slices.Equal(slices.Collect(got.All()), versions) {
			h.t.Errorf("%s: the catalog has %q, %v, want %q", when, got.Text(), err, versions)
		}
		known := false
		for m, err := range catalog.Modules(h.t.Context()) {
			if err != nil {
				h.t.Errorf("%s: the catalog: %v", when, err)
			}
			known = known || m == "corp.example/lib"
		}
		if known != (len(versions) > 0) {
			h.t.Errorf("%s: the catalog has the module: %v, with the versions %q", when, known, versions)
		}
		for n := range 3 {
			version := fmt.Sprintf("v1.%d.0", n)
			e, err := catalog.Explain(h.t.Context(), module.Version{Path: "corp.example/lib", Version: version})
			want := slices.Contains(versions, version)
			if err != nil || (len(e.Files) == 3) != want || want && e.Source == "" {
				h.t.Errorf("%s: the catalog explains %s with %+v, %v", when, version, e, err)
			}
			for _, path := range libFiles(n) {
				if a := held(path); (a.status == http.StatusOK) != want {
					h.t.Errorf("%s: %s is %d, and %s is listed: %v", when, path, a.status, version, want)
				}
			}
		}
	}
}

// A private version whose files are stored and whose head is not signed is not held for clients: it does
// not hide an older one. It is held as soon as the head is signed, whatever signs it.
func TestUnsignedIsNotListed(t *testing.T) {
	t.Parallel()
	const first, second = "v1.0.0", "v1.1.0"
	lib := func(version string) module.Version { return module.Version{Path: "corp.example/lib", Version: version} }
	for _, tt := range []struct {
		name string
		sign func(t *testing.T, h *hosts, repo *vcstest.Repo) *hosts
		want []string
	}{
		{"the next pin, of another module", func(_ *testing.T, h *hosts, _ *vcstest.Repo) *hosts {
			h.ok("corp.example/other/@v/v1.0.0.zip")
			return h
		}, []string{first, second}},
		{"the next pin, of the same module", func(_ *testing.T, h *hosts, _ *vcstest.Repo) *hosts {
			h.ok(libFiles(2)[0])
			return h
		}, []string{first, second, "v1.2.0"}},
		{"the next request for the version", func(_ *testing.T, h *hosts, _ *vcstest.Repo) *hosts {
			h.ok(libFiles(1)[1])
			return h
		}, []string{first, second}},
		{"a request after its tag has moved", func(t *testing.T, h *hosts, repo *vcstest.Repo) *hosts {
			repo.Commit(libVersion(1, "// moved\n"))
			repo.Tag(second)
			h.pushed(repo.URL())
			h.wantStatus(libFiles(1)[0], http.StatusForbidden, "changed")
			return h
		}, []string{first, second}},
		{"a pin after two reloads", func(t *testing.T, h *hosts, _ *vcstest.Repo) *hosts {
			reload := func(private string) {
				h.server.Reload(content.Settings{Upstream: h.chain, Policy: policyOf(t, private), VCS: h.vcs})
			}
			reload("corp.example/other")
			if a := h.get("corp.example/lib/@v/list", "Disable-Module-Fetch", "true"); a.status == http.StatusOK {
				t.Errorf("the private versions are listed of a public module: %v", a)
			}
			reload("corp.example")
			h.wantHeld("after two reloads", first)
			h.ok("corp.example/other/@v/v1.0.0.zip")
			return h
		}, []string{first, second}},
		{"a pin after a purge", func(t *testing.T, h *hosts, _ *vcstest.Repo) *hosts {
			items, err := content.Purge(t.Context(), h.store, lib(second))
			if err != nil || len(items) != 3 {
				t.Fatalf("Purge = %v, %v", items, err)
			}
			h.server.Content().Forget(items)
			h.ok("corp.example/other/@v/v1.0.0.zip")
			h.wantHeld("after a purge", first)
			h.ok(libFiles(1)[0])
			return h
		}, []string{first, second}},
		{"a restart", func(t *testing.T, h *hosts, _ *vcstest.Repo) *hosts {
			h.stop()
			return openPrivate(t, h.world, h.code, h.dir, nil)
		}, []string{first, second}},
		{"a pin after a restart that cannot sign", func(t *testing.T, h *hosts, _ *vcstest.Repo) *hosts {
			h.stop()
			blocked := filepath.Join(h.dir, "log", "head.new") // the temporary file of the newest head cannot be made
			if err := os.Mkdir(blocked, 0o700); err != nil {
				t.Fatal(err)
			}
			h = openPrivate(t, h.world, h.code, h.dir, nil)
			h.wantHeld("after a restart that cannot sign", first)
			if err := os.Remove(blocked); err != nil {
				t.Fatal(err)
			}
			h.ok("corp.example/other/@v/v1.0.0.zip")
			return h
		}, []string{first, second}},
		{"a restored backup", func(t *testing.T, h *hosts, _ *vcstest.Repo) *hosts { // it shows all entries, and signs none
			h.stop()
			dir := t.TempDir()
			if err := os.CopyFS(filepath.Join(dir, "data"), os.DirFS(filepath.Join(h.dir, "data"))); err != nil {
				t.Fatal(err)
			}
			copyLog(t, filepath.Join(h.dir, "log"), filepath.Join(dir, "log"))
			h = openPrivate(t, h.world, h.code, dir, nil)
			if h.log.Refuses() == nil {
				t.Error("a backup signs")
			}
			h.wantHeld("in a restored backup", first, second)
			h.stop()
			if err := pinlog.Adopt(t.Context(), pinlog.Config{Dir: filepath.Join(dir, "log")}, nil); err != nil {
				t.Fatal(err)
			}
			return openPrivate(t, h.world, h.code, dir, nil)
		}, []string{first, second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
			repo := tagLib(h.code, libVersion(0, ""), libVersion(1, ""), libVersion(2, ""))
			h.code.Module("other", "v1.0.0\n-- go.mod --\nmodule corp.example/other\n-- other.go --\npackage other\n")
			h.ok(libFiles(0)[0])
			h.wantHeld("before", first)
			s.stopBeforeSignature()
			if a := h.get(libFiles(1)[0]); a.status < 500 {
				t.Fatalf("a version that cannot be signed: %v", a)
			}
			for _, path := range libFiles(1) {
				if !h.holdsPinned(path) {
					t.Fatalf("%s is not stored: nothing is tested", path)
				}
			}
			s.goOn()
			h.wantHeld("before the signature", first)
			h = tt.sign(t, h, repo)
			h.wantHeld("after the signature", tt.want...)
			if err := h.log.Check(t.Context()); err != nil || h.log.Refuses() != nil {
				t.Errorf("the log: %v, refuses: %v", err, h.log.Refuses())
			}
		})
	}
}

// A module whose only version is not signed is not held for clients.
func TestUnsignedAlone(t *testing.T) {
	t.Parallel()
	h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
	tagLib(h.code, libVersion(0, ""))
	s.stopBeforeSignature()
	if a := h.get(libFiles(0)[2]); a.status < 500 || !h.holdsPinned(libFiles(0)[2]) {
		t.Fatalf("a version that cannot be signed: %v", a)
	}
	s.goOn()
	h.wantHeld("before the signature")
	h.ok(libFiles(0)[2])
	h.wantHeld("after the signature", "v1.0.0")
}

// A list that is made while the head of a version is signed has the version afterwards.
func TestListBesideSignature(t *testing.T) {
	t.Parallel()
	h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
	tagLib(h.code, libVersion(0, ""), libVersion(1, ""))
	h.ok(libFiles(0)[0])
	h.wantHeld("before", "v1.0.0")
	seen := 0
	s.set(func() {
		s.apply = func(b storage.Batch, do func() error) error {
			err := do()
			if b.Swap != nil && b.Swap.Name == guardState {
				seen++
				h.wantHeld("between the batch and the signature", "v1.0.0")
			}
			return err
		}
	})
	h.ok(libFiles(1)[0])
	s.goOn()
	if seen != 1 {
		t.Errorf("%d batches with a guard, want 1", seen)
	}
	h.wantHeld("after the signature", "v1.0.0", "v1.1.0")
}

// A version that is not signed for long does not make each list of its module read the store.
func TestUnsignedIsRemembered(t *testing.T) {
	t.Parallel()
	h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
	tagLib(h.code, libVersion(0, ""), libVersion(1, ""))
	h.ok(libFiles(0)[0])
	s.stopBeforeSignature()
	if a := h.get(libFiles(1)[0]); a.status < 500 || !h.holdsPinned(libFiles(1)[0]) {
		t.Fatalf("a version that cannot be signed: %v", a)
	}
	s.goOn()
	lists := 0
	s.set(func() {
		s.list = func(prefix string) {
			if strings.Contains(prefix, "corp.example/lib/") {
				lists++
			}
		}
	})
	want := func(want int, versions ...string) {
		t.Helper()
		for range 5 {
			a := h.get("corp.example/lib/@v/list", "Disable-Module-Fetch", "true")
			if got := strings.Fields(string(a.body)); !slices.Equal(got, versions) {
				t.Errorf("the list is %q, want %q", got, versions)
			}
		}
		if lists != want {
			t.Errorf("the store was listed %d times, want %d", lists, want)
		}
	}
	want(1, "v1.0.0")
	h.ok(libFiles(1)[0])
	want(2, "v1.0.0", "v1.1.0")
}
