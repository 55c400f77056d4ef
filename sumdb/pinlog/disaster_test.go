package pinlog_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// copyTo copies the directory from to to, in new files.
func copyTo(t testing.TB, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// stillAnswers checks that a log that refuses still serves its entries.
func stillAnswers(t *testing.T, l *pinlog.Log, size int64) {
	t.Helper()
	if tree := treeOf(t, l.Key(), latest(t, l)); tree.N != size {
		t.Errorf("the newest head is of %d entries, want %d", tree.N, size)
	}
	for _, level := range []int{0, -1} {
		if data, err := l.Tile(t.Context(), tlog.Tile{H: 8, L: level, N: 0, W: int(size)}); err != nil || len(data) == 0 {
			t.Errorf("Tile of level %d: %v", level, err)
		}
	}
	for n := range size {
		e, err := l.Find(t.Context(), entry(n).Module)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Reply(t.Context(), e.Record()); err != nil {
			t.Errorf("Reply: %v", err)
		}
	}
	goCommand(t, l, nil, sumdbtest.Filler(0), sumdbtest.Filler(size-1))
}

// adoptRefuses checks that Adopt refuses head, and changes nothing.
func adoptRefuses(t *testing.T, c pinlog.Config, head []byte, want error) {
	t.Helper()
	before := saveState(t, pinlog.Config{Dir: c.Dir})
	if err := pinlog.Adopt(t.Context(), c, head); !errors.Is(err, want) {
		t.Errorf("Adopt: %v, want %v", err, want)
	}
	for path, data := range saveState(t, pinlog.Config{Dir: c.Dir}) {
		if before[path] != data {
			t.Errorf("a refused Adopt changed %s", path)
		}
	}
}

// A restored old copy signs nothing that contradicts earlier heads, and takes entries again once
// the newest copy is restored and adopted.
func TestLogRestored(t *testing.T) {
	t.Parallel()
	const guardOutside, storeStays, witness = 1, 2, 3 // the traces of newer entries that remain
	for _, test := range []struct {
		name    string
		restore func(t testing.TB, c pinlog.Config, old diskState)
		also    int
		knows   bool // a client has seen more than the copy, and the administrator cannot deny it
		why     string
	}{
		{"new files", putCopy, 0, false, "is a copy: the guard beside it was written for another file"},
		{"new files, guarded", putCopy, guardOutside, true, "guard has the tree of 7 entries, but there are only 4"},
		{"new files beside the store", putCopy, storeStays, true, "the store has the tree of 7 entries, but there are only 4"},
		{"into the same files", putOver, 0, true, "guard-7 has the tree of 7 entries, but there are only 4"},
		{"into the same files, the newer ones removed", putInPlace, 0, false, "is a copy: the guard beside it is not in the file in which it was written"},
		{"a disk, guarded", putState, guardOutside, true, "guard has the tree of 7 entries, but there are only 4"},
		{"a disk beside the store", putState, storeStays, true, "the store has the tree of 7 entries, but there are only 4"},
		{"a disk, witnessed", putState, witness, true, "a client has seen a signed head of 7 entries that does not fit the 4 entries here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.also == 0 && !test.knows && runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
				t.Skip("this system does not tell a file from its copy")
			}
			dir := t.TempDir()
			c := pinlog.Config{Dir: filepath.Join(dir, "log"), Name: logName}
			switch test.also {
			case guardOutside:
				c.Guard = filepath.Join(dir, "guard")
			case storeStays:
				c.Store = newStore(t)
			}
			appendMore(t, c, 4)
			oldState := saveState(t, pinlog.Config{Dir: c.Dir})
			newest := appendMore(t, c, 7)
			newState := saveState(t, pinlog.Config{Dir: c.Dir})
			heads := headsOnDisk(t, c.Dir)
			test.restore(t, c, oldState)
			with(t, c, func(l *pinlog.Log) {
				if test.also == witness {
					if err := l.Witness(newest); !errors.Is(err, sumdb.ErrFrozen) {
						t.Errorf("Witness of the newest head: %v", err)
					}
				}
				refuses(t, l, 4, test.why)
				stillAnswers(t, l, 4)
			})
			with(t, c, func(l *pinlog.Log) {
				refuses(t, l, 4, "")
				stillAnswers(t, l, 4)
			})
			adoptRefuses(t, c, newest, sumdb.ErrFrozen)
			adoptRefuses(t, c, sumdbtest.NewLog(t, logName).Head(0), sumdb.ErrInvalid)
			if test.knows {
				// The administrator does not know the newest head.
				adoptRefuses(t, c, nil, sumdb.ErrFrozen)
				adoptRefuses(t, c, []byte(heads[4]), sumdb.ErrFrozen)
			}
			putOver(t, c, newState)
			if err := pinlog.Adopt(t.Context(), c, newest); err != nil {
				t.Fatalf("Adopt of the newest copy: %v", err)
			}
			with(t, c, func(l *pinlog.Log) {
				signs(t, l, c.Dir, 7, heads...)
				pinOne(t, l, entry(7))
				signs(t, l, c.Dir, 8, heads...)
				goCommand(t, l, newest, sumdbtest.Filler(7)) // a client that has seen the newest head
			})
		})
	}
}

