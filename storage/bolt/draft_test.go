package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// fullChunk is the content of one chunk.
const fullChunk = 256<<10 - 64

// startDraft opens a draft that has the content so far.
func startDraft(t testing.TB, db *bolt.DB, size int64, content []byte) storage.Draft {
	t.Helper()
	d, err := db.Draft(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if _, err := d.Write(content); err != nil {
		t.Fatal(err)
	}
	return d
}

// expectDraft checks what was written so far.
func expectDraft(t testing.TB, d storage.Draft, content []byte) {
	t.Helper()
	got, err := io.ReadAll(io.NewSectionReader(d, 0, 1<<40))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("draft: %d bytes, %v, want %d other ones", len(got), err, len(content))
	}
}

// Drafts that no longer arrive, many times as large as the budget, do not keep others from writing:
// they keep one chunk each, and what is full goes to the disk. The budget is never exceeded, and all
// of it is given back.
func TestStalledDrafts(t *testing.T) {
	t.Parallel()
	db, writers := openWithWriters(t)
	check := func() {
		t.Helper()
		if writers.Used() > writers.Size() {
			t.Fatalf("%d bytes of %d are used", writers.Used(), writers.Size())
		}
	}
	var stalled []storage.Draft
	contents := map[int][]byte{}
	for i := range 12 {
		// At every position in a chunk, also exactly at its end.
		contents[i] = storagetest.Content(uint64(i), i*fullChunk+[]int{0, 1, 100_000, fullChunk - 1}[i%4])
		stalled = append(stalled, startDraft(t, db, 20<<20, contents[i]))
		check()
	}
	content := storagetest.Content(100, 9<<20)
	put(t, db, "beside", content)
	check()
	for i, d := range stalled {
		expectDraft(t, d, contents[i])
	}
	// They go on at the same time.
	var all sync.WaitGroup
	for i, d := range stalled {
		all.Go(func() {
			rest := storagetest.Content(uint64(i), 20<<20)[len(contents[i]):]
			if _, err := d.Write(rest); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := d.Commit(context.Background(), storage.Info{Key: fmt.Sprint("late", i), Size: 20 << 20}); err != nil {
					t.Error(err)
				}
			}
			check()
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := 0; i < len(stalled); i += 2 {
		expectContent(t, db, fmt.Sprint("late", i), storagetest.Content(uint64(i), 20<<20))
	}
	expectContent(t, db, "beside", content)
	if writers.Used() != 0 {
		t.Errorf("%d bytes are lost", writers.Used())
	}
	waitNoOrphans(t, db)
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("found %v", found)
	}
}

// When the budget has no room for one chunk, a new draft waits until its context ends, or until
// another draft is closed.
func TestDraftWaitsForMemory(t *testing.T) {
	t.Parallel()
	db, writers := openWithWriters(t)
	var stalled []storage.Draft
	for range 17 { // the half of the budget that is not for bbolt
		stalled = append(stalled, startDraft(t, db, -1, make([]byte, 40_000)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	d, err := db.Draft(ctx, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(make([]byte, 30_000)); err != nil {
		t.Errorf("a small content waits: %v", err)
	}
	cancel()
	if _, err := d.Write(make([]byte, 10_000)); !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v, want context.Canceled", err)
	}
	d.Close()
	put(t, db, "small", make([]byte, 30_000))

	waited := make(chan error, 1)
	go func() {
		waited <- db.Create(context.Background(), storage.Info{Key: "waits", Size: 300_000}, bytes.NewReader(make([]byte, 300_000)))
	}()
	stalled[3].Close()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	for i, d := range stalled {
		if i != 3 {
			d.Close()
		}
	}
	if writers.Used() != 0 {
		t.Errorf("%d bytes are lost", writers.Used())
	}
}

// A draft of up to 32 KiB is never in blobs.db, and takes no memory of the budget; one of up to a
// segment is there only after Commit.
func TestDraftInMemory(t *testing.T) {
	t.Parallel()
	db, writers := openWithWriters(t)
	small := startDraft(t, db, -1, make([]byte, 32<<10))
	if writers.Used() != 0 {
		t.Errorf("a small draft takes %d bytes", writers.Used())
	}
	large := startDraft(t, db, -1, make([]byte, 16*fullChunk))
	if has, err := db.HasIntent(1); has || err != nil {
		t.Errorf("there is a blob before Commit, %v", err)
	}
	for key, d := range map[string]storage.Draft{"small": small, "large": large} {
		size := map[string]int64{"small": 32 << 10, "large": 16 * fullChunk}[key]
		if err := d.Commit(t.Context(), storage.Info{Key: key, Size: size}); err != nil {
			t.Error(err)
		}
	}
	if writers.Used() != 0 {
		t.Errorf("after Commit %d bytes are used", writers.Used())
	}
	id, _, err := db.BlobOf("large")
	if err != nil || id != 1 {
		t.Errorf("blob %d, %v: the small draft had one, too", id, err)
	}
	if got, err := db.Segments(1); err != nil || !slices.Equal(got, []int{16}) {
		t.Errorf("segments %v, %v", got, err)
	}
}

// A blob with segments of an earlier version is read, located and shared.
func TestOldSegments(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	for i, size := range []int{1, fullChunk, 16 * fullChunk, 16*fullChunk + 1, 17 * fullChunk, 17*fullChunk + 1, 33*fullChunk + 5} {
		id, err := db.OldSegments(storagetest.Content(uint64(i), size))
		if err != nil {
			t.Fatal(err)
		}
		chunks, err := db.Locate(id, int64(size))
		if want := (size + fullChunk - 1) / fullChunk; err != nil || len(chunks) != want {
			t.Errorf("%d bytes: %d chunks, %v, want %d", size, len(chunks), err, want)
		}
		for _, wrong := range []int64{int64(size) - 1, int64(size) + 1, int64(size) + fullChunk, int64(size) - fullChunk} {
			if beginning := wrong < int64(size) && wrong%fullChunk == 0; wrong > 0 && !beginning {
				if _, err := db.Locate(id, wrong); !errors.Is(err, storage.ErrDamaged) {
					t.Errorf("as a blob of %d bytes one of %d: %v, want ErrDamaged", wrong, size, err)
				}
			}
		}
	}
}

// The chunks of an object stay where its record says, also a very small last one, when others come
// and go.
func TestLastChunkStays(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	sizes := []int{16*fullChunk + 1, 16*fullChunk + 4000, 16*fullChunk + 5000, 32*fullChunk + 1}
	for i, size := range sizes {
		content := storagetest.Content(uint64(i), size)
		d := startDraft(t, db, int64(size), content)
		if err := d.Commit(t.Context(), storage.Info{Key: fmt.Sprint(i), Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		d.Close()
		for j := range 30 {
			key := fmt.Sprint("other", i, "-", j)
			put(t, db, key, storagetest.Content(uint64(100+i*30+j), 40_000))
			if j%2 == 0 {
				if err := db.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	waitNoOrphans(t, db)
	for i, size := range sizes {
		id, recorded, err := db.BlobOf(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		now, err := db.Locate(id, int64(size))
		if err != nil || !slices.Equal(now, recorded) {
			t.Errorf("%d bytes: chunks are at %v, %v, and were at %v", size, now, err, recorded)
		}
		expectContent(t, db, fmt.Sprint(i), storagetest.Content(uint64(i), size))
	}
}

// While a draft is open, the store is verified with repair, compacted and backed up: the draft is
// no damage, is not deleted, and is not in the backup.
func TestMaintenanceBesideDraft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	content := storagetest.Content(1, 11<<20)
	put(t, db, "deleted", storagetest.Content(2, 9<<20))
	d := startDraft(t, db, -1, content[:9<<20])
	if err := db.Delete(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	waitNoOrphans(t, db) // pages are free for Compact
	if _, found := verify(t, db, true); found != nil {
		t.Errorf("found %v", found)
	}
	if _, err := db.Compact(t.Context()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	copied := t.TempDir()
	if err := backUp(t.Context(), db, copied); err != nil {
		t.Fatal(err)
	}
	expectDraft(t, d, content[:9<<20])

	backup := openDB(t, copied)
	for info, err := range backup.List(t.Context(), "") {
		t.Errorf("in the backup: %v, %v", info, err)
	}
	waitNoOrphans(t, backup)
	if ids := blobIDs(t, copied, backup); len(ids) != 0 {
		t.Errorf("the backup keeps the blobs %v", ids)
	}

	if _, err := d.Write(content[9<<20:]); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context(), storage.Info{Key: "drafted", Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, found := verify(t, db, true); found != nil {
		t.Errorf("after Commit: %v", found)
	}
	d.Close()
	expectContent(t, db, "drafted", content)
	if _, found := verify(t, db, true); found != nil {
		t.Errorf("after Close: %v", found)
	}
}

// blobIDs closes a store and returns the keys of its segments.
func blobIDs(t *testing.T, dir string, db *bolt.DB) (keys []string) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, dir, "blobs.db", func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("blobs")).ForEach(func(k, _ []byte) error {
			keys = append(keys, fmt.Sprintf("%x", k))
			return nil
		})
	})
	return keys
}

// A draft whose process ends is deleted by the next start, also if a store was closed before it.
func TestDraftOfEarlierProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	put(t, db, "kept", storagetest.Content(2, 300_000))
	d := startDraft(t, db, -1, storagetest.Content(1, 9<<20))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	db = openDB(t, dir)
	waitNoOrphans(t, db)
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("found %v", found)
	}
	expectContent(t, db, "kept", storagetest.Content(2, 300_000))
	if keys := blobIDs(t, dir, db); len(keys) != 1 {
		t.Errorf("segments %v, want that of the object", keys)
	}
}

// Changed bytes of a draft are an error of ReadAt, and not served.
func TestDraftDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	content := storagetest.Content(1, 17*fullChunk)
	d := startDraft(t, db, -1, content)
	where, err := db.Locate(1, 16*fullChunk)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, dir+"/blobs.db", where[3]+rand.N(int64(fullChunk)), 1)
	piece := make([]byte, 10)
	for chunk := range int64(17) {
		n, err := d.ReadAt(piece, chunk*fullChunk+100)
		if chunk == 3 {
			if n != 0 || !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("changed chunk: %d bytes, %v, want ErrDamaged", n, err)
			}
		} else if err != nil || !bytes.Equal(piece, content[chunk*fullChunk+100:][:10]) {
			t.Errorf("chunk %d: %v, or other bytes", chunk, err)
		}
	}
}

// Small pieces of a draft that are read one after the other read each chunk once, if there is memory
// for it: when its bytes change on the disk meanwhile, they are still the right ones. Close gives the
// memory back.
func TestDraftReadsChunkOnce(t *testing.T) {
	t.Parallel()
	readers := memory.New(8 << 20)
	dir := t.TempDir()
	db, err := bolt.Open(dir, &bolt.Options{Readers: readers})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	content := storagetest.Content(1, 17*fullChunk)
	d := startDraft(t, db, -1, content)
	where, err := db.Locate(1, 16*fullChunk)
	if err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, 1000)
	expect := func(at int) {
		t.Helper()
		if _, err := d.ReadAt(piece, int64(at)); err != nil || !bytes.Equal(piece, content[at:][:len(piece)]) {
			t.Errorf("at %d: %v, or other bytes", at, err)
		}
	}
	expect(3 * fullChunk)
	flip(t, dir+"/blobs.db", where[3]+100_000, 1)
	for i := range 100 {
		expect(3*fullChunk + i*2000)
		expect(4*fullChunk + i*2000) // a second reader
	}
	for chunk := range 8 { // and only some are kept
		if chunk != 3 {
			expect(chunk * fullChunk)
		}
	}
	if _, err := d.ReadAt(piece, 3*fullChunk); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("after other chunks: %v, want ErrDamaged", err)
	}
	if used := readers.Used(); used == 0 || used > 5*256<<10 {
		t.Errorf("%d bytes are used", used)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if readers.Used() != 0 {
		t.Errorf("%d bytes are lost", readers.Used())
	}
}

// A draft that is stored keeps no chunks, however long a client that has stopped reading keeps it open.
func TestStoredDraftKeepsNoChunks(t *testing.T) {
	t.Parallel()
	readers := memory.New(8 << 20)
	db, err := bolt.Open(t.TempDir(), &bolt.Options{Readers: readers})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	content := storagetest.Content(1, 9<<20)
	d := startDraft(t, db, -1, content)
	piece := make([]byte, 1000)
	read := func() {
		t.Helper()
		for at := 0; at < len(content); at += 1 << 20 {
			if _, err := d.ReadAt(piece, int64(at)); err != nil || !bytes.Equal(piece, content[at:][:len(piece)]) {
				t.Errorf("at %d: %v, or other bytes", at, err)
			}
		}
	}
	read()
	if readers.Used() == 0 {
		t.Error("the draft keeps no chunk while it grows")
	}
	if err := d.Commit(t.Context(), storage.Info{Key: "k", Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if n := readers.Used(); n != 0 {
		t.Errorf("%d bytes are kept after Commit", n)
	}
	read()
	if n := readers.Used(); n != 0 {
		t.Errorf("%d bytes are kept after it was read again", n)
	}
}

// Many drafts that no longer arrive leave chunks to the readers of objects.
func TestStalledDraftsLeaveChunks(t *testing.T) {
	t.Parallel()
	readers := memory.New(8 << 20) // 15 chunks, a half of it
	db, err := bolt.Open(t.TempDir(), &bolt.Options{Readers: readers})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	content := storagetest.Content(1, 17*fullChunk)
	piece := make([]byte, 1000)
	for range 8 {
		d := startDraft(t, db, -1, content)
		for chunk := range int64(4) {
			if _, err := d.ReadAt(piece, chunk*fullChunk); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(t, db, "k", content)
	before := readers.Used()
	o, err := db.Open(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := io.ReadFull(o, piece); err != nil {
		t.Fatal(err)
	}
	if n := readers.Used() - before; n < fullChunk {
		t.Errorf("a reader of an object got %d bytes and no chunk: %d bytes were in use", n, before)
	}
}

// Readers of drafts share the readers' budget: without memory for chunks they read in pieces.
func TestDraftReadersBudget(t *testing.T) {
	t.Parallel()
	readers := memory.New(100) // too little for anything
	db, err := bolt.Open(t.TempDir(), &bolt.Options{Readers: readers})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	content := storagetest.Content(1, 9<<20)
	d := startDraft(t, db, -1, content)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { expectDraft(t, d, content) })
	}
	all.Wait()
	if readers.Used() != 0 {
		t.Errorf("%d bytes are lost", readers.Used())
	}
}
