package pinlog_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// A log whose files got another owner, mode, link or path is not a copy.
func TestLogTouched(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no owners and links")
	}
	each := func(change func(path string) error) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for name := range listing(t, dir) {
				if err := change(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, test := range []struct {
		name   string
		change func(t *testing.T, dir string)
	}{
		{"chown -R", each(func(path string) error { return os.Chown(path, os.Getuid(), os.Getgid()) })},
		{"chmod -R", each(func(path string) error { return os.Chmod(path, 0o640) })},
		{"fsGroup", each(func(path string) error {
			return errors.Join(os.Chown(path, -1, os.Getgid()), os.Chmod(path, 0o660|os.ModeSetgid))
		})},
		{"touch", each(func(path string) error { return os.Chtimes(path, time.Time{}, time.Now()) })},
		{"a backup by links", each(func(path string) error {
			kept := filepath.Dir(path) + ".links"
			return errors.Join(os.MkdirAll(kept, 0o700), os.Link(path, filepath.Join(kept, filepath.Base(path))))
		})},
		{"DynamicUser", func(t *testing.T, dir string) { // moved below private/, chown, and back again
			rename(t, dir, dir+".private")
			each(func(path string) error { return os.Chown(path, os.Getuid(), os.Getgid()) })(t, dir+".private")
			if err := os.Symlink(dir+".private", dir); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newGuardedLog(t, 3)
			heads := headsOnDisk(t, c.Dir)
			for size := int64(3); size < 6; size++ {
				test.change(t, c.Dir)
				var out bytes.Buffer
				c.Logger = slog.New(slog.NewTextHandler(&out, nil))
				with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, size, heads...) })
				before := saveState(t, pinlog.Config{Dir: c.Dir})
				for range 2 {
					with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, size, heads...) })
				}
				if after := saveState(t, pinlog.Config{Dir: c.Dir}); !maps.Equal(before, after) {
					t.Error("the second start changed the files")
				}
				if n := strings.Count(out.String(), "another program changed the file of entries"); n != 1 && runtime.GOOS == "linux" {
					t.Errorf("%d lines say that the file was changed, want 1:\n%s", n, &out)
				}
				appendMore(t, c, size+1)
				if test.name == "DynamicUser" || test.name == "a backup by links" {
					break
				}
			}
			if links := c.Dir + ".links"; test.name == "a backup by links" {
				// The same file of entries, and an older guard.
				rename(t, c.Dir, c.Dir+".away")
				rename(t, links, c.Dir)
				with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 4, heads...) })
			}
		})
	}
}

// hookedStore calls a function before it changes a state, and fails with its error.
type hookedStore struct {
	storage.Store
	hook func() error
}

func (s *hookedStore) SetState(ctx context.Context, name string, value []byte) error {
	if err := s.hook(); err != nil {
		return err
	}
	return s.Store.SetState(ctx, name, value)
}

// A backup that is restored under an open log stops it before it appends, or, in the middle of an
// append, before it signs. No acknowledged entry is lost, and no start signs the lost ones.
func TestLogRestoredWhileOpen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		restore func(t testing.TB, c pinlog.Config, old diskState)
		middle  bool
		why     string
	}{
		{"into the same files", putOver, false, "entries has "},
		{"into the same files, the newer ones removed", putInPlace, false, "is not in the file in which it was written"},
		{"a disk", putState, false, "it has the tree of 4 entries, this process left it with 7: an older copy was put back"},
		{"new files", putCopy, false, "is another file than when it was opened"},
		{"into the same files, in the middle", putOver, true, "entries has "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if runtime.GOOS == "windows" {
				t.Skip("a file that is open stays where it is")
			}
			store := &hookedStore{newStore(t), func() error { return nil }}
			c := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName, Store: store}
			appendMore(t, c, 4)
			old := saveState(t, c)
			newest := appendMore(t, c, 7)
			state := saveState(t, c)
			l := openLog(t, c)
			if test.middle {
				store.hook = func() error {
					test.restore(t, c, old)
					return nil
				}
			} else {
				test.restore(t, c, old)
			}
			for range 2 {
				if _, err := l.Pin(t.Context(), entry(7)); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), test.why) {
					t.Fatalf("Pin: %v, want %q", err, test.why)
				}
			}
			if got, want := len(readFile(t, filepath.Join(c.Dir, "entries"))), len(old[filepath.Join(c.Dir, "entries")]); got != want {
				t.Errorf("%d bytes of entries, the backup has %d", got, want)
			}
			if string(latest(t, l)) != string(newest) {
				t.Error("another head is shown than the last one that was signed")
			}
			l.Close()
			with(t, c, func(l *pinlog.Log) { refuses(t, l, 4, "") })
			adoptRefuses(t, c, nil, sumdb.ErrFrozen) // the store remembers them
			store.hook = func() error { return nil }
			putOver(t, c, state)
			err := pinlog.Adopt(t.Context(), c, newest)
			if test.middle != errors.Is(err, sumdb.ErrFrozen) { // the store has the tree that the log was about to sign
				t.Errorf("Adopt of the newest copy: %v", err)
			}
			if !test.middle {
				with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 7, string(newest)) })
			}
		})
	}
}