// putOver is cp -a BACKUP/. LOG/: the contents go into the files of the same names; files that
// exist only in the log stay.
func putOver(t testing.TB, _ pinlog.Config, old diskState) {
	for path, data := range old {
		writeFile(t, path, data)
	}
}

// putInPlace is rsync --inplace --delete: like putOver, but files that the backup does not have are
// removed.
func putInPlace(t testing.TB, c pinlog.Config, old diskState) {
	for name := range listing(t, c.Dir) {
		if _, ok := old[filepath.Join(c.Dir, name)]; !ok {
			if err := os.Remove(filepath.Join(c.Dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	putOver(t, c, old)
}

// putCopy replaces the log by a backup: all files are new.
func putCopy(t testing.TB, c pinlog.Config, old diskState) {
	rename(t, c.Dir, c.Dir+".away")
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	putOver(t, c, old)
}

// A log that moves to another disk is adopted there and goes on. Adopt puts a torn tail aside.
func TestLogMoved(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 5)
	heads := headsOnDisk(t, c.Dir)
	moved := pinlog.Config{Dir: filepath.Join(t.TempDir(), "moved"), Guard: filepath.Join(t.TempDir(), "guard")}
	copyTo(t, moved.Dir, c.Dir)
	entries := filepath.Join(moved.Dir, "entries")
	writeFile(t, entries, string(readFile(t, entries))+"entry torn")
	with(t, moved, func(l *pinlog.Log) { refuses(t, l, 5, "is gone, or was never there") })
	if err := pinlog.Adopt(t.Context(), moved, []byte(heads[5])); err != nil {
		t.Fatal(err)
	}
	aside, err := filepath.Glob(filepath.Join(moved.Dir, "cut-*"))
	if err != nil || len(aside) != 1 || string(readFile(t, aside[0])) != "entry torn" {
		t.Errorf("put aside is %q, %v", aside, err)
	}
	appendMore(t, moved, 8)
	with(t, moved, func(l *pinlog.Log) { signs(t, l, moved.Dir, 8, heads...) })
	if err := pinlog.Adopt(t.Context(), pinlog.Config{Dir: filepath.Join(t.TempDir(), "none")}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("adopt where no log is: %v", err)
	}
}

// A file of the log is lost or wrong. The log refuses with the reason, serves its entries, changes
// nothing, and can be adopted only if that contradicts nothing.
func TestLogDamagedFiles(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 5)
	good, newest := saveState(t, c), headsOnDisk(t, c.Dir)[5]
	other := newGuardedLog(t, 5)
	head, heads := filepath.Join(c.Dir, "head"), filepath.Join(c.Dir, "heads")
	inner, frozen := filepath.Join(c.Dir, "guard-5"), filepath.Join(c.Dir, "frozen")
	foreign := string(readFile(t, filepath.Join(other.Dir, "guard-5")))
	fork := strings.Replace(good[heads], "\n3\n", "\n4\n", 1)
	for _, test := range []struct {
		name, path, data string // no data: the file is removed
		why              string
		without, seen    error // the result of Adopt without and with the newest head
	}{
		{"inner guard gone", inner, "", "guard-SIZE is gone", nil, nil},
		{"inner guard renamed", filepath.Join(c.Dir, "guard-6"), good[inner], "the text of the guard is about 5 entries", sumdb.ErrFrozen, sumdb.ErrFrozen},
		{"older guard garbage", filepath.Join(c.Dir, "guard-4"), "garbage", "not the text of a guard", nil, nil},
		{"old guard foreign", filepath.Join(c.Dir, "guard"), foreign, "is that of the log with the key", sumdb.ErrFrozen, sumdb.ErrFrozen},
		{"outer guard gone", c.Guard, "", "guard is gone", nil, nil},
		{"inner guard foreign", inner, foreign, "is that of the log with the key", sumdb.ErrFrozen, sumdb.ErrFrozen},
		{"outer guard foreign", c.Guard, foreign, "is that of the log with the key", sumdb.ErrFrozen, sumdb.ErrFrozen},
		{"inner guard garbage", inner, "garbage", "not the text of a guard", nil, nil},
		{"outer guard empty", c.Guard, "\n", "not the text of a guard", nil, nil},
		{"guard of another tree", c.Guard, strings.Replace(good[c.Guard], "size 5", "size 4", 1), "has another tree of 4 entries", sumdb.ErrFrozen, sumdb.ErrFrozen},
		{"head garbage", head, strings.Repeat("garbage\n", 50), "head: does not verify", sumdb.ErrFrozen, nil},
		{"head of another log", head, string(readFile(t, filepath.Join(other.Dir, "head"))), "head: does not verify", sumdb.ErrFrozen, nil},
		{"head with a wrong root", head, strings.Replace(good[head], "\n5\n", "\n4\n", 1), "head: does not verify", sumdb.ErrFrozen, nil},
		{"heads gone", heads, "", "heads has lost heads", nil, nil},
		{"heads garbage", heads, strings.Repeat("garbage\n", 50), "heads has lost heads", nil, nil},
		{"heads short", heads, good[heads][:len(good[heads])-len(newest)], "heads has lost heads", nil, nil},
		{"heads damaged within", heads, strings.Replace(good[heads], "database", "databise", 1), "1 parts of it are no head", sumdb.ErrFrozen, nil},
		{"heads with a wrong signature", heads, strings.TrimSuffix(good[heads], newest) + strings.Replace(newest, "\n5\n", "\n6\n", 1), "does not verify", sumdb.ErrFrozen, nil},
		{"frozen without a head", frozen, "by hand", "frozen says that a signed head was seen", nil, nil},
		{"frozen by our own head", frozen, newest, "frozen says that a signed head was seen", nil, nil},
		{"frozen by what is no head", frozen, fork, "frozen says", sumdb.ErrFrozen, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, ask := range []struct {
				head []byte
				want error
			}{{nil, test.without}, {[]byte(newest), test.seen}} {
				putState(t, c, good)
				if test.data == "" {
					os.Remove(test.path)
				} else {
					writeFile(t, test.path, test.data)
				}
				checkDamaged(t, c, test.why)
				if ask.want != nil {
					adoptRefuses(t, c, ask.head, ask.want)
					continue
				}
				if err := pinlog.Adopt(t.Context(), c, ask.head); err != nil {
					t.Fatalf("Adopt with the head %q: %v", ask.head, err)
				}
				with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 5, newest) })
				appendMore(t, c, 6)
				with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 6, newest) })
			}
		})
	}
}

