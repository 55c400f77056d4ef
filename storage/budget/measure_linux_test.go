package budget_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/budget"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// observed is an engine whose calls a test observes.
type observed struct {
	*bolt.DB
	mu       sync.Mutex
	measured func() // called once after the disk was measured; nil: nothing is
	creating func() // called once before an object is created

	compacting func() // called once while the engine is compacted
}

func (o *observed) once(of *func()) {
	o.mu.Lock()
	do := *of
	*of = nil
	o.mu.Unlock()
	if do != nil {
		do()
	}
}

func (o *observed) set(of *func(), do func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*of = do
}

func (o *observed) DiskUse() (storage.DiskUse, error) {
	use, err := o.DB.DiskUse()
	o.once(&o.measured)
	return use, err
}

func (o *observed) Compact(ctx context.Context) (int64, error) {
	o.once(&o.compacting)
	return o.DB.Compact(ctx)
}

func (o *observed) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	o.once(&o.creating)
	return o.DB.Create(ctx, info, r)
}

// What another writer finishes between the measuring of the disk and the decision counts.
func TestFinishedMeanwhile(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dir: t.TempDir(), limit: 12 << 20}
	db, err := bolt.Open(w.dir, &bolt.Options{ReturnSpace: true, Journal: budget.JournalFor(w.limit)})
	if err != nil {
		t.Fatal(err)
	}
	engine := &observed{DB: db}
	store, err := budget.New(t.Context(), engine, budget.Config{Limit: w.limit, Dir: w.dir, Keep: w.keep})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	create := func(name string, size int64) error {
		data := storagetest.Content(uint64(len(name)), int(size))
		return store.Create(t.Context(), storage.Info{Key: "pinned/" + name, Size: size}, bytes.NewReader(data))
	}
	r, err := store.Report()
	if err != nil {
		t.Fatal(err)
	}
	const size = 3 << 20
	if err := create("filler", w.limit-r.Taken-size-2<<20); err != nil {
		t.Fatal(err)
	}
	begun, finish, first := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	engine.set(&engine.creating, func() { close(begun); <-finish })
	go func() { first <- create("a", size) }()
	<-begun
	engine.set(&engine.measured, func() {
		close(finish)
		if err := <-first; err != nil {
			t.Errorf("the first object: %v", err)
		}
	})
	if err := create("bb", size); !errors.Is(err, storage.ErrNoLarge) {
		t.Errorf("the second object: %v", err)
	}
	if got := w.du(); got > w.limit {
		t.Errorf("%d bytes on disk, limit %d", got, w.limit)
	}
}

// The copy that an engine makes while it is compacted does not count afterwards: nothing is evicted for it.
func TestCompactedCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := bolt.Open(dir, &bolt.Options{ReturnSpace: true})
	if err != nil {
		t.Fatal(err)
	}
	engine := &observed{DB: db}
	store, err := budget.New(t.Context(), engine, budget.Config{Limit: 64 << 20, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	taken := func() int64 {
		r, err := store.Report()
		if err != nil {
			t.Fatal(err)
		}
		return r.Taken
	}
	const size = 4 << 20
	before, name := taken(), filepath.Join(dir, "copy")
	engine.set(&engine.compacting, func() {
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		for taken() < before+size { // others measure meanwhile
			time.Sleep(10 * time.Millisecond)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	})
	store.CompactForRoom(t.Context())
	if got := taken(); got >= before+size/2 {
		t.Errorf("%d bytes are counted, before it were %d", got, before)
	}
}
