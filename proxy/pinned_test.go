package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// The tag moves after the version was pinned, and the store is lost: the new content is
// refused.
func TestPrivateMovedTag(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	first := strings.TrimSpace(repo.Git("rev-parse", "HEAD"))
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	second := repo.Commit("-- lib.go --\npackage lib // evil\n")
	repo.Tag("v1.0.0")
	for _, dir := range []string{"data", "vcs"} {
		if err := os.RemoveAll(filepath.Join(h.dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	again := openPrivate(t, h.world, h.code, h.dir, nil)
	for _, file := range []string{"zip", "mod", "info"} {
		a := again.wantStatus("corp.example/lib/@v/v1.0.0."+file, http.StatusForbidden, "changed: the zip of corp.example/lib@v1.0.0 differs from the one pinned on ", first, second, "first h1:", "now   h1:")
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control of a refusal is %q", a.header.Get("Cache-Control"))
		}
	}
	evidence, err := filepath.Glob(filepath.Join(h.dir, "evidence", "changed-*"))
	if err != nil || len(evidence) != 1 {
		t.Errorf("evidence: %v, %v", evidence, err)
	}
	if again.log.Size() != 1 || again.log.Check(t.Context()) != nil {
		t.Error("the log has changed")
	}
}

// If git is killed while the go command reads go.mod, the go command assumes a module
// without one. The go.mod that it then makes is not pinned.
func TestPrivateModNotShown(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil || runtime.GOOS == "windows" {
		t.Skip("there is no git, or no shell")
	}
	bin := t.TempDir()
	killed := filepath.Join(bin, "killed")
	script := "#!/bin/sh\ncase \"$*\" in *cat-file*go.mod) [ -e " + killed + " ] && kill -9 $$;; esac\nexec " + git + " \"$@\"\n"
	for name, text := range map[string]string{filepath.Join(bin, "git"): script, killed: ""} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	h := startPrivate(t, nil)
	h.code.Module("lib", "v1.0.0\n-- go.mod --\nmodule corp.example/lib\n\ngo 1.20\n-- lib.go --\npackage lib\n")
	h.code.Module("old", "v1.0.0\n-- lib.go --\npackage old\n")
	h.wantStatus("corp.example/lib/@v/v1.0.0.mod", http.StatusBadGateway, "go.mod")
	h.ok("corp.example/old/@v/v1.0.0.mod") // this version has none
	if h.log.Size() != 1 {
		t.Errorf("the log has %d entries, want the one of the other module", h.log.Size())
	}
	if err := os.Remove(killed); err != nil {
		t.Fatal(err)
	}
	h.ok("corp.example/lib/@v/v1.0.0.mod")
}

// A tag that moved, and moved back: the pin stayed, and the version is served again
// without manual clean-up in the directory for version control.
func TestPrivateMovedTagHeals(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	if err := os.RemoveAll(filepath.Join(h.dir, "data")); err != nil {
		t.Fatal(err)
	}
	repo.Commit("-- lib.go --\npackage lib // other\n")
	repo.Tag("v1.0.0")
	again := openPrivate(t, h.world, h.code, h.dir, nil)
	again.wantStatus("corp.example/lib/@v/v1.0.0.zip", http.StatusForbidden, "changed: the zip of corp.example/lib@v1.0.0")
	repo.Git("tag", "-f", "v1.0.0", "HEAD~1")
	for _, file := range []string{"zip", "mod", "info"} {
		again.ok("corp.example/lib/@v/v1.0.0." + file)
	}
	if again.log.Size() != 1 {
		t.Errorf("the log has %d entries, want the one", again.log.Size())
	}
}

// A tag that moved before its version was requested is pinned at its new commit, although
// the clone has it at the old one.
func TestPrivateMovedBeforePinned(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	if got := h.ok("corp.example/lib/@latest"); !strings.Contains(got, repo.Git("rev-parse", "HEAD")) {
		t.Fatalf("@latest is %s", got)
	}
	now := repo.Commit("-- lib.go --\npackage lib // newer\n")
	repo.Tag("v1.0.0")
	if got := h.ok("corp.example/lib/@v/v1.0.0.info"); !strings.Contains(got, now) {
		t.Errorf("the info is %s, want the commit %s", got, now)
	}
	if got := h.ok("corp.example/lib/@v/v1.0.0.zip"); h.log.Size() != 1 || got == "" {
		t.Errorf("the log has %d entries", h.log.Size())
	}
}

// A tag that moves while the whole version is stored changes nothing for clients.
func TestPrivateMovedTagHeld(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	first := h.ok("corp.example/lib/@v/v1.0.0.zip")
	repo.Commit("-- lib.go --\npackage lib // evil\n")
	repo.Tag("v1.0.0")
	h.pushed(repo.URL())
	if again := h.ok("corp.example/lib/@v/v1.0.0.zip"); again != first {
		t.Error("the stored content has changed")
	}
}

// A program that can write to the disk can write a zip and its hash. The log has another
// hash.
func TestPrivateTamperedDisk(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	key := "corp.example/lib/@v/v1.0.0.zip"
	content := h.ok(key)
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	h.stop()
	for name, test := range map[string]struct {
		key  string
		info func(*storage.Info)
		data string
	}{
		"content and hash": {key, func(i *storage.Info) { i.Hash = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }, content},
		"content alone":    {key, nil, content[:len(content)-30]},
		"a go.mod":         {"corp.example/lib/@v/v1.0.0.mod", nil, "module corp.example/lib\n\nrequire evil.example v1.0.0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := bolt.Open(filepath.Join(h.dir, "data"), nil)
			if err != nil {
				t.Fatal(err)
			}
			info, err := store.Stat(t.Context(), pinnedKey(test.key))
			if err != nil {
				t.Fatal(err)
			}
			good := info
			if test.info != nil {
				test.info(&info)
			}
			replaceStored(t, store, info, test.data)
			store.Close()
			again := openPrivate(t, h.world, h.code, h.dir, nil)
			again.wantStatus(test.key, http.StatusForbidden, "changed: the", "the proxy's own disk")
			again.wantStatus(test.key, http.StatusForbidden, "changed: the")
			again.stop()
			if store, err = bolt.Open(filepath.Join(h.dir, "data"), nil); err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if still, err := store.Stat(t.Context(), pinnedKey(test.key)); err != nil || still.Hash != info.Hash {
				t.Errorf("what was found is not kept: %+v, %v", still, err)
			}
			original := content
			if strings.HasSuffix(test.key, ".mod") {
				original = "module corp.example/lib\n"
			}
			replaceStored(t, store, good, original)
		})
	}
}

// hashesOf returns the h1 hashes of a zip and a go.mod, as the go command computes them.
func hashesOf(t *testing.T, content, mod []byte) (zipHash, modHash string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.zip")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	zipHash, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	modHash, err = dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(mod)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return zipHash, modHash
}

func replaceStored(t *testing.T, store *bolt.DB, info storage.Info, data string) {
	t.Helper()
	if err := store.Delete(t.Context(), info.Key); err != nil {
		t.Fatal(err)
	}
	info.Size = int64(len(data))
	if err := store.Create(t.Context(), info, strings.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

// The own log has no hash of an info. Still, an info on the disk that is of another
// version is not served.
func TestPrivateTamperedInfo(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	key := "corp.example/lib/@v/v1.0.0.info"
	good := h.ok(key)
	h.stop()
	store, err := bolt.Open(filepath.Join(h.dir, "data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := store.Stat(t.Context(), pinnedKey(key))
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

// countedStore counts the objects that are opened, and those that are read not only from their
// beginning, as a zip that is hashed. The latter wait until all clients have opened one.
type countedStore struct {
	storage.Store
	hashed  atomic.Int32
	clients sync.WaitGroup // those that have opened nothing yet
}

type countedObject struct {
	storage.Object
	s      *countedStore
	hashed bool
}

func (s *countedStore) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	s.clients.Done()
	return &countedObject{Object: object, s: s}, nil
}

func (o *countedObject) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 && !o.hashed {
		o.hashed = true
		o.s.hashed.Add(1)
		o.s.clients.Wait()
	}
	return o.Object.Seek(offset, whence)
}

// After a restart many clients request the same zip. It is compared with the log once,
// not once for each client.
func TestPrivateCheckedOnce(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	store := &countedStore{}
	again := openPrivate(t, h.world, h.code, h.dir, func(c *proxy.Config, _ *vcs.Config) { store.Store, c.Content.Store = c.Content.Store, store })
	const n = 20
	store.clients.Add(n)
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			if a := again.do(http.MethodHead, "corp.example/lib/@v/v1.0.0.zip"); a.status != http.StatusOK {
				t.Error(a)
			}
		})
	}
	clients.Wait()
	if n := store.hashed.Load(); n != 1 {
		t.Errorf("the zip was hashed %d times, want once", n)
	}
}

// A client whose zip must be compared with the log waits for the memory no longer than
// for any response.
func TestPrivateCheckWithoutMemory(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	proofs := memory.New(modzip.Memory)
	again := openPrivate(t, h.world, h.code, h.dir, func(c *proxy.Config, _ *vcs.Config) {
		c.Content.Memory.Proofs, c.Content.Times.Answer = proofs, time.Second
	})
	proofs.Must(1)
	again.wantStatus("corp.example/lib/@v/v1.0.0.zip", http.StatusServiceUnavailable, "no memory for")
	proofs.Give(1)
	again.ok("corp.example/lib/@v/v1.0.0.zip")
}
