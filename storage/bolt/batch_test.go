package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// batchWorkers is the number of concurrent workers, so that their changes share commits.
const batchWorkers = 4

// extension returns the batch that extends a worker's log of n entries by one.
func extension(worker, n int) storage.Batch {
	b := storage.Batch{Swap: &storage.Swap{Name: fmt.Sprint("size/", worker), New: fmt.Append(nil, n+1)}}
	if n > 0 {
		b.Swap.Old = fmt.Append(nil, n)
	}
	for _, name := range []string{"entry", "tile", "data"} {
		b.Create = append(b.Create, storage.Small{
			Info:    storage.Info{Key: fmt.Sprintf("log%d/%s/%06d", worker, name, n)},
			Content: fmt.Append(nil, name, n),
		})
	}
	return b
}

// logLength returns the length of a worker's log.
func logLength(ctx context.Context, s storage.Store, worker int) (n int, err error) {
	value, err := s.State(ctx, fmt.Sprint("size/", worker))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		_, err = fmt.Sscan(string(value), &n)
	}
	return n, err
}

// movedContent returns the content that each worker moves back and forth: small, or large.
func movedContent(worker int) []byte {
	return storagetest.Content(uint64(worker), []int{100, 100_000}[worker%2])
}

// batchStore applies batches and moves objects until it is killed. It prints "WORKER N" when a log
// has N entries.
func batchStore(dir string) error {
	db, err := bolt.Open(dir, nil)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range batchWorkers {
		go func() { failed <- batchWorker(db, w) }()
	}
	return <-failed
}

func batchWorker(db *bolt.DB, worker int) error {
	ctx := context.Background()
	n, err := logLength(ctx, db, worker)
	if err != nil {
		return err
	}
	content := movedContent(worker)
	key := func(place int) string { return fmt.Sprintf("place%d/%d", place%2, worker) }
	place := 0
	if _, err := db.Stat(ctx, key(1)); err == nil {
		place = 1
	}
	err = db.Create(ctx, storage.Info{Key: key(place), Size: int64(len(content))}, bytes.NewReader(content))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for {
		if err := db.Apply(ctx, extension(worker, n)); err != nil {
			return err
		}
		n++
		fmt.Fprintf(os.Stdout, "%d %d\n", worker, n)
		if err := db.Move(ctx, key(place), key(place+1), key(place+1)); err != nil {
			return err
		}
		place++
	}
}

// If a process is killed at any moment, each batch is in the store as a whole or not at all, and
// each moved object is at exactly one place.
func TestKilledInBatch(t *testing.T) {
	t.Parallel()
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	said := make([]int, batchWorkers)
	for round := range rounds {
		killed(t, "batch", dir, 20+7*round, func(line string) bool {
			var worker, n int
			if _, err := fmt.Sscan(line, &worker, &n); err != nil {
				t.Errorf("said %q: %v", line, err)
				return false
			}
			said[worker] = n
			return true
		})
		db := openDB(t, dir)
		for w := range batchWorkers {
			said[w] = checkLog(t, db, w, said[w])
			checkMoved(t, db, w, said[w])
		}
		waitNoOrphans(t, db)
		if _, found := verify(t, db, false); found != nil {
			t.Errorf("found %v", found)
		}
		db.Close()
	}
	for w, n := range said {
		if n < rounds {
			t.Errorf("worker %d has made %d entries, which proves nothing", w, n)
		}
	}
}

// checkLog checks the log of a worker, and returns its length. One entry more than it said may be in
// it, but not one more for each life: a worker may say nothing in a short one.
func checkLog(t *testing.T, db *bolt.DB, worker, said int) (n int) {
	t.Helper()
	n, err := logLength(t.Context(), db, worker)
	if err != nil || n != said && n != said+1 {
		t.Errorf("the log of %d has %d entries, %v; it said %d", worker, n, err, said)
	}
	objects := 0
	for _, err := range db.List(t.Context(), fmt.Sprintf("log%d/", worker)) {
		if err != nil {
			t.Error(err)
		}
		objects++
	}
	if objects != 3*n {
		t.Errorf("the log of %d has %d entries and %d objects", worker, n, objects)
	}
	if n == 0 {
		return 0
	}
	last := extension(worker, n-1)
	last.Swap = nil
	if err := db.Apply(t.Context(), last); err != nil {
		t.Errorf("the last entry is not what it was: %v", err)
	}
	return n
}

