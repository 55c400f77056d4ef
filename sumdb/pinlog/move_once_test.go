package pinlog_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// id returns the ID of a store, and gives it one if it has none.
func id(t testing.TB, store storage.Store) string {
	t.Helper()
	id, err := store.(*s3.DB).Identity(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// elsewhere is both, with another store in the same bucket.
func (m *moving) elsewhere() pinlog.Config {
	m.t.Helper()
	store, err := s3.Open(context.Background(), s3.Options{Bucket: "bucket", Prefix: "other", Endpoint: m.url, PathStyle: true, Spool: m.t.TempDir()})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { store.Close() })
	c := m.both()
	c.Bucket.Store, c.Bucket.Place, c.Bucket.ID = store, "s3://bucket/other", id(m.t, store)
	return c
}

// copyOf is both, with a copy of the directory as it is now.
func (m *moving) copyOf(name string) pinlog.Config {
	m.t.Helper()
	c := m.both()
	c.Dir = filepath.Join(m.dir, name, "log")
	if err := os.CopyFS(c.Dir, os.DirFS(m.files.Dir)); err != nil {
		m.t.Fatal(err)
	}
	return c
}

// wantRefused checks that a move was refused.
func wantRefused(t testing.TB, err error, want string) {
	t.Helper()
	if !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), want) {
		t.Errorf("the move: %v, want a refusal with %q", err, want)
	}
}

// tree returns all files below dir.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all.WriteString(path + "\n" + string(data) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// A log that was brought to a bucket is brought to no second one, not even if the first move was interrupted.
func TestMoveSecondBucket(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{true, false} {
		m := newMoving(t, 10)
		if whole {
			m.move(10)
		} else {
			c := m.both()
			interpose(&c).set(func(op, key string) error {
				if isBatch(op, key) {
					return errStop
				}
				return nil
			}, nil)
			if _, err := pinlog.Move(t.Context(), c); !errors.Is(err, errStop) {
				t.Fatal(err)
			}
		}
		before := tree(t, m.files.Dir)
		other := m.elsewhere()
		_, err := pinlog.Move(t.Context(), other)
		wantRefused(t, err, "was brought to s3://bucket/store, which is another store")
		if keys := m.server.Keys("other/o/log/"); len(keys) > 0 {
			t.Errorf("the other bucket has %q", keys)
		}
		if after := tree(t, m.files.Dir); after != before {
			t.Errorf("the directory was\n%s\nand is\n%s", before, after)
		}
		m.move(10)
		l := openLog(t, m.both())
		pinOne(t, l, entry(100))
		m.check(l)
	}
	m := newMoving(t, 1)
	c := m.both()
	c.Bucket.ID = ""
	if _, err := pinlog.Move(t.Context(), c); err == nil || !strings.Contains(err.Error(), "has no ID") {
		t.Errorf("Move into a store without an ID: %v", err)
	}
}

// A bucket that had the whole log, and was emptied or set back, does not get it again.
func TestMoveEmptied(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 10)
	m.both() // the store has an ID
	empty := m.snapshot()
	m.move(10)
	a := openLog(t, m.trusting("a"))
	pinOne(t, a, entry(100))
	m.see(a)
	empty()
	guards := tree(t, m.files.Dir)
	_, err := pinlog.Move(t.Context(), m.both())
	wantRefused(t, err, "now the bucket does not have its entries")
	if keys := m.server.Keys("store/o/log/"); len(keys) > 0 {
		t.Errorf("the bucket has %q", keys)
	}
	if after := tree(t, m.files.Dir); after != guards {
		t.Errorf("the directory was\n%s\nand is\n%s", guards, after)
	}
}

// A move that is done again says that the log is there, and does not vouch for what the bucket has now.
func TestMoveAgainVouchesNot(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 10)
	m.move(10)
	back := m.snapshot()
	if err := os.RemoveAll(filepath.Join(m.files.Dir, "bucket")); err != nil {
		t.Fatal(err)
	}
	a := openLog(t, m.trusting("a"))
	pinOne(t, a, entry(100))
	m.see(a)
	back()
	m.move(10)
	m.refuses(openLog(t, m.both()), "nothing outside of the bucket")
}

