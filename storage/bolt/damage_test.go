package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// Any byte changes on disk: a read returns the stored bytes, or an error. Nothing hangs and nothing
// panics.
func TestDamagedBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	objects := map[string][]byte{}
	for i := range 40 {
		key := fmt.Sprintf("m.example/@v/v1.0.%d.mod", i)
		objects[key] = storagetest.Content(uint64(i), 50+i*40)
		put(t, db, key, objects[key])
	}
	objects["m.example/@v/v1.0.0.zip"] = storagetest.Content(100, 600_000)
	put(t, db, "m.example/@v/v1.0.0.zip", objects["m.example/@v/v1.0.0.zip"])
	if err := db.SetState(t.Context(), "head", []byte("tree 17")); err != nil {
		t.Fatal(err)
	}
	db.Close()

	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"meta.db", "blobs.db"} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		used := len(bytes.TrimRight(whole, "\x00")) // bbolt makes files larger than it needs
		refused, found := 0, 0
		for round := range 120 {
			at := random.IntN(used)
			bit := byte(1) << random.IntN(8)
			flip(t, path, int64(at), bit)
			r, f := readDamaged(t, dir, objects, fmt.Sprintf("%s, round %d, byte %d ^ %#x", name, round, at, bit))
			refused, found = refused+r, found+f
			putBack(t, path, whole) // an opened store may have changed the file
		}
		t.Logf("%s: %d times refused at open, %d objects refused", name, refused, found)
		if refused+found == 0 {
			t.Errorf("%s: no damage was noticed, so none was done", name)
		}
	}
}

func flip(t *testing.T, path string, at int64, bit byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= bit
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// putBack restores the content of a file, and writes only the changed parts: most of a store's file
// is free space.
func putBack(t *testing.T, path string, whole []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(whole))); err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 16<<10)
	for at := 0; at < len(whole); at += len(part) {
		want := whole[at:min(at+len(part), len(whole))]
		if _, err := io.ReadFull(f, part[:len(want)]); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(part[:len(want)], want) {
			continue
		}
		if _, err := f.WriteAt(want, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
}

// readDamaged reads everything, and returns whether the store was refused and how
// many objects were.
func readDamaged(t *testing.T, dir string, objects map[string][]byte, what string) (refused, found int) {
	t.Helper()
	db, err := bolt.Open(dir, nil)
	if err != nil {
		checkText(t, what, err)
		return 1, 0
	}
	defer db.Close()
	for key, content := range objects {
		o, err := db.Open(t.Context(), key)
		if err != nil {
			checkText(t, what, err)
			if !errors.Is(err, storage.ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: open: %v", what, err)
			}
			found++
			continue
		}
		var got bytes.Buffer
		_, err = o.WriteTo(&got)
		if !bytes.HasPrefix(content, got.Bytes()) || err == nil && got.Len() != len(content) {
			t.Errorf("%s: %s has other bytes", what, key)
		}
		if err != nil {
			checkText(t, what, err)
			if !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("%s: read: %v", what, err)
			}
			found++
		}
		o.Close()
	}
	for info, err := range db.List(t.Context(), "") {
		if err == nil && int(info.Size) != len(objects[info.Key]) {
			t.Errorf("%s: list says %+v", what, info)
		}
	}
	if value, err := db.State(t.Context(), "head"); err == nil && string(value) != "tree 17" {
		t.Errorf("%s: the state is %q", what, value)
	}
	return 0, found
}

// checkText fails if an error contains text of the Go runtime, which does not help its reader.
func checkText(t *testing.T, what string, err error) {
	t.Helper()
	for _, words := range []string{"runtime error", "invalid memory address", "nil pointer", "fault address", "out of range"} {
		if strings.Contains(err.Error(), words) {
			t.Errorf("%s: the error has words of the Go runtime: %v", what, err)
		}
	}
}

// An open object stays unchanged while everything around it is created and deleted, and keeps only
// its own disk space.
func TestLeakedReader(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	want := storagetest.Content(1, 3<<20)
	put(t, db, "leaked", want)
	leaked, err := db.Open(t.Context(), "leaked")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Delete(t.Context(), "leaked"); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		key := fmt.Sprint(i)
		put(t, db, key, storagetest.Content(uint64(100+i), 2<<20))
		if i >= 3 {
			if err := db.Delete(t.Context(), fmt.Sprint(i-3)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := db.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.FileBytes > 80<<20 {
		t.Errorf("120 MiB went through 6 MiB of live objects, and the files have %d MiB", s.FileBytes>>20)
	}
	got, err := io.ReadAll(leaked)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the open object has other bytes, or %v", err)
	}
	leaked.Close()
	waitNoOrphans(t, db)
}

// A backup that is copied over the files while they are in use is served, and not written to: bbolt
// remembers the free pages of the replaced files, and would overwrite used ones.
func TestReplacedFile(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a file that is mapped cannot be written over")
	}
	dir := t.TempDir()
	db := openDB(t, dir)
	put(t, db, "old", []byte("old"))
	db.Close()
	backup := map[string][]byte{}
	for _, name := range []string{"meta.db", "blobs.db"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		backup[name] = data
	}

	db = openDB(t, dir)
	for i := range 20 {
		key := fmt.Sprint("new", i)
		put(t, db, key, storagetest.Content(uint64(i), 300_000))
		if err := db.SetState(t.Context(), key, []byte("new")); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range backup {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := db.SetState(t.Context(), "next", []byte("next")); err == nil || !strings.Contains(err.Error(), "until a restart") {
			t.Errorf("a state was written over a backup, or the error is %v", err)
		}
	}
	if info, err := db.Stat(t.Context(), "old"); err != nil || info.Size != 3 {
		t.Errorf("what the backup has is not served: %+v, %v", info, err)
	}
	db.Close()

	db = openDB(t, dir)
	v, err := db.Verify(t.Context(), storage.VerifyOptions{Damage: func(d storage.Damage) { t.Error(d) }})
	if err != nil || v.Objects != 1 {
		t.Errorf("the backup has %+v, %v", v, err)
	}
	put(t, db, "next", []byte("next"))
}

// The extents in the records are only a hint: after another program has compacted the file all of
// them are wrong, and all objects can still be read.
func TestCompactedFile(t *testing.T) {
	t.Parallel()
	dir := verifyStore(t)
	path := filepath.Join(dir, "blobs.db")
	from, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	to, err := bbolt.Open(path+".compact", 0o600, &bbolt.Options{PageSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	// A bucket in front, so that everything moves.
	err = to.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("first"))
		if err != nil {
			return err
		}
		return b.Put([]byte("a"), make([]byte, 100_000))
	})
	if err := errors.Join(err, bbolt.Compact(to, from, 1<<20), from.Close(), to.Close(), os.Rename(path+".compact", path)); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, dir)
	for key, content := range verifyObjects {
		o, err := db.Open(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(o)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: other bytes, or %v", key, err)
		}
		o.Close()
	}
}
