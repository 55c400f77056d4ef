//go:build linux || darwin

package pinlog_test

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// The disk is full in the middle of an entry or of a head, at any byte: Pin returns an error, the
// log is unchanged, and takes entries again when there is room.
func TestLogFullDisk(t *testing.T) {
	t.Parallel()
	if args := childArgs(); args != nil {
		pinWithoutRoom(t, pinlog.Config{Dir: args[0], Guard: args[1]}, args[2])
		return
	}
	for _, file := range []string{"entries", "heads"} {
		name := logName
		if file == "heads" {
			name += strings.Repeat("/long", 50) // makes it the longest file
		}
		c := newNamedLog(t, name, 5)
		heads := headsOnDisk(t, c.Dir)
		// The limit holds for a whole process, so another process runs with it.
		if out, err := startChild(t, "TestLogFullDisk", c.Dir, c.Guard, file).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, out)
		}
		with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 9, heads...) })
		if n := len(headsOnDisk(t, c.Dir)); n != 10 {
			t.Errorf("%d heads of 0 to 9 entries", n)
		}
	}
}

func pinWithoutRoom(t *testing.T, c pinlog.Config, file string) {
	signal.Ignore(syscall.SIGXFSZ)
	l := openLog(t, c)
	path := filepath.Join(c.Dir, file)
	before := readFile(t, path)
	if room := len(before) - len(readFile(t, filepath.Join(c.Dir, "entries"))); file == "heads" && room < 1000 {
		t.Fatalf("%s is only %d bytes longer than entries", file, room)
	}
	for room := uint64(0); room < 200; room += 3 {
		limitFiles(t, uint64(len(before))+room)
		pinFails(t, l, syscall.EFBIG)
		if got := readFile(t, path); string(got) != string(before) {
			t.Fatalf("with room for %d bytes: %s has %d bytes, had %d", room, file, len(got), len(before))
		}
	}
	limitFiles(t, 1<<30)
	for n := int64(5); n < 9; n++ {
		pinOne(t, l, entry(n))
	}
	signs(t, l, c.Dir, 9)
}

// The disk has no room for the bytes that a start writes again, the whole entries that are not
// signed: Pin returns an error, and succeeds when there is room.
func TestLogStartOnFullDisk(t *testing.T) {
	t.Parallel()
	if childArgs() == nil { // the limit holds for a whole process
		if out, err := startChild(t, "TestLogStartOnFullDisk", "child").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	c := newGuardedLog(t, 5)
	heads := headsOnDisk(t, c.Dir)
	signed := len(readFile(t, filepath.Join(c.Dir, "entries")))
	block := filepath.Join(c.Dir, "guard-6.new")
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	with(t, c, func(l *pinlog.Log) { pinFails(t, l, nil) })
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	if whole := len(readFile(t, filepath.Join(c.Dir, "entries"))); whole <= signed {
		t.Fatalf("%d bytes of entries, %d are signed", whole, signed)
	}
	limitFiles(t, uint64(signed))
	l := openLog(t, c)
	pinFails(t, l, syscall.EFBIG)
	limitFiles(t, 1<<30)
	pinOne(t, l, entry(5))
	pinOne(t, l, entry(6))
	signs(t, l, c.Dir, 7, heads...)
}

// limitFiles makes every write of this process beyond size fail.
func limitFiles(t *testing.T, size uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = size
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
}

// pinFails checks that entry 5 cannot be pinned, alone or with others, that it is not visible, and
// that the log of 5 entries serves them and does not refuse.
func pinFails(t *testing.T, l *pinlog.Log, want error) {
	t.Helper()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if stored, err := l.Pin(t.Context(), entry(5)); err == nil || errors.Is(err, sumdb.ErrFrozen) || want != nil && !errors.Is(err, want) {
				t.Errorf("Pin = %+v, %v, want %v", stored, err, want)
			}
		})
	}
	group.Wait()
	if _, err := l.Find(t.Context(), entry(5).Module); err == nil {
		t.Error("Find shows what is not signed")
	}
	if err := l.Refuses(); err != nil || l.Size() != 5 || treeOf(t, l.Key(), latest(t, l)).N != 5 {
		t.Errorf("%d entries, %v", l.Size(), err)
	}
	finds(t, l, 5)
}

// The guards, the history or the head cannot be written: nothing is signed or shown. The next Pin,
// or the next start, completes the append.
func TestLogUnwritable(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		for _, blocked := range []string{"guard-6", "outer", "head"} {
			t.Run(fmt.Sprintf("%s restart=%v", blocked, restart), func(t *testing.T) {
				c := newGuardedLog(t, 5)
				heads := headsOnDisk(t, c.Dir)
				path := filepath.Join(c.Dir, blocked)
				if blocked == "outer" {
					path = c.Guard
				}
				l, err := pinlog.Open(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { l.Close() }()
				// A directory blocks the name of the new file.
				if err := os.Mkdir(path+".new", 0o700); err != nil {
					t.Fatal(err)
				}
				pinFails(t, l, nil)
				if restart {
					l.Close()
					if l, err = pinlog.Open(t.Context(), c); err != nil {
						t.Fatal(err)
					}
					if blocked == "head" {
						signs(t, l, c.Dir, 6, heads...) // it was signed, so it is in the history
					} else {
						pinFails(t, l, nil)
					}
				}
				if err := os.Remove(path + ".new"); err != nil {
					t.Fatal(err)
				}
				pinOne(t, l, entry(5))
				pinOne(t, l, entry(6))
				signs(t, l, c.Dir, 7, heads...)
				if n := len(headsOnDisk(t, c.Dir)); n != 8 {
					t.Errorf("%d heads of 0 to 7 entries", n)
				}
			})
		}
	}
}