// A log that was brought back to one directory is brought to no other one, whatever is there. Into its own
// directory the move can be done again.
func TestMoveBackSecondDirectory(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 10)
	m.move(10)
	moved := m.copyOf("moved")
	m.moveBack(10)
	l := m.openFiles()
	pinOne(t, l, entry(100))
	m.see(l)
	m.close(l)
	empty := m.both()
	empty.Dir = filepath.Join(m.dir, "empty", "log")
	for _, c := range []pinlog.Config{empty, moved} {
		for _, trust := range []bool{false, true} {
			c.Bucket.Trust = trust
			_, err := pinlog.MoveBack(t.Context(), c)
			wantRefused(t, err, "to another directory than "+c.Dir)
		}
		if l, err := pinlog.Open(t.Context(), pinlog.Config{Dir: c.Dir, ReadOnly: true}); err == nil && l.Refuses() == nil {
			t.Errorf("%s signs", c.Dir)
		}
	}
	if _, err := pinlog.MoveBack(t.Context(), m.both()); err != nil {
		t.Errorf("MoveBack again: %v", err)
	}
	m.move(11)
	l = openLog(t, m.both())
	pinOne(t, l, entry(101))
	m.check(l)
}

// A directory whose log was brought back to another one does not open it again in the bucket.
func TestMoveAfterBackElsewhere(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 10)
	key := filepath.Join(m.dir, "copied-key")
	secret, err := os.ReadFile(m.fleet.key)
	if err == nil {
		err = os.WriteFile(key, secret, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.move(10)
	c := m.both()
	c.Dir = filepath.Join(m.dir, "second", "log")
	c.Bucket.Key, c.Bucket.Trust = key, true
	if _, err := pinlog.MoveBack(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, pinlog.Config{Dir: c.Dir})
	pinOne(t, l, entry(100))
	m.see(l)
	_, err = pinlog.Move(t.Context(), m.both())
	wantRefused(t, err, "assay log move --back has ended the log")
	_, err = pinlog.MoveBack(t.Context(), m.both())
	wantRefused(t, err, "to another directory than "+m.files.Dir)
	m.refuses(openLog(t, m.trusting("a")), "assay log move")
	m.check(l)
}

// A copy of the directory from before the second move does not get the log that is brought back from there, and a
// directory whose log is in another bucket does not get it from the first one.
func TestMoveBackOfOlderCopy(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 10)
	m.move(10)
	m.moveBack(10)
	old := m.copyOf("old")
	if err := os.WriteFile(filepath.Join(old.Dir, pinlog.BackupMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.move(10)
	c := m.both()
	c.Bucket.Trust = true
	m.moveBack(10)
	_, err := pinlog.MoveBack(t.Context(), old)
	wantRefused(t, err, "to another directory than "+old.Dir)

	other := m.elsewhere()
	if size, err := pinlog.Move(t.Context(), other); err != nil || size != 10 {
		t.Fatalf("Move = %d, %v", size, err)
	}
	_, err = pinlog.MoveBack(t.Context(), c)
	wantRefused(t, err, "was brought to s3://bucket/other, which is another store")
	l := openLog(t, other)
	pinOne(t, l, entry(100))
	m.check(l)
}

// A move back into a directory that went on since is refused by the guard outside, in a file and in a store.
func TestMoveBackGuard(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{false, true} {
		m, g := newMoving(t, 10), newFleet(t)
		guarded := func() pinlog.Config {
			c := m.both()
			c.Guard = filepath.Join(m.dir, "guard")
			if stored {
				c.Guard, c.Bucket.Guard = "", g.store()
			}
			return c
		}
		if !stored {
			m.files.Guard = guarded().Guard
			if err := pinlog.Adopt(t.Context(), m.files, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pinlog.Move(t.Context(), guarded()); err != nil {
			t.Fatal(err)
		}
		old := m.copyOf("old")
		back := m.snapshot()
		a := openLog(t, guarded())
		pinOne(t, a, entry(100))
		m.see(a)
		m.close(a)
		back()
		c := guarded()
		c.Dir, c.Bucket.Trust = old.Dir, true
		_, err := pinlog.MoveBack(t.Context(), c)
		wantRefused(t, err, "has the tree of 11 entries, and the bucket has 10")
		for _, key := range m.server.Keys("store/o/log/") {
			m.server.Change(key, func(b []byte) []byte {
				if bytes.Contains(b, []byte("\nclosed ")) {
					t.Errorf("the log was ended by %s", key)
				}
				return b
			})
		}
	}
}

// No move back makes a log, not even with the word that a bucket without one never had it.
func TestMoveBackOfNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	c := f.trusting("a")
	if _, err := pinlog.MoveBack(t.Context(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("MoveBack from an empty bucket: %v", err)
	}
	if keys := f.server.Keys("store/o/log/"); len(keys) > 0 {
		t.Errorf("the bucket has %q", keys)
	}
}

// A backup of a directory whose log is in a bucket is neither adopted nor brought to a bucket, also one that was made
// when the move was interrupted.
func TestMovedBackup(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{true, false} {
		m := newMoving(t, 10)
		empty := m.snapshot()
		c := m.both()
		if !whole {
			interpose(&c).set(func(op, key string) error {
				if isBatch(op, key) {
					return errStop
				}
				return nil
			}, nil)
		}
		if _, err := pinlog.Move(t.Context(), c); (err == nil) != whole {
			t.Fatal(err)
		}
		copied := m.both()
		copied.Dir = filepath.Join(m.dir, "copied", "log")
		if err := os.MkdirAll(copied.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		names, err := pinlog.BackupFiles(m.files.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append(names, pinlog.BackupMark) {
			data, err := os.ReadFile(filepath.Join(m.files.Dir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(copied.Dir, name), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		m.move(10)
		empty()
		_, err = pinlog.Move(t.Context(), copied)
		wantRefused(t, err, "was brought to s3://bucket/store")
		if keys := m.server.Keys("store/o/log/"); len(keys) > 0 {
			t.Errorf("the bucket has %q", keys)
		}
		files := pinlog.Config{Dir: copied.Dir}
		if err := pinlog.Adopt(t.Context(), files, nil); !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("Adopt of the copy: %v", err)
		}
		m.refuses(openLog(t, files), "was brought to s3://bucket/store")
	}
}

// After a move with a copy of the key the directory has no key under its name: an earlier version of the program, which
// does not know the mark, can neither adopt it nor begin a log there. The way back, a second move, and an interrupted one
// need nothing else.
func TestMovedKey(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 10)
	own := filepath.Join(m.files.Dir, "key")
	secret, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	m.fleet.key = filepath.Join(m.dir, "copy")
	if err := os.WriteFile(m.fleet.key, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m.move(10)
		m.move(10)
		if _, err := os.Stat(own); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the key of a log that was moved: %v, want that it has another name", err)
		}
		left := m.openFiles()
		m.refuses(left, "was brought to s3://bucket/store")
		m.close(left)
		older := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log")} // what an earlier version sees: no mark
		copyTo(t, older.Dir, m.files.Dir)
		if err := os.Remove(filepath.Join(older.Dir, "moved")); err != nil {
			t.Fatal(err)
		}
		if _, err := pinlog.Open(t.Context(), older); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "no key") {
			t.Errorf("Open by an earlier version: %v", err)
		}
		if err := pinlog.Adopt(t.Context(), older, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Adopt by an earlier version: %v", err)
		}
		c := m.config("new")
		c.Bucket.Key = own
		if _, err := pinlog.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "key.moved") {
			t.Errorf("a server with the name that the key had: %v", err)
		}
		c.Name = "new.corp.example"
		if _, err := pinlog.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), "key.moved") {
			t.Errorf("a new log with the name that the key had: %v", err)
		}
		m.moveBack(10)
		if now, err := os.ReadFile(own); err != nil || string(now) != string(secret) {
			t.Errorf("the key after the way back: %v", err)
		}
		if _, err := os.Stat(own + ".moved"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the other name after the way back: %v", err)
		}
		back := m.openFiles()
		if err := back.Refuses(); err != nil {
			t.Error(err)
		}
		m.close(back)
	}
}
