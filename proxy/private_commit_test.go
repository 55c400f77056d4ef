package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// guardState is the guard of the own log in the store.
const guardState = "log/guard"

// libVersion returns a version of lib, with its number in it.
func libVersion(n int, more string) string {
	return fmt.Sprintf("-- go.mod --\nmodule corp.example/lib\n-- lib.go --\npackage lib\n\nconst N = %d\n%s", n, more)
}

// pseudoRandom returns a text that no compression makes small.
func pseudoRandom(n int) string {
	var b strings.Builder
	for x := uint64(1); b.Len() < n; x = x*6364136223846793005 + 1442695040888963407 {
		fmt.Fprintf(&b, "// %016x\n", x)
	}
	return b.String()
}

// libFiles are the paths of the files of lib v1.n.0.
func libFiles(n int) (paths []string) {
	for _, ext := range []string{"zip", "mod", "info"} {
		paths = append(paths, fmt.Sprintf("corp.example/lib/@v/v1.%d.0.%s", n, ext))
	}
	return paths
}

// tagLib makes the repository of lib with the versions v1.0.0, v1.1.0, …
func tagLib(code *vcstest.World, versions ...string) *vcstest.Repo {
	repo := code.Module("lib")
	for i, v := range versions {
		repo.Commit(v)
		repo.Tag(fmt.Sprintf("v1.%d.0", i))
	}
	return repo
}

// A private version waits for the store once, together with the guard of its pin. Large zips, and the
// first version of a module, cost more.
func TestPrivateFillIsOneCommit(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	tagLib(h.code, libVersion(0, ""), libVersion(1, ""), libVersion(2, pseudoRandom(100_000)))
	h.beginJournal()
	for _, tt := range []struct {
		name string
		n    int
		want uint64
	}{
		{"the first version", 0, 1 + 2}, // what is known about its repository, and the index of that
		{"a version", 1, 1},
		{"a version that is pinned", 1, 1},
		{"a large zip", 2, 1 + 3 + 1}, // the guard; intent, content, record; go.mod and .info
	} {
		if tt.name == "a version that is pinned" {
			for _, path := range libFiles(tt.n) {
				if err := h.store.Delete(t.Context(), pinnedKey(path)); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := h.commits()
		h.ok(libFiles(tt.n)[0])
		if n := h.commits() - before; n != tt.want {
			t.Errorf("%s: %d commits, want %d", tt.name, n, tt.want)
		}
		for _, path := range libFiles(tt.n) {
			if !h.holdsPinned(path) {
				t.Errorf("%s: %s is not stored", tt.name, path)
			}
		}
	}
}

func (h *hosts) holdsPinned(path string) bool {
	_, err := h.store.Stat(h.t.Context(), pinnedKey(path))
	return err == nil
}

// tapped is a store whose changes and reads of states pass through hooks, which may be nil.
type tapped struct {
	storage.Store
	mu    sync.Mutex
	to    storage.Store                                      // changes go here if it is not nil
	state func(name string)                                  // before a state is read
	list  func(prefix string)                                // before objects are listed
	apply func(b storage.Batch, do func() error) (err error) // instead of a batch
}

func (s *tapped) changed(do func(storage.Store) error) error {
	s.mu.Lock()
	to := s.to
	if to == nil {
		s.mu.Unlock()
		return do(s.Store)
	}
	defer s.mu.Unlock() // storagetest.Cut is for one goroutine
	return do(to)
}

func (s *tapped) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *tapped) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	return s.changed(func(to storage.Store) error { return to.Create(ctx, info, r) })
}

func (s *tapped) SetState(ctx context.Context, name string, value []byte) error {
	return s.changed(func(to storage.Store) error { return to.SetState(ctx, name, value) })
}

func (s *tapped) SwapState(ctx context.Context, name string, old, value []byte) error {
	return s.changed(func(to storage.Store) error { return to.SwapState(ctx, name, old, value) })
}

func (s *tapped) State(ctx context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	hook := s.state
	s.mu.Unlock()
	if hook != nil {
		hook(name)
	}
	return s.Store.State(ctx, name)
}