// An unreadable guard may have a tree that contradicts the entries, so Adopt refuses.
func TestLogGuardUnreadable(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 5)
	newest, guard := headsOnDisk(t, c.Dir)[5], string(readFile(t, c.Guard))
	if err := errors.Join(os.Remove(c.Guard), os.Mkdir(c.Guard, 0o700)); err != nil { // a directory, because root can read any file
		t.Fatal(err)
	}
	with(t, c, func(l *pinlog.Log) { refuses(t, l, 5, "the guard cannot be read") })
	adoptRefuses(t, c, nil, sumdb.ErrFrozen)
	adoptRefuses(t, c, []byte(newest), sumdb.ErrFrozen)
	if err := os.Remove(c.Guard); err != nil {
		t.Fatal(err)
	}
	writeFile(t, c.Guard, guard)
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 5, newest) })
}

// checkDamaged opens a log of 5 entries, which refuses with the reason why.
func checkDamaged(t *testing.T, c pinlog.Config, why string) {
	t.Helper()
	damaged := saveState(t, c)
	for range 2 {
		with(t, c, func(l *pinlog.Log) {
			refuses(t, l, 5, why)
			stillAnswers(t, l, 5)
			if err := l.Check(t.Context()); !errors.Is(err, sumdb.ErrInvalid) || !strings.Contains(err.Error(), why) {
				t.Errorf("Check: %v, want %q", err, why)
			}
		})
	}
	if !maps.Equal(saveState(t, c), damaged) {
		t.Error("a log that refuses has changed its files")
	}
}