func checkMoved(t *testing.T, db *bolt.DB, worker, said int) {
	t.Helper()
	places := 0
	for place := range 2 {
		key := fmt.Sprintf("place%d/%d", place, worker)
		o, err := db.Open(t.Context(), key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		places++
		got, err := io.ReadAll(o)
		if err != nil || !bytes.Equal(got, movedContent(worker)) {
			t.Errorf("%s: other bytes, or %v", key, err)
		}
		if proof := o.Info().Proof; proof != key && proof != "" {
			t.Errorf("%s has the proof %q", key, proof)
		}
		o.Close()
	}
	if places > 1 || places == 0 && said > 0 { // the object is created before the first entry
		t.Errorf("what %d moves is at %d places", worker, places)
	}
}

// A move does not give a damaged object a new checksum.
func TestMoveDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	contents := map[string][]byte{"small": storagetest.Content(1, 1000), "large": storagetest.Content(2, 100_000)}
	for key, content := range contents {
		if err := db.Create(t.Context(), storage.Info{Key: key, Size: int64(len(content))}, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	overwrite(t, dir, "meta.db", contents["small"][100:200])
	overwrite(t, dir, "blobs.db", contents["large"][100:200])
	db = openDB(t, dir)
	if err := db.Move(t.Context(), "small", "moved", ""); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("Move = %v, want ErrDamaged", err)
	}
	if err := db.Move(t.Context(), "large", "moved", ""); err != nil {
		t.Errorf("Move = %v", err)
	}
	o, err := db.Open(t.Context(), "moved")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := io.ReadAll(o); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("reading what was moved: %v, want ErrDamaged", err)
	}
}

// Batches that wait for the disk share one commit, also if they have an object in common.
func TestBatchesShareCommit(t *testing.T) {
	t.Parallel()
	const fills = 16
	db := openDB(t, t.TempDir())
	put(t, db, "first", nil) // it begins the journal
	tile := storage.Small{Info: storage.Info{Key: "tile", Proof: "log"}, Content: storagetest.Content(1, 8<<10)}
	waiting, release := db.HoldCommits()
	before := commitsOf(t, db)
	var all sync.WaitGroup
	for n := range fills {
		all.Go(func() {
			mod := storage.Small{Info: storage.Info{Key: fmt.Sprintf("m%d/@v/v1.0.0.mod", n)}, Content: []byte("module m")}
			if err := db.Apply(t.Context(), storage.Batch{Create: []storage.Small{tile, mod}}); err != nil {
				t.Error(err)
			}
		})
	}
	for waiting() < fills {
		time.Sleep(time.Millisecond)
	}
	release()
	all.Wait()
	if n := commitsOf(t, db) - before; n != 1 {
		t.Errorf("%d batches made %d commits, want 1", fills, n)
	}
}

// A batch that fails does not make the others that wait with it wait for the disk one by one.
func TestBatchThatFailsShares(t *testing.T) {
	t.Parallel()
	const fills, failing = 16, 5
	db := openDB(t, t.TempDir())
	put(t, db, "taken", []byte("first"))
	waiting, release := db.HoldCommits()
	before := commitsOf(t, db)
	var all sync.WaitGroup
	for n := range fills {
		all.Go(func() {
			key, want := fmt.Sprint("key", n), error(nil)
			if n%3 == 0 && n/3 < failing {
				key, want = "taken", fs.ErrExist
			}
			batch := storage.Batch{Create: []storage.Small{{Info: storage.Info{Key: fmt.Sprint("first", n)}}, {Info: storage.Info{Key: key}}}}
			if err := db.Apply(t.Context(), batch); !errors.Is(err, want) {
				t.Errorf("batch %d: %v, want %v", n, err, want)
			}
			if _, err := db.Stat(t.Context(), batch.Create[0].Info.Key); (err == nil) != (want == nil) {
				t.Errorf("batch %d, which ended with %v: %v", n, want, err)
			}
		})
	}
	for waiting() < fills {
		time.Sleep(time.Millisecond)
	}
	release()
	all.Wait()
	if n := commitsOf(t, db) - before; n != 1 {
		t.Errorf("%d batches, of which %d fail, made %d commits, want 1", fills, failing, n)
	}
}

// commitsOf returns how many commits meta.db had, as the metric says.
func commitsOf(t *testing.T, db *bolt.DB) (n uint64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(db.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "assay_storage_commit_seconds" && m.GetLabel()[0].GetValue() == "meta" {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}