func (s *tapped) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	s.mu.Lock()
	hook := s.list
	s.mu.Unlock()
	if hook != nil {
		hook(prefix)
	}
	return s.Store.Keys(ctx, prefix)
}

func (s *tapped) Apply(ctx context.Context, b storage.Batch) error {
	do := func() error { return s.changed(func(to storage.Store) error { return to.Apply(ctx, b) }) }
	s.mu.Lock()
	hook := s.apply
	s.mu.Unlock()
	if hook != nil {
		return hook(b, do)
	}
	return do()
}

// startTapped is startPrivate with a tapped store.
func startTapped(t *testing.T, world *proxytest.World, code *vcstest.World, dir string) (*hosts, *tapped) {
	t.Helper()
	s := new(tapped)
	return openPrivate(t, world, code, dir, func(c *proxy.Config, _ *vcs.Config) { s.Store, c.Content.Store = c.Content.Store, s }), s
}

// After a crash between any two steps, the store has no file of a private version without its pin, and
// what a client has is still served.
func TestPrivateFillIsCutOff(t *testing.T) {
	t.Parallel()
	world, code := newWorld(t), vcstest.New(t)
	tagLib(code, libVersion(0, ""), libVersion(1, ""))
	version := module.Version{Path: "corp.example/lib", Version: "v1.1.0"}
	for steps, complete := 0, false; !complete; steps++ {
		dir := t.TempDir()
		h, s := startTapped(t, world, code, dir)
		h.ok(libFiles(0)[0])
		s.set(func() { s.to = storagetest.Cut(s.Store, steps) })
		a := h.get(libFiles(1)[0])
		if complete = a.status == http.StatusOK; !complete && a.status < 500 {
			t.Errorf("after %d steps: %v", steps, a)
		}
		h.stop()
		h = openPrivate(t, world, code, dir, nil)
		_, err := h.log.Find(t.Context(), version)
		if pinned := err == nil; !pinned {
			t.Errorf("after %d steps: the entry that was on disk is not pinned: %v", steps, err)
		}
		held := 0
		for _, path := range libFiles(1) {
			if h.holdsPinned(path) {
				held++
				h.ok(path, "Disable-Module-Fetch", "true")
			} else if held > 0 && complete {
				t.Errorf("%s is lost", path)
			}
		}
		if steps == 0 && held > 0 || complete && held < 3 {
			t.Errorf("after %d steps %d files are held", steps, held)
		}
		for _, path := range libFiles(1) {
			h.ok(path)
		}
		h.stop()
		if complete && steps < 4 {
			t.Errorf("complete after %d steps: guard, zip, go.mod and .info are more", steps)
		}
	}
}

// Between the batch and the signature no client gets a file of the version, and a backup that is taken
// then has the pin of each private version that it has.
func TestPrivateFillBeforeSignature(t *testing.T) {
	t.Parallel()
	h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
	tagLib(h.code, libVersion(0, ""))
	seen := 0
	s.set(func() {
		s.apply = func(b storage.Batch, do func() error) error {
			if b.Swap == nil || b.Swap.Name != guardState {
				return do()
			}
			err := do()
			seen++
			for _, path := range libFiles(0) {
				if !h.holdsPinned(path) {
					t.Errorf("%s is not in the batch of its guard", path)
				}
				if a := h.get(path, "Disable-Module-Fetch", "true"); a.status == http.StatusOK {
					t.Errorf("%s is served before it is signed", path)
				}
			}
			copied := filepath.Join(t.TempDir(), "log")
			copyLog(t, filepath.Join(h.dir, "log"), copied)
			backup, err2 := pinlog.Open(t.Context(), pinlog.Config{Dir: copied})
			if err2 != nil {
				t.Error(err2)
				return err
			}
			defer backup.Close()
			if _, err := backup.Find(t.Context(), module.Version{Path: "corp.example/lib", Version: "v1.0.0"}); err != nil || backup.Refuses() == nil {
				t.Errorf("the backup has %v, and refuses: %v", err, backup.Refuses())
			}
			return err
		}
	})
	for _, path := range libFiles(0) {
		h.ok(path)
	}
	if seen != 1 {
		t.Errorf("%d batches with a guard, want 1", seen)
	}
}

