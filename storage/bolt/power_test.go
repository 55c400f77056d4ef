package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// history is a store that random operations change, one after the other, and what it has to have.
type history struct {
	*rand.Rand
	dir     string
	db      *bolt.DB
	want    map[string][]byte
	next    int      // number of the next object
	files   [][]byte // the used part of meta.db before the operation, and after each of its durable steps
	lived   int      // operations since the last failure
	merging int      // operations that began in the middle of a merge
}

// metaPages are the first pages of a file, of which a commit writes one when all else is on disk.
const metaPages = 2 * 4096

func (h *history) open(t *testing.T, dir string) {
	h.dir, h.db, h.lived = dir, openDB(t, dir), 0
	h.db.SmallLimits()
	h.db.OnDurable(func() { h.files = append(h.files, h.read(t)) })
}

func (h *history) read(t *testing.T) []byte {
	file := make([]byte, h.used(t))
	f, err := os.Open(filepath.Join(h.dir, "meta.db"))
	if err == nil {
		_, err = io.ReadFull(f, file)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Error(err)
	}
	return file
}

// used returns where the last page ends; the file is longer.
func (h *history) used(t *testing.T) (size int64) {
	if err := h.db.ViewMeta(func(tx *bbolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		t.Error(err)
	}
	return size
}

// held returns the key of a random object.
func (h *history) held() string {
	keys := slices.Sorted(maps.Keys(h.want))
	return keys[h.IntN(len(keys))]
}

func (h *history) small() storage.Small {
	h.next++
	key := fmt.Sprintf("m.example/%03d/@v/v1.%d.0.mod", h.IntN(1000), h.next)
	return storage.Small{Info: storage.Info{Key: key}, Content: storagetest.Content(uint64(h.next), []int{0, 1, 10, 50, 100, 150, 200, 513, 990, 3000}[h.IntN(10)])}
}

// creates is an operation that creates objects.
func (h *history) creates(t *testing.T) error {
	var batch storage.Batch
	for range 1 + h.IntN(3)*h.IntN(3) {
		o := h.small()
		batch.Create = append(batch.Create, o)
		h.want[o.Info.Key] = o.Content
	}
	if len(batch.Create) == 1 {
		return createSmall(t.Context(), h.db, batch.Create)
	}
	return h.db.Apply(t.Context(), batch)
}

// changes is an operation that changes objects in the tree.
func (h *history) changes(t *testing.T) error {
	key, o := h.held(), h.small()
	content := h.want[key]
	switch h.IntN(4) {
	case 0:
		delete(h.want, key)
		return h.db.Delete(t.Context(), key)
	case 1:
		delete(h.want, key)
		h.want[o.Info.Key] = content
		return h.db.Move(t.Context(), key, o.Info.Key, "proof")
	case 2:
		h.want[key] = o.Content
		return h.db.Replace(t.Context(), storage.Info{Key: key, Size: int64(len(o.Content))}, bytes.NewReader(o.Content))
	default:
		h.want[o.Info.Key] = o.Content
		swap := &storage.Swap{Name: o.Info.Key, New: o.Content}
		return h.db.Apply(t.Context(), storage.Batch{Create: []storage.Small{o}, Swap: swap, SwapFirst: h.IntN(2) == 0})
	}
}

// torn returns what a power failure leaves between two states: during a commit some of the new sectors
// and the earlier meta pages, during the write of a frame some of the new sectors.
func (h *history) torn(from, to []byte) []byte {
	file := bytes.Clone(from)
	file = append(file, make([]byte, max(0, len(to)-len(from)))...)
	for at := metaPages; at < len(to); at += 512 {
		if h.IntN(2) == 0 {
			copy(file[at:at+512], to[at:at+512])
		}
	}
	return file
}

// failed returns what a failure at a random moment of the operation leaves, in words too, and whether the
// operation was over. If onlyCreates is set, the state of the other meta page has all objects, too.
func (h *history) failed(onlyCreates bool) (file []byte, how string, over bool) {
	step := h.IntN(len(h.files))
	file, over = h.files[step], step == len(h.files)-1
	switch {
	case step > 0 && h.IntN(2) == 0:
		return h.torn(h.files[step-1], file), "torn", false
	case onlyCreates && h.lived > 0 && h.IntN(3) == 0:
		file = bytes.Clone(file)
		file[h.IntN(2)*4096+24] ^= 1
		return file, "damaged", over
	}
	return file, "killed", over
}

// contents reads the whole store.
func contents(t *testing.T, db *bolt.DB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for info, err := range db.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		o, err := db.Open(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		content := make([]byte, info.Size)
		if _, err := io.ReadFull(o, content); err != nil {
			t.Fatal(err)
		}
		o.Close()
		all[info.Key] = content
	}
	return all
}

// A power failure or a kill at any moment of any operation, in particular in the middle of merges,
// leaves the objects of before the operation or those of after it, and all of them if it was
// acknowledged. The store goes on from there.
func TestPowerFailures(t *testing.T) {
	t.Parallel()
	histories, operations := 6, 60
	if testing.Short() {
		histories = 2
	}
	for range histories {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := &history{Rand: rand.New(rand.NewPCG(seed, 1)), want: map[string][]byte{}}
			h.open(t, t.TempDir())
			if err := h.creates(t); err != nil { // from now on both meta pages are of this store
				t.Fatal(err)
			}
			onlyCreates := seed%2 == 0
			for range operations {
				h.step(t, onlyCreates)
			}
			if onlyCreates && h.merging < operations/16 { // changes end merges
				t.Errorf("%d of %d operations were in the middle of a merge, which proves little", h.merging, operations)
			}
		})
	}
}

// step does a random operation, and checks what a failure during it leaves.
func (h *history) step(t *testing.T, onlyCreates bool) {
	before := maps.Clone(h.want)
	h.files = [][]byte{h.read(t)}
	if h.db.Merging() > 0 {
		h.merging++
	}
	var err error
	switch n := h.IntN(40); {
	case n == 0:
		err = h.db.Settle()
	case n == 1:
		dir := t.TempDir()
		if err = backUp(t.Context(), h.db, dir); err == nil {
			backup := openReadOnly(t, dir)
			expectAll(t, backup, h.want)
			backup.Close()
		}
	case n < 6 && !onlyCreates && len(h.want) > 0:
		err = h.changes(t)
	default:
		err = h.creates(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	if h.IntN(4) == 0 {
		expectAll(t, h.db, h.want)
	}

	file, how, over := h.failed(onlyCreates)
	left := afterCrash(t, h.dir)
	writeSparse(t, filepath.Join(left, "meta.db"), file)
	found := openReadOnly(t, left)
	defer found.Close()
	has := contents(t, found)
	undone := !maps.EqualFunc(has, h.want, bytes.Equal)
	if undone && (over || !maps.EqualFunc(has, before, bytes.Equal)) {
		t.Fatalf("%s, operation over: %v: the store has %d objects, want %d, or before the operation %d", how, over, len(has), len(h.want), len(before))
	}
	expectAll(t, found, has) // its totals, and no damage
	h.lived++
	if how != "damaged" && h.IntN(4) == 0 {
		found.Close()
		h.db.Close()
		h.want = has
		h.open(t, left)
	}
}
