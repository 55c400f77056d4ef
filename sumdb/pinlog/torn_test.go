package pinlog_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// diskState has the contents of all files of a log and its guard.
type diskState map[string]string

// saveState reads the files of a log.
func saveState(t testing.TB, c pinlog.Config) diskState {
	t.Helper()
	state := make(diskState)
	for name, data := range listing(t, c.Dir) {
		state[filepath.Join(c.Dir, name)] = data
	}
	if data, err := os.ReadFile(c.Guard); err == nil {
		state[c.Guard] = string(data)
	}
	for path, data := range state {
		keepFile(t, path, data)
	}
	return state
}

// keepFile keeps a link to a guard in a log, so that putState can restore the file itself: a crash
// is not a copy.
func keepFile(t testing.TB, path, data string) {
	t.Helper()
	if kept, ok := keptAs(path, data); ok {
		err := errors.Join(os.MkdirAll(filepath.Dir(kept), 0o700), os.Link(path, kept))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
}

// keptAs returns the path at which keepFile keeps a guard with this text, which has the number of
// its file in it.
func keptAs(path, data string) (kept string, ok bool) {
	sum := sha256.Sum256([]byte(data))
	return filepath.Join(filepath.Dir(path)+".kept", hex.EncodeToString(sum[:8])), strings.HasPrefix(filepath.Base(path), "guard-")
}

// putState writes contents back into the same files, with the same inodes, and removes the files
// that did not exist.
func putState(t testing.TB, c pinlog.Config, state diskState) {
	t.Helper()
	for name := range listing(t, c.Dir) {
		path := filepath.Join(c.Dir, name)
		if _, ok := state[path]; !ok {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, data := range state {
		putFile(t, path, data)
	}
}

// putFile writes the content that saveState found at path.
func putFile(t testing.TB, path, data string) {
	t.Helper()
	if kept, ok := keptAs(path, data); ok {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.Link(kept, path); err == nil {
			return
		}
	}
	writeFile(t, path, data)
}

func writeFile(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newGuardedLog creates a log of size entries with a guard outside, and closes it.
func newGuardedLog(t testing.TB, size int64) pinlog.Config {
	t.Helper()
	return newNamedLog(t, logName, size)
}

func newNamedLog(t testing.TB, name string, size int64) pinlog.Config {
	t.Helper()
	dir := t.TempDir()
	c := pinlog.Config{Dir: filepath.Join(dir, "log"), Name: name, Guard: filepath.Join(dir, "guard")}
	appendMore(t, c, size)
	return c
}

// appendMore opens a log, pins filler modules until it has size entries, each under a head of its
// own, and closes it. It returns the newest head.
func appendMore(t testing.TB, c pinlog.Config, size int64) (head []byte) {
	t.Helper()
	l, err := pinlog.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	for n := l.Size(); n < size; n++ {
		pinOne(t, l, entry(n))
	}
	head = latest(t, l)
	if err := l.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return head
}

// with opens a log, and closes it after use.
func with(t testing.TB, c pinlog.Config, use func(*pinlog.Log)) {
	t.Helper()
	l, err := pinlog.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer l.Close()
	use(l)
}

// signs checks that l takes entries, has size of them, finds them all, and
// continues heads.
func signs(t testing.TB, l *pinlog.Log, dir string, size int64, heads ...string) {
	t.Helper()
	if err := l.Refuses(); err != nil || l.Size() != size {
		t.Fatalf("%d entries, want %d; %v", l.Size(), size, err)
	}
	finds(t, l, size)
	shown := make(map[string]bool)
	for _, head := range heads {
		shown[head] = true
	}
	checkPrefixes(t, l, dir, shown)
	if err := l.Check(t.Context()); err != nil {
		t.Fatalf("Check: %v", err)
	}
}

// finds checks that l serves the filler modules below size.
func finds(t testing.TB, l *pinlog.Log, size int64) {
	t.Helper()
	for n := range size {
		want := entry(n)
		got, err := l.Find(t.Context(), want.Module)
		if err != nil || got.ID != n || got.Zip != want.Zip || got.Mod != want.Mod || got.Origin != want.Origin {
			t.Fatalf("Find(%v) = %+v, %v", want.Module, got, err)
		}
	}
}

// refuses checks that l signs nothing, reports that by its method and in its log, and serves the
// entries below size.
func refuses(t testing.TB, l *pinlog.Log, size int64, why string) {
	t.Helper()
	err := l.Refuses()
	if !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "adopt") {
		t.Fatalf("Refuses = %v, want an ErrFrozen because %q", err, why)
	}
	before := l.Size()
	if _, err := l.Pin(t.Context(), entry(1_000_000)); !errors.Is(err, sumdb.ErrFrozen) {
		t.Fatalf("Pin: %v", err)
	}
	if l.Size() != before {
		t.Fatalf("Size = %d, was %d", l.Size(), before)
	}
	finds(t, l, size)
	for n := range size {
		pinOne(t, l, entry(n)) // a known entry
	}
}

// The file of entries ends at any byte, or in zeros. Whole entries that were not signed are kept,
// incomplete ones are cut off, and signed ones must be there.
func TestLogTorn(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	before := saveState(t, c)
	appendMore(t, c, 5)
	after := saveState(t, c)
	heads := headsOnDisk(t, c.Dir)
	path := filepath.Join(c.Dir, "entries")
	entries := after[path]
	ends := []int{0}
	for _, frame := range framesOnDisk(t, c.Dir) {
		ends = append(ends, ends[len(ends)-1]+len(frame))
	}
	for cut := ends[2]; cut <= ends[5]; cut++ {
		whole := 2
		for whole < 5 && ends[whole+1] <= cut {
			whole++
		}
		if whole != 3 && whole < 5 && cut > ends[whole]+30 && cut < ends[whole+1]-3 && cut%7 != 0 {
			continue // like the entry that is cut at every byte
		}
		torn := entries[:cut]
		if cut%2 == 1 && cut > ends[whole] {
			torn += strings.Repeat("\x00", 100)
		}
		putState(t, c, before)
		writeFile(t, path, torn)
		with(t, c, func(l *pinlog.Log) {
			if whole < 3 {
				refuses(t, l, int64(whole), "has the tree of 3 entries, but there are only 2")
				return
			}
			if got := string(readFile(t, path)); got != entries[:ends[whole]] {
				t.Fatalf("cut at byte %d: %d bytes are left, want %d", cut, len(got), ends[whole])
			}
			// All heads except those beyond the remaining entries were signed once.
			signs(t, l, c.Dir, int64(whole), heads[:whole+1]...)
		})
		if whole < 3 && string(readFile(t, path)) != torn {
			t.Fatalf("cut at byte %d: a log that refuses has changed its entries", cut)
		}
	}
}

// A crash between any two writes of an append, and in the middle of one. None of them looks like a
// copy.
func TestLogCrashBetweenWrites(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	store := newStore(t)
	c.Store = store
	appendMore(t, c, 3) // into the store
	before, storeBefore := saveState(t, c), storeState(t, store)
	appendMore(t, c, 4)
	after, storeAfter := saveState(t, c), storeState(t, store)
	heads := headsOnDisk(t, c.Dir)
	check := func(step string) {
		t.Helper()
		t.Log("crash after", step)
		files := saveState(t, c)
		with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 4, heads...) })
		for path, want := range after {
			if got := string(readFile(t, path)); got != want && !strings.HasPrefix(filepath.Base(path), "guard-") {
				t.Errorf("%s is not as it would have been without the crash", path)
			}
		}
		if names := listing(t, c.Dir); len(names) != len(after)-1 {
			t.Errorf("%d files in the directory, want %d: %v", len(names), len(after)-1, slices.Sorted(maps.Keys(names)))
		}
		with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 4, heads...) })
		putState(t, c, files)
	}
	putState(t, c, before)
	setState(t, store, storeBefore)
	for _, name := range []string{"entries", "guard-4", "guard-3", "outer", "store", "heads", "head"} {
		path := filepath.Join(c.Dir, name)
		if name == "outer" {
			path = c.Guard
		}
		old, new := before[path], after[path]
		switch name {
		case "store":
			setState(t, store, storeAfter)
			check(name)
			continue
		case "guard-3":
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			check("removal of " + name)
			continue
		case "heads":
			for cut := len(old) + 1; cut < len(new); cut += 9 {
				writeFile(t, path, new[:cut])
				check(fmt.Sprintf("%d bytes of %s", cut, name))
			}
		case "guard-4", "outer", "head":
			writeFile(t, path+".new", new[:len(new)/2])
			check("half of " + name)
			if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		putFile(t, path, new)
		check(name)
	}
}