// toOldGuard replaces the guard beside the entries by the one that the first version of this
// program wrote.
func toOldGuard(t *testing.T, c pinlog.Config, guard string) {
	t.Helper()
	path := filepath.Join(c.Dir, guard)
	text, _, err := pinlog.OldGuard(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(c.Dir, "guard"), string(text))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// A directory of the first version of this program is opened and upgraded, also after a crash at
// any point of the upgrade, and is as safe as a new one from then on.
func TestLogUpgrade(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 5)
	heads := headsOnDisk(t, c.Dir)
	toOldGuard(t, c, "guard-5")
	old, oldFiles := saveState(t, c), saveState(t, pinlog.Config{Dir: c.Dir})
	upgraded := func() {
		t.Helper()
		with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 5, heads...) })
		files := listing(t, c.Dir)
		if _, ok := files["guard"]; ok || files["guard-5"] == "" {
			t.Errorf("the guard was not upgraded: %q", files)
		}
	}
	c.ReadOnly = true
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 5, heads...) })
	c.ReadOnly = false
	if !maps.Equal(saveState(t, c), old) {
		t.Error("a reader changed the files")
	}
	upgraded()
	new := saveState(t, pinlog.Config{Dir: c.Dir})
	// A crash after the new guard was renamed, and before.
	writeFile(t, filepath.Join(c.Dir, "guard"), old[filepath.Join(c.Dir, "guard")])
	upgraded()
	putState(t, c, old)
	writeFile(t, filepath.Join(c.Dir, "guard-5.new"), "half")
	upgraded()
	// With entries that the old program wrote and did not sign.
	appendMore(t, c, 6)
	six := saveState(t, c)
	putState(t, c, old)
	writeFile(t, filepath.Join(c.Dir, "entries"), six[filepath.Join(c.Dir, "entries")])
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 6, heads...) })
	// The old backup is copied over the upgraded log.
	putState(t, c, six)
	putOver(t, c, oldFiles)
	with(t, c, func(l *pinlog.Log) { refuses(t, l, 5, "guard-6 has the tree of 6 entries, but there are only 5") })
	adoptRefuses(t, c, nil, sumdb.ErrFrozen)
	putState(t, c, new)
	with(t, c, func(l *pinlog.Log) { refuses(t, l, 5, "guard has the tree of 6 entries") }) // the guard outside is not restored
	// A copy of a directory of the old program.
	putState(t, c, old)
	writeFile(t, c.Guard, old[c.Guard])
	putCopy(t, c, old)
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" {
		with(t, c, func(l *pinlog.Log) { refuses(t, l, 5, "is a copy") })
	}
	if err := pinlog.Adopt(t.Context(), c, nil); err != nil {
		t.Fatal(err)
	}
	upgraded()
}

// storeOf returns a store with the zips of the filler modules below size, pinned by the log called
// name.
func storeOf(t *testing.T, name string, size int64) storage.Store {
	t.Helper()
	store := newStore(t)
	for n := range size {
		storePinned(t, store, name, entry(n).Module)
	}
	return store
}

func storePinned(t *testing.T, store storage.Store, name string, mod module.Version) {
	t.Helper()
	info := storage.Info{Key: mod.Path + "/@v/" + mod.Version + ".zip", Size: 3, Proof: name}
	if err := store.Create(t.Context(), info, strings.NewReader("zip")); err != nil {
		t.Fatal(err)
	}
}

// A store of the first version of this program has no tree, but it has the versions that were
// pinned: a log that lacks one of them was restored from an old copy.
func TestLogLacksStored(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 5)
	c.Store = storeOf(t, logName, 5)
	storePinned(t, c.Store, "sum.golang.org", module.Version{Path: "example.com/public", Version: "v1.0.0"})
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 5) })
	storePinned(t, c.Store, logName, entry(5).Module)
	storePinned(t, c.Store, logName, entry(6).Module)
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 5) }) // the tree in the store is enough
	if err := c.Store.DeleteState(t.Context(), "log/guard"); err != nil {
		t.Fatal(err)
	}
	head := headsOnDisk(t, c.Dir)[5]
	with(t, c, func(l *pinlog.Log) {
		refuses(t, l, 5, "the store has 2 versions that this log pinned, but the log does not have them")
		if text := l.Refuses().Error(); strings.Contains(text, entry(5).Module.Path) || strings.Contains(text, "no-client-has-seen-more") {
			t.Errorf("Refuses: %v", text)
		}
	})
	adoptRefuses(t, c, nil, sumdb.ErrFrozen)
	adoptRefuses(t, c, []byte(head), sumdb.ErrFrozen)
	other := c
	other.Store = storeOf(t, logName, 5)
	with(t, other, func(l *pinlog.Log) {
		pinOne(t, l, entry(5))
		pinOne(t, l, entry(6))
	})
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 7, head) })
}

