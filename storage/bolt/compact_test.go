package bolt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// holedContent is the remaining content in a store of holedStore.
var holedContent = map[string][]byte{
	"left/small": storagetest.Content(1, 3000),
	"left/large": storagetest.Content(2, 600_000),
	"left/tail":  storagetest.Content(3, 100_000),
}

// holedStore returns a store from which nearly everything was deleted.
func holedStore(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	db := openDB(t, dir)
	put(t, db, "left/small", holedContent["left/small"])
	for i := range 6 {
		put(t, db, fmt.Sprint("gone/", i), storagetest.Content(uint64(10+i), 5<<20))
		if i == 2 {
			put(t, db, "left/large", holedContent["left/large"])
		}
	}
	for i := range 300 {
		put(t, db, fmt.Sprint("gone/small", i), storagetest.Content(uint64(20+i), 8000))
	}
	put(t, db, "left/tail", holedContent["left/tail"])
	for info, err := range db.List(t.Context(), "gone/") {
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Delete(t.Context(), info.Key); err != nil {
			t.Fatal(err)
		}
	}
	waitNoOrphans(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func expectHoled(t *testing.T, db storage.Store) {
	t.Helper()
	for key, content := range holedContent {
		expectContent(t, db, key, content)
	}
}

// Compact frees disk space, and changes nothing else.
func TestCompact(t *testing.T) {
	t.Parallel()
	dir := holedStore(t)
	db := openDB(t, dir)
	open, err := db.Open(t.Context(), "left/large")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	before := onDisk(t, dir)
	freed, err := db.Compact(t.Context())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	after := onDisk(t, dir)
	if freed < 25<<20 || after > 4<<20 || before-after != freed {
		t.Errorf("freed %d bytes, of %d there are %d left", freed, before, after)
	}
	expectHoled(t, db)
	if got, err := io.ReadAll(open); err != nil || len(got) != 600_000 {
		t.Errorf("what was open before: %d bytes, %v", len(got), err)
	}
	// The commit at the end of the first one has freed a few pages.
	if freed, err := db.Compact(t.Context()); err != nil || freed > 64<<10 {
		t.Errorf("a second time freed %d bytes, %v", freed, err)
	}
	for round := range 3 { // the holes are used again
		for i := range 4 {
			put(t, db, fmt.Sprint("new/", round, i), storagetest.Content(uint64(100+i), 5<<20))
		}
		if _, err := db.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	db = openDB(t, dir)
	expectHoled(t, db)
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("found %v", found)
	}
}

// Compact can run while the store is used.
func TestCompactWhileUsed(t *testing.T) {
	t.Parallel()
	dir := holedStore(t)
	db := openDB(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	begun := make(chan bool, 1)
	go func() {
		ended <- churn(ctx, db, func(string, string) {
			select {
			case begun <- true:
			default:
			}
		})
	}()
	for range 8 {
		<-begun
		if _, err := db.Compact(t.Context()); errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
		expectHoled(t, db)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	waitNoOrphans(t, db)
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("found %v", found)
	}
}

// Pages that a reader can still see are not freed.
func TestCompactWaitsForReaders(t *testing.T) {
	t.Parallel()
	db := openDB(t, holedStore(t))
	const objects = 200
	key := func(i int) string { return fmt.Sprint("seen/", i) }
	for i := range objects {
		put(t, db, key(i), storagetest.Content(uint64(i), 5000))
	}
	if err := db.Settle(); err != nil { // what is in the journal is in memory, too
		t.Fatal(err)
	}
	begun, compacted, ended := make(chan bool), make(chan bool), make(chan error)
	go func() {
		ended <- db.ViewMeta(func(tx *bbolt.Tx) error {
			close(begun)
			<-compacted
			for i := range objects {
				content, err := bolt.StoredContent(tx, key(i))
				if err != nil || !bytes.Equal(content, storagetest.Content(uint64(i), 5000)) {
					return fmt.Errorf("a reader sees other bytes, or %w", err)
				}
			}
			return nil
		})
	}()
	<-begun
	for i := range objects {
		if err := db.Delete(t.Context(), key(i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := db.Compact(ctx)
	close(compacted)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while a reader has freed pages Compact = %v, want context.DeadlineExceeded", err)
	}
	if freed, err := db.Compact(t.Context()); err != nil || freed < 20<<20 {
		t.Errorf("then Compact = %d, %v", freed, err)
	}
}

// Compact ends although there is always a reader.
func TestCompactBesideReaders(t *testing.T) {
	t.Parallel()
	db := openDB(t, holedStore(t))
	reading, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var read func(begun chan<- bool)
	read = func(begun chan<- bool) { // ends when the next reader has begun
		err := db.ViewMeta(func(*bbolt.Tx) error {
			close(begun)
			if reading.Err() == nil {
				time.Sleep(time.Millisecond)
				next := make(chan bool)
				readers.Go(func() { read(next) })
				<-next
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	first := make(chan bool)
	readers.Go(func() { read(first) })
	<-first
	if err := db.SetState(t.Context(), "record", []byte("this frees pages of its neighbours")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	freed, err := db.Compact(ctx)
	stop()
	readers.Wait()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil || freed < 25<<20 {
		t.Errorf("Compact = %d, %v", freed, err)
	}
}

// After a compaction, bbolt can still replace a damaged meta page by the other one.
func TestCompactOneMetaPage(t *testing.T) {
	t.Parallel()
	dir := holedStore(t)
	db := openDB(t, dir)
	if _, err := db.Compact(t.Context()); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	db.Close()
	for file, pageSize := range map[string]int{"meta.db": 4 << 10, "blobs.db": 16 << 10} {
		for page := range 2 {
			left := afterCrash(t, dir)
			patch(t, left, file, func(file []byte) { file[page*pageSize+24] ^= 1 })
			db := openDB(t, left)
			expectHoled(t, db)
			if _, found := verify(t, db, false); found != nil {
				t.Errorf("without page %d of %s: %v", page, file, found)
			}
			db.Close()
		}
	}
}

// A used page on a damaged list of free pages is not lost.
func TestCompactDamaged(t *testing.T) {
	t.Parallel()
	dir := holedStore(t)
	name := filepath.Join(dir, "meta.db")
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	addFreePage(t, file)
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, dir)
	if freed, err := db.Compact(t.Context()); !errors.Is(err, storage.ErrDamaged) || freed != 0 {
		t.Errorf("Compact = %d, %v, want ErrDamaged", freed, err)
	}
	expectHoled(t, db)
}

// addFreePage replaces the first page on the list of free pages in meta.db by a used page.
func addFreePage(t *testing.T, file []byte) {
	t.Helper()
	const pageSize, header = 4096, 16
	number := binary.NativeEndian.Uint64
	newest := file[header:]
	if other := file[pageSize+header:]; number(other[48:]) > number(newest[48:]) {
		newest = other
	}
	root, list := number(newest[16:]), number(newest[32:])
	ids := file[list*pageSize+header:]
	if count := binary.NativeEndian.Uint16(file[list*pageSize+10:]); count == 0 || count == 0xffff {
		t.Fatalf("%d free pages", count)
	}
	binary.NativeEndian.PutUint64(ids, root)
}

func TestCompactCancelled(t *testing.T) {
	t.Parallel()
	db := openDB(t, holedStore(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if freed, err := db.Compact(ctx); !errors.Is(err, context.Canceled) || freed != 0 {
		t.Errorf("Compact = %d, %v, want context.Canceled", freed, err)
	}
	db.Close()
	if _, err := db.Compact(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Compact of a closed store = %v, want fs.ErrClosed", err)
	}
}

// onDisk returns how many bytes the two files of a store take on disk.
func onDisk(t testing.TB, dir string) (total int64) {
	t.Helper()
	for _, name := range []string{"meta.db", "blobs.db"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		n, err := bolt.Allocated(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}

func expectContent(t *testing.T, s storage.Store, key string, content []byte) {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Error(err)
		return
	}
	got, err := io.ReadAll(o)
	if err := errors.Join(err, o.Close()); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%s: %d other bytes, or %v", key, len(got), err)
	}
}