// Files that can be derived from the others are written again, and a torn head is cut off.
func TestLogMends(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	good := saveState(t, c)
	heads := filepath.Join(c.Dir, "heads")
	for _, names := range [][]string{{"head"}, {"key.pub"}, {"lock"}, {"head", "key.pub"}} {
		for _, name := range names {
			os.Remove(filepath.Join(c.Dir, name))
		}
		writeFile(t, heads, good[heads]+"go.sum data")
		with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 3) })
		for _, name := range append(names, "heads") {
			path := filepath.Join(c.Dir, name)
			if got := string(readFile(t, path)); got != good[path] {
				t.Errorf("%s is %q, want %q", name, got, good[path])
			}
		}
	}
}

// A log without its key, or with another one, is not opened, and no new key is generated.
func TestLogKeys(t *testing.T) {
	t.Parallel()
	c, other := newGuardedLog(t, 3), newGuardedLog(t, 3)
	good := saveState(t, c)
	otherKey, otherPublic := string(readFile(t, filepath.Join(other.Dir, "key"))), string(readFile(t, filepath.Join(other.Dir, "key.pub")))
	key, public := filepath.Join(c.Dir, "key"), filepath.Join(c.Dir, "key.pub")
	for _, test := range []struct {
		name  string
		files diskState // "" removes the file
		want  string
		is    error
	}{
		{"key gone", diskState{key: ""}, "but no key", sumdb.ErrFrozen},
		{"all but the guard outside gone", diskState{key: "", public: "", filepath.Join(c.Dir, "entries"): "", filepath.Join(c.Dir, "heads"): "",
			filepath.Join(c.Dir, "head"): "", filepath.Join(c.Dir, "guard-3"): ""}, "is that of another log, or of one that was here", sumdb.ErrFrozen},
		{"all but the guards gone", diskState{key: "", public: "", filepath.Join(c.Dir, "entries"): "", filepath.Join(c.Dir, "heads"): "",
			filepath.Join(c.Dir, "head"): ""}, "is the guard of a log that is gone", sumdb.ErrFrozen},
		{"another public key", diskState{public: otherPublic}, "is not the public half of", sumdb.ErrFrozen},
		{"another key", diskState{key: otherKey}, "is not the public half of", sumdb.ErrFrozen},
		{"entries gone", diskState{filepath.Join(c.Dir, "entries"): ""}, "all entries of the log are lost", sumdb.ErrFrozen},
		{"no key in the file", diskState{key: "PRIVATE+KEY+tell+nobody\n"}, "is no signer key", nil},
	} {
		putState(t, c, good)
		for path, data := range test.files {
			if data != "" {
				writeFile(t, path, data)
			} else if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		l, err := pinlog.Open(t.Context(), c)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) || strings.Contains(err.Error(), "PRIVATE") || strings.Contains(err.Error(), "fork") {
			t.Errorf("%s: Open: %v, want %q", test.name, err, test.want)
		}
		if _, err := os.Stat(key); test.files[key] == "" && test.files[public] == "" && len(test.files) > 1 && err == nil {
			t.Errorf("%s: a new key was made", test.name)
		}
		for path := range test.files {
			if data, err := os.ReadFile(path); err == nil && string(data) != test.files[path] {
				t.Errorf("%s: %s was written", test.name, path)
			}
		}
	}
	// A read-only Open does not return fs.ErrNotExist, which would mean that there never was a log.
	for _, lost := range []string{"entries", "key.pub"} {
		putState(t, c, good)
		if err := os.Remove(filepath.Join(c.Dir, lost)); err != nil {
			t.Fatal(err)
		}
		_, err := pinlog.Open(t.Context(), pinlog.Config{Dir: c.Dir, ReadOnly: true})
		if !errors.Is(err, sumdb.ErrFrozen) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), lost) {
			t.Errorf("%s gone: Open to read: %v", lost, err)
		}
	}
	// Both halves of another key: the guards and the heads are of the first key.
	putState(t, c, good)
	writeFile(t, key, otherKey)
	writeFile(t, public, otherPublic)
	with(t, c, func(l *pinlog.Log) {
		if _, err := l.Latest(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("Latest with another key: %v", err)
		}
		refuses(t, l, 3, "is that of the log with the key")
	})
	adoptRefuses(t, c, nil, sumdb.ErrFrozen)
}