// Versions that were stored before the first entry of a log were pinned in another one of the same
// name, which the first version of this program allowed.
func TestLogLacksOlder(t *testing.T) {
	t.Parallel()
	store := storeOf(t, logName, 0)
	info := storage.Info{Key: "example.com/old/@v/v1.0.0.zip", Size: 3, Proof: logName, Time: time.Now().Add(-time.Hour)}
	if err := store.Create(t.Context(), info, strings.NewReader("zip")); err != nil {
		t.Fatal(err)
	}
	c := newGuardedLog(t, 2)
	c.Store = store
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 2) })
}

// The store remembers a lost log: no other one can be created with its name, or without a name. A
// store that was used with another log has no effect.
func TestLogStoreRemembers(t *testing.T) {
	t.Parallel()
	c := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName, Store: storeOf(t, "", 0)}
	appendMore(t, c, 0)
	rename(t, c.Dir, c.Dir+".0")
	appendMore(t, c, 3) // the first log has no entries yet
	rename(t, c.Dir, c.Dir+".3")
	for _, name := range []string{"", logName} {
		c.Name = name
		if _, err := pinlog.Open(t.Context(), c); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "the store remembers the log "+logName+" of 3 entries") {
			t.Errorf("a new log %q: %v", name, err)
		}
		if files := listing(t, c.Dir); len(files) > 1 { // more than the lock
			t.Errorf("a log %q was begun: %v", name, files)
		}
	}
	c.Name = "sum.corp.example/2"
	appendMore(t, c, 2)
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 2) })
	c.Name = ""
	same := newNamedLog(t, "sum.corp.example/2", 4)
	same.Store = c.Store
	with(t, same, func(l *pinlog.Log) {
		refuses(t, l, 4, "the store records a log of the same name with the key "+string(readFile(t, filepath.Join(c.Dir, "key.pub")))[:20])
	})
	adoptRefuses(t, same, nil, sumdb.ErrFrozen)
	c.Dir += ".3"
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 3) })
	// The versions in the store of the first version of this program have the same effect.
	c = pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName, Store: storeOf(t, logName, 1)}
	if _, err := pinlog.Open(t.Context(), c); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "that log is gone") {
		t.Errorf("a new log beside versions of an old one: %v", err)
	}
}

// A store that cannot record the tree that is about to be signed prevents the signature, like a
// guard. A store that is older than the log, or has a damaged state, does not.
func TestLogStoreTrouble(t *testing.T) {
	t.Parallel()
	full := errors.New("no room")
	memory := newStore(t)
	store := &hookedStore{memory, func() error { return nil }}
	c := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName, Store: store}
	appendMore(t, c, 3)
	older := storeState(t, memory)
	appendMore(t, c, 5)
	with(t, c, func(l *pinlog.Log) {
		store.hook = func() error { return full }
		pinFailsWith(t, l, full)
		store.hook = func() error { return nil }
		pinOne(t, l, entry(5))
	})
	for _, state := range [][]byte{older, []byte("garbage")} {
		setState(t, memory, state)
		with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 6) })
		if got := storeState(t, memory); !strings.Contains(string(got), "\nsize 6\n") {
			t.Errorf("the store remembers %q", got)
		}
	}
}

func pinFailsWith(t *testing.T, l *pinlog.Log, want error) {
	t.Helper()
	if _, err := l.Pin(t.Context(), entry(5)); !errors.Is(err, want) || errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Pin: %v", err)
	}
	if _, err := l.Find(t.Context(), entry(5).Module); err == nil {
		t.Error("Find shows what is not signed")
	}
}

// A backup of an open log as in docs/operations.md, with the entries copied last, has the entries
// of all its heads, no matter how many appends happen between two files.
func TestLogBackupWhileOpen(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 2)
	backup := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Adopt: "assay log adopt --data there"}
	if err := os.Mkdir(backup.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	with(t, c, func(l *pinlog.Log) {
		for _, name := range []string{"key", "key.pub", "head", "heads", "entries"} {
			writeFile(t, filepath.Join(backup.Dir, name), string(readFile(t, filepath.Join(c.Dir, name))))
			pinOne(t, l, entry(l.Size()))
		}
	})
	with(t, backup, func(l *pinlog.Log) {
		refuses(t, l, 6, "guard-SIZE is gone")
		if text := l.Refuses().Error(); !strings.Contains(text, "run this, and start it again: assay log adopt --data there --no-client-has-seen-more;") {
			t.Errorf("Refuses: %v", text)
		}
	})
	if err := pinlog.Adopt(t.Context(), backup, nil); err != nil {
		t.Fatal(err)
	}
	with(t, backup, func(l *pinlog.Log) { signs(t, l, backup.Dir, 6) })
}
