package pinlog_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// moving is a log that is brought to a bucket and back.
type moving struct {
	*fleet
	files pinlog.Config
}

// newMoving returns a log in files with so many entries, and a fleet for it.
func newMoving(t *testing.T, size int64) *moving {
	t.Helper()
	m := &moving{fleet: newFleet(t)}
	m.files = pinlog.Config{Dir: filepath.Join(m.dir, "data", "log"), Name: logName}
	l := m.openFiles()
	m.witness.key, m.fleet.key = l.Key(), filepath.Join(m.files.Dir, "key")
	m.fill(l, size)
	m.close(l)
	return m
}

func (m *moving) openFiles() *pinlog.Log {
	m.t.Helper()
	l, err := pinlog.Open(m.t.Context(), m.files)
	if err != nil {
		m.t.Fatal(err)
	}
	return l
}

func (m *moving) close(l *pinlog.Log) {
	m.t.Helper()
	if err := l.Close(); err != nil {
		m.t.Error(err)
	}
}

// both is the configuration of the directory and the bucket.
func (m *moving) both() pinlog.Config {
	c := m.files
	store := m.store()
	c.Bucket = &pinlog.Bucket{Store: store, Key: m.fleet.key, Place: "s3://bucket/store", ID: id(m.t, store)}
	return c
}

func (m *moving) move(want int64) {
	m.t.Helper()
	if size, err := pinlog.Move(m.t.Context(), m.both()); err != nil || size != want {
		m.t.Fatalf("Move = %d, %v, want %d", size, err, want)
	}
}

func (m *moving) moveBack(want int64) {
	m.t.Helper()
	if size, err := pinlog.MoveBack(m.t.Context(), m.both()); err != nil || size != want {
		m.t.Fatalf("MoveBack = %d, %v, want %d", size, err, want)
	}
}

// A log is brought to a bucket, is continued there by several replicas, is brought back, and again, and is
// one log all the time. Where it is not, it signs nothing.
func TestMove(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 300)
	for round := range int64(2) {
		size := 300 + 10*round
		m.move(size)
		m.move(size) // nothing to do

		left := m.openFiles()
		m.refuses(left, "was brought to s3://bucket/store")
		m.close(left)
		if err := pinlog.Adopt(t.Context(), m.files, nil); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "move --back") {
			t.Errorf("Adopt of a log that was moved: %v", err)
		}

		c := m.both()
		a, err := pinlog.Open(t.Context(), c) // the guard that Move has written vouches
		if err != nil {
			t.Fatal(err)
		}
		b := openLog(t, m.trusting(fmt.Sprint("b", round)))
		for n := range int64(5) {
			pinOne(t, []*pinlog.Log{a, b}[n%2], entry(1000*(round+1)+n))
			m.see(a)
			m.see(b)
		}
		if err := a.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.check(a)
		if err := a.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := pinlog.MoveBack(t.Context(), m.both()); !errors.Is(err, storage.ErrInUse) {
			t.Errorf("MoveBack while a replica has the directory open: %v", err)
		}
		m.close(a)

		m.moveBack(size + 5)
		m.moveBack(size + 5)
		if _, err := b.Pin(t.Context(), entry(5000+round)); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "assay log move") {
			t.Errorf("Pin into a log that was moved away: %v", err)
		}
		m.refuses(b, "assay log move")
		m.refuses(openLog(t, m.trusting(fmt.Sprint("c", round))), "assay log move")

		l := m.openFiles()
		if err := l.Refuses(); err != nil {
			t.Fatal(err)
		}
		for n := range int64(5) {
			pinOne(t, l, entry(1000*(round+1)+100+n))
			m.see(l)
		}
		m.check(l)
		if err := l.Check(t.Context()); err != nil {
			t.Error(err)
		}
		m.close(l)
		if _, err := pinlog.MoveBack(t.Context(), m.both()); err != nil {
			t.Errorf("MoveBack of what was continued: %v", err)
		}
	}
}

// errStop is how a move ends that is interrupted.
var errStop = errors.New("stopped")

// A move that is stopped before or after each of its writes to the bucket goes on with the next one, and
// meanwhile no replica signs, and neither does the directory.
func TestMoveInterrupted(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
			t.Parallel()
			m := newMoving(t, 250)
			steps := 0
			for stop := 1; ; stop++ {
				c := m.both()
				var count atomic.Int64
				store := interpose(&c)
				halt := func(op, _ string) error {
					if op != "create" && op != "swap" {
						return nil
					}
					if count.Add(1) >= int64(stop) {
						return errStop
					}
					return nil
				}
				if late {
					store.set(nil, halt)
				} else {
					store.set(halt, nil)
				}
				_, err := pinlog.Move(t.Context(), c)
				if err == nil {
					break
				}
				steps++
				if !errors.Is(err, errStop) {
					t.Fatalf("step %d: %v", stop, err)
				}
				l := m.openFiles()
				m.refuses(l, "was brought to")
				m.close(l)
				r, err := pinlog.Open(t.Context(), m.trusting(fmt.Sprint("r", stop, late)))
				if errors.Is(err, sumdb.ErrFrozen) {
					continue // there is nothing yet, and the key is that of the directory
				}
				if err != nil {
					t.Fatal(err)
				}
				if r.Refuses() == nil && r.Size() < 250 {
					t.Errorf("step %d: a replica signs with %d entries", stop, r.Size())
				}
				m.close(r)
			}
			if !late && steps < 3 {
				t.Errorf("the move was stopped %d times, want more", steps)
			}
			l := openLog(t, m.both())
			pinOne(t, l, entry(1000))
			m.check(l)
		})
	}
}