// forgedHead returns a head of size entries that the key in dir signed, over a root that the log
// does not have.
func forgedHead(t testing.TB, dir string, size int64) []byte {
	t.Helper()
	signer, err := note.NewSigner(strings.TrimSpace(string(readFile(t, filepath.Join(dir, "key")))))
	if err != nil {
		t.Fatal(err)
	}
	head, err := note.Sign(&note.Note{Text: string(tlog.FormatTree(tlog.Tree{N: size, Hash: tlog.Hash{1}}))}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// Heads of the log, also old ones and those with more signatures, change nothing. A head that the
// key signed and the log does not contain freezes the log, also after a restart.
func TestLogWitness(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 4, 5, 9} {
		c := newGuardedLog(t, 5)
		heads := headsOnDisk(t, c.Dir)
		good := saveState(t, c)
		forged := forgedHead(t, c.Dir, size)
		with(t, c, func(l *pinlog.Log) {
			for _, head := range heads {
				if err := l.Witness([]byte(head + "— other.example AAAAAAAA\n")); err != nil {
					t.Errorf("Witness of our own head: %v", err)
				}
			}
			for _, head := range [][]byte{nil, []byte("garbage"), sumdbtest.NewLog(t, logName).Head(0), forged[:len(forged)-1],
				readFile(t, filepath.Join(newGuardedLog(t, 1).Dir, "head"))} {
				if err := l.Witness(head); !errors.Is(err, sumdb.ErrInvalid) || errors.Is(err, sumdb.ErrFrozen) {
					t.Errorf("Witness of %q: %v", head, err)
				}
			}
			signs(t, l, c.Dir, 5, heads...)
			if !maps.Equal(saveState(t, c), good) {
				t.Error("heads that were shown have changed the files")
			}
			for range 2 {
				if err := l.Witness(append(forged[:len(forged):len(forged)], "— other.example AAAAAAAA\n"...)); !errors.Is(err, sumdb.ErrFrozen) {
					t.Errorf("Witness of a forged head: %v", err)
				}
			}
		})
		checkDamaged(t, c, "frozen says that a signed head was seen which is not of this log")
		if got := readFile(t, filepath.Join(c.Dir, "frozen")); !bytes.Equal(got, forged) {
			t.Errorf("the evidence is %q, want %q", got, forged)
		}
		adoptRefuses(t, c, nil, sumdb.ErrFrozen)
		adoptRefuses(t, c, []byte(heads[5]), sumdb.ErrFrozen)
		adoptRefuses(t, c, forged, sumdb.ErrFrozen)
	}
}

// A log that is open for reading only cannot tell a newer head from a wrong one.
func TestLogWitnessReadOnly(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	c.ReadOnly = true
	reader := openLog(t, c)
	c.ReadOnly = false
	newest := appendMore(t, c, 5)
	if err := reader.Witness(newest); !errors.Is(err, sumdb.ErrBeyond) || reader.Refuses() != nil {
		t.Errorf("Witness of a newer head: %v, %v", err, reader.Refuses())
	}
	if err := reader.Witness(forgedHead(t, c.Dir, 3)); !errors.Is(err, sumdb.ErrFrozen) || !errors.Is(reader.Refuses(), sumdb.ErrFrozen) {
		t.Errorf("Witness of a forged head: %v, %v", err, reader.Refuses())
	}
	appendMore(t, c, 6) // a reader does not freeze the log itself
}