// storeState returns the state of the log in store.
func storeState(t testing.TB, store storage.Store) []byte {
	t.Helper()
	text, err := store.State(t.Context(), "log/guard")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func setState(t testing.TB, store storage.Store, text []byte) {
	t.Helper()
	if err := store.SetState(t.Context(), "log/guard", text); err != nil {
		t.Fatal(err)
	}
}

// Any byte of an entry changes on disk: the log serves neither this entry nor anything that
// contains it, and serves everything else.
func TestLogFlippedByte(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 5)
	good := saveState(t, c)
	path := filepath.Join(c.Dir, "entries")
	frames := framesOnDisk(t, c.Dir)
	from := len(frames[0]) + len(frames[1])
	l := openLog(t, c)
	for at := range frames[2] {
		data := []byte(good[path])
		data[from+at] ^= 1 << (at % 8)
		writeFile(t, path, string(data))
		isDamaged(t, l, 2)
	}
	// With a correct checksum, only the tree detects the change.
	text := frames[2][24:]
	forged := bytes.Replace(text, []byte(entry(2).Zip), []byte(entry(3).Zip), 1)
	renumbered := bytes.Replace(text, []byte("id 2"), []byte("id 3"), 1)
	for _, text := range [][]byte{forged, renumbered} {
		data := bytes.Replace([]byte(good[path]), frames[2], pinlog.AppendFrame(nil, text), 1)
		if len(data) != len(good[path]) || bytes.Equal(data, []byte(good[path])) {
			t.Fatal("nothing is forged")
		}
		writeFile(t, path, string(data))
		isDamaged(t, l, 2)
	}
	writeFile(t, path, good[path])
	signs(t, l, c.Dir, 5)
	l.Close()
	// A log that is opened with the wrong entry has only the entries before it.
	writeFile(t, path, strings.Replace(good[path], entry(2).Zip, entry(3).Zip, 1))
	with(t, c, func(l *pinlog.Log) {
		refuses(t, l, 2, "has the tree of 5 entries, but there are only 2")
		if where := fmt.Sprintf("entry 2 at byte %d", from); !strings.Contains(l.Refuses().Error(), where) {
			t.Errorf("Refuses = %v, want %q", l.Refuses(), where)
		}
		if _, err := l.Find(t.Context(), entry(3).Module); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Find beyond the damage: %v", err)
		}
		if _, err := l.Pin(t.Context(), entry(3)); !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("Pin beyond the damage: %v", err)
		}
	})
	adoptRefuses(t, c, nil, sumdb.ErrFrozen)
	// A forged entry with its checksum, below a head.
	writeFile(t, path, strings.Replace(good[path], string(frames[2]), string(pinlog.AppendFrame(nil, forged)), 1))
	with(t, c, func(l *pinlog.Log) {
		refuses(t, l, 2, "has another tree of 5 entries than the entries make")
		if tree := treeOf(t, l.Key(), latest(t, l)); tree.N > 2 {
			t.Errorf("the newest head is of %d entries, which are not those", tree.N)
		}
	})
	adoptRefuses(t, c, nil, sumdb.ErrFrozen)
}