// A move back that is stopped at each of its requests goes on with the next one.
func TestMoveBackInterrupted(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 20)
	m.move(20)
	for stop := 1; ; stop++ {
		c := m.both()
		var count atomic.Int64
		interpose(&c).set(func(string, string) error {
			if count.Add(1) == int64(stop) {
				return errStop
			}
			return nil
		}, nil)
		_, err := pinlog.MoveBack(t.Context(), c)
		if err == nil {
			break
		}
		if !errors.Is(err, errStop) {
			t.Fatalf("request %d: %v", stop, err)
		}
	}
	l := m.openFiles()
	pinOne(t, l, entry(1000))
	m.check(l)
	m.close(l)
}

// Files of a directory that are half written by a move back are written again.
func TestMoveBackHalf(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 20)
	m.move(20)
	whole := t.TempDir()
	if err := os.CopyFS(whole, os.DirFS(m.files.Dir)); err != nil {
		t.Fatal(err)
	}
	m.moveBack(20)
	// As it is when the process stops before the directory is adopted.
	if err := os.WriteFile(filepath.Join(m.files.Dir, pinlog.BackupMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.files.Dir, "head")); err != nil {
		t.Fatal(err)
	}
	l := m.openFiles()
	m.refuses(l, "")
	m.close(l)
	m.moveBack(20)
	l = m.openFiles()
	pinOne(t, l, entry(1000))
	m.check(l)
	m.close(l)
}

// A move stops before it would lose or contradict something.
func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 3)
	open := m.openFiles()
	if _, err := pinlog.Move(t.Context(), m.both()); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("Move of an open log: %v", err)
	}
	m.close(open)
	wrong := m.both()
	wrong.Bucket.Key = newFleet(t).key
	if _, err := pinlog.Move(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "is not the key") {
		t.Errorf("Move with another key: %v", err)
	}

	// Another log with this key is in the bucket.
	other := newFleet(t)
	fork := other.begin("x")
	key, err := os.ReadFile(other.key)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, fork, 2)
	dir := filepath.Join(t.TempDir(), "log")
	if _, err := pinlog.MoveBack(t.Context(), pinlog.Config{Dir: dir, Bucket: &pinlog.Bucket{Store: other.store(), Key: other.key, Trust: true}}); err != nil {
		t.Fatal(err)
	}
	third := newFleet(t)
	third.key = other.key
	fill(t, third.begin("y"), 3)
	c := pinlog.Config{Dir: dir, Bucket: &pinlog.Bucket{Store: third.store(), ID: "third", Key: other.key, Trust: true}}
	if _, err := pinlog.Move(t.Context(), c); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Move into a bucket with another log: %v", err)
	}
	if _, err := pinlog.MoveBack(t.Context(), c); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("MoveBack over another log: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "key")); err != nil || string(after) != string(key) {
		t.Errorf("the key has changed: %v", err)
	}
	l := openLog(t, pinlog.Config{Dir: dir})
	if err := l.Refuses(); err != nil {
		t.Errorf("a move that was refused has changed the directory: %v", err)
	}
}

// A log is created once, with a new key or with one that is there.
func TestCreate(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	c := f.config("a")
	c.Name = logName
	c.Bucket.Key = filepath.Join(f.dir, "new-key")
	key, err := pinlog.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(c.Bucket.Key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
	if _, err := pinlog.Create(t.Context(), c); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create again: %v", err)
	}
	fresh := f.config("b") // no guard, but the log is new and empty
	fresh.Bucket.Key = c.Bucket.Key
	l := openLog(t, fresh)
	if l.Key() != key {
		t.Errorf("Key = %s, want %s", l.Key(), key)
	}
	pinOne(t, l, entry(1))
	late := f.config("c")
	late.Bucket.Key = c.Bucket.Key
	if l := openLog(t, late); l.Refuses() == nil {
		t.Error("a new replica signs in a log with entries")
	}
	reader, err := pinlog.Open(context.Background(), pinlog.Config{ReadOnly: true, Bucket: &pinlog.Bucket{Store: f.store()}})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if reader.Key() != key || reader.Check(t.Context()) != nil {
		t.Errorf("without a key: %s, %v", reader.Key(), reader.Check(t.Context()))
	}
}