// copyLog copies the files of a log as a backup does.
func copyLog(t *testing.T, from, to string) {
	t.Helper()
	names, err := pinlog.BackupFiles(from)
	err = errors.Join(err, os.Mkdir(to, 0o700), os.WriteFile(filepath.Join(to, pinlog.BackupMark), nil, 0o600))
	for _, name := range names {
		data, readErr := os.ReadFile(filepath.Join(from, name))
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(to, name), data, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A module becomes public while its guard is written: its files are not stored as private ones. The pin
// stays.
func TestReloadBesideGuard(t *testing.T) {
	t.Parallel()
	h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
	tagLib(h.code, libVersion(0, ""))
	var once sync.Once
	s.set(func() {
		s.state = func(name string) {
			if name == guardState {
				once.Do(func() {
					h.server.Reload(content.Settings{Upstream: h.chain, Policy: policyOf(t, "corp.example/other"), VCS: h.vcs})
				})
			}
		}
	})
	if a := h.get(libFiles(0)[0]); a.status == http.StatusOK {
		t.Errorf("%v", a)
	}
	for _, path := range libFiles(0) {
		if h.holdsPinned(path) {
			t.Errorf("%s of a public module is stored as private", path)
		}
	}
	if h.log.Size() != 1 {
		t.Errorf("the own log has %d entries", h.log.Size())
	}
}

// A disk that has room for the guard and not for the files refuses the files alone: the version is
// pinned, other versions too, and the files are stored when there is room.
func TestPrivateFillOnFullDisk(t *testing.T) {
	t.Parallel()
	h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
	tagLib(h.code, libVersion(0, ""), libVersion(1, ""))
	full := func(b storage.Batch, do func() error) error {
		for _, c := range b.Create {
			if strings.HasPrefix(c.Info.Key, "pinned/") {
				return fmt.Errorf("write meta.db: %w", syscall.ENOSPC)
			}
		}
		return do()
	}
	s.set(func() { s.apply = full })
	h.wantStatus(libFiles(0)[2], http.StatusServiceUnavailable, "disk is full")
	h.wantStatus(libFiles(1)[0], http.StatusServiceUnavailable, "disk is full")
	if h.log.Size() != 2 || h.log.Refuses() != nil {
		t.Errorf("the own log has %d entries: %v", h.log.Size(), h.log.Refuses())
	}
	s.set(func() { s.apply = nil })
	for _, path := range append(libFiles(0), libFiles(1)...) {
		h.ok(path)
	}
}

// Something else has the key of a file: the version is pinned, and what is there is replaced if it is
// no file of the own log.
func TestPrivateFillOverAnother(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	tagLib(h.code, libVersion(0, ""))
	key := pinnedKey(libFiles(0)[1])
	if err := h.store.Create(t.Context(), storage.Info{Key: key, Size: 5, Hash: "h1:other"}, strings.NewReader("wrong")); err != nil {
		t.Fatal(err)
	}
	h.ok(libFiles(0)[0])
	if got := h.ok(libFiles(0)[1]); got != "module corp.example/lib\n" {
		t.Errorf("the go.mod is %q", got)
	}
	h.ok(libFiles(0)[2])
}

// A purge while a version is stored leaves all of its files or none, and no file of an unpinned version.
func TestPurgeBesidePrivateFill(t *testing.T) {
	t.Parallel()
	h, s := startTapped(t, newWorld(t), vcstest.New(t), t.TempDir())
	tagLib(h.code, libVersion(0, ""))
	s.set(func() {
		s.apply = func(b storage.Batch, do func() error) error {
			err := do()
			if b.Swap != nil && b.Swap.Name == guardState {
				for _, path := range libFiles(0) {
					if err := h.store.Delete(t.Context(), pinnedKey(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				}
			}
			return err
		}
	})
	if a := h.get(libFiles(0)[0]); a.status < 500 {
		t.Errorf("a version that was purged: %v", a)
	}
	for _, path := range libFiles(0) {
		h.ok(path)
	}
}