// isDamaged checks that entry id of 5 is not served, and that the others are.
func isDamaged(t *testing.T, l *pinlog.Log, id int64) {
	t.Helper()
	for n := range int64(5) {
		got, err := l.Find(t.Context(), entry(n).Module)
		if n == id && !errors.Is(err, sumdb.ErrInvalid) || n != id && (err != nil || got.Zip != entry(n).Zip) {
			t.Fatalf("Find(%d) = %+v, %v", n, got, err)
		}
	}
	if _, err := l.Pin(t.Context(), entry(id)); !errors.Is(err, sumdb.ErrInvalid) {
		t.Fatalf("Pin: %v", err)
	}
	if data, err := l.Tile(t.Context(), tlog.Tile{H: 8, L: -1, N: 0, W: 5}); !errors.Is(err, sumdb.ErrInvalid) || data != nil {
		t.Fatalf("Tile = %q, %v", data, err)
	}
	if data, err := l.Tile(t.Context(), tlog.Tile{H: 8, L: -1, N: 0, W: int(id)}); err != nil || bytes.Count(data, []byte("h1:")) != 2*int(id) {
		t.Fatalf("Tile of what is before = %q, %v", data, err)
	}
	var seen int64
	for e, err := range l.Entries("") {
		if err != nil {
			if !errors.Is(err, sumdb.ErrInvalid) || seen != id {
				t.Fatalf("Entries after %d: %v", seen, err)
			}
			seen = -1
		} else if e.ID != seen || seen < 0 {
			t.Fatalf("Entries yields %+v after %d", e, seen)
		} else {
			seen++
		}
	}
	if err := l.Check(t.Context()); seen != -1 || !errors.Is(err, sumdb.ErrInvalid) {
		t.Fatalf("Check: %v", err)
	}
}

// The next writer completes a log whose creation was interrupted.
func TestLogHalfMade(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 0)
	key := readFile(t, filepath.Join(c.Dir, "key.pub"))
	for _, name := range []string{"head", "heads", "key"} {
		if err := os.Remove(filepath.Join(c.Dir, name)); err != nil {
			t.Fatal(err)
		}
		c.ReadOnly = true
		l, err := pinlog.Open(t.Context(), c)
		if err == nil {
			l.Close()
		}
		if name != "head" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without %s: Open: %v", name, err)
		}
	}
	// A second interruption, between the two guards.
	writeFile(t, filepath.Join(c.Dir, "guard-0"), string(readFile(t, filepath.Join(newGuardedLog(t, 0).Dir, "guard-0"))))
	c.ReadOnly = false
	appendMore(t, c, 2)
	if bytes.Equal(readFile(t, filepath.Join(c.Dir, "key.pub")), key) {
		t.Error("a key that was gone is there again")
	}
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 2) })
}

// The files of an open log are restored from an old copy: Check finds them consistent except with
// what the log serves.
func TestLogCheckAnswers(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	before := saveState(t, c)
	appendMore(t, c, 5)
	after := saveState(t, c)
	with(t, c, func(l *pinlog.Log) {
		putState(t, c, before)
		if err := l.Check(t.Context()); !errors.Is(err, sumdb.ErrInvalid) || !strings.Contains(err.Error(), "the 3 entries on disk differ from those in memory") {
			t.Errorf("Check: %v", err)
		}
		putState(t, c, after)
		signs(t, l, c.Dir, 5)
	})
}
