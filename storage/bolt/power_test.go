package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
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
	merging int      // operations that began in the middle of a merge
	blobs   []byte   // the used part of blobs.db, which does not change

	// failed is set when a commit failed since the start: it may have taken effect, and what it merged
	// counts twice until the next slice.
	failed bool

	onlyCreates bool // a change ends a merge, so with changes few operations are in the middle of one
}

// metaPages are the first pages of a file, of which a commit writes one when all else is on disk.
const metaPages = 2 * 4096

func (h *history) open(t *testing.T, dir string) {
	h.dir, h.db = dir, openDB(t, dir)
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

// creates is an operation that creates objects. One of a batch may be there already.
func (h *history) creates(t *testing.T) error {
	var batch storage.Batch
	if len(h.want) > 0 && h.IntN(4) == 0 {
		key := h.held()
		batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: key}, Content: h.want[key]})
	}
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
		return h.db.Move(t.Context(), key, o.Info.Key, "")
	case 2:
		h.want[key] = o.Content
		return h.db.Replace(t.Context(), storage.Info{Key: key, Size: int64(len(o.Content))}, bytes.NewReader(o.Content))
	default:
		h.want[o.Info.Key] = o.Content
		swap := &storage.Swap{Name: o.Info.Key, New: o.Content}
		held := storage.Small{Info: storage.Info{Key: key}, Content: content}
		return h.db.Apply(t.Context(), storage.Batch{Create: []storage.Small{o, held}, Swap: swap, SwapFirst: h.IntN(2) == 0})
	}
}

// faults are those of a disk or of a machine, of which one happens at a time. Each returns what it leaves of
// the used part of meta.db, between two durable states or in the second one.
var faults = map[string]func(h *history, from, to []byte) []byte{
	// A kill leaves all that was written.
	"kill": func(_ *history, _, to []byte) []byte { return to },

	// A power failure before the first fsync of a commit, or during that of a frame, leaves some of the new
	// sectors, and the earlier meta pages.
	"lost sectors": func(h *history, from, to []byte) []byte {
		file := append(bytes.Clone(from), make([]byte, max(0, len(to)-len(from)))...)
		written := h.IntN(9) // none, some or all
		for at := metaPages; at < len(to); at += 512 {
			if h.IntN(8) < written {
				copy(file[at:at+512], to[at:at+512])
			}
		}
		return file
	},

	// A power failure during the second fsync of a commit may leave a part of its meta page.
	"torn meta page": func(h *history, from, to []byte) []byte {
		file := bytes.Clone(to)
		for page := 0; page < metaPages; page += 4096 {
			if bytes.Equal(from[page:page+4096], to[page:page+4096]) {
				continue
			}
			for at := page + 16; at < page+80; at++ { // what bbolt uses of it
				if h.IntN(2) == 0 {
					file[at] = byte(h.Uint32())
				}
			}
		}
		return file
	},
}

// damageMetaPage changes a bit of one of the two meta pages.
func (h *history) damageMetaPage(file []byte) {
	file[h.IntN(2)*4096+16+h.IntN(64)] ^= 1 << h.IntN(8)
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
// acknowledged. So does a meta page that is damaged after the store was closed. The store goes on from there.
func TestPowerFailures(t *testing.T) {
	t.Parallel()
	var merging atomic.Int64
	most := histories(t, func(t *testing.T, h *history) {
		before := h.merging
		h.step(t)
		merging.Add(int64(h.merging - before))
	})
	if n := int(merging.Load()); n < most/32 {
		t.Errorf("%d of %d operations were in the middle of a merge, which proves little", n, most)
	}
}

// histories runs random histories of some operations side by side, and returns the number of operations.
// A history ends with its first error.
func histories(t *testing.T, step func(t *testing.T, h *history)) (operations int) {
	number, each := 6, 60
	if testing.Short() || storagetest.RaceDetector {
		number = 2
	}
	t.Run("histories", func(t *testing.T) {
		for i := range number {
			seed := rand.Uint64()
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				h := newHistory(t, seed, i%2 == 0)
				for range each {
					if step(t, h); t.Failed() {
						t.FailNow()
					}
				}
			})
		}
	})
	return number * each
}

func newHistory(t *testing.T, seed uint64, onlyCreates bool) *history {
	h := &history{Rand: rand.New(rand.NewPCG(seed, 1)), want: map[string][]byte{}, onlyCreates: onlyCreates}
	h.open(t, t.TempDir())
	if err := h.creates(t); err != nil { // from now on both meta pages are of this store
		t.Fatal(err)
	}
	blobs, err := os.ReadFile(filepath.Join(h.dir, "blobs.db"))
	if err != nil {
		t.Fatal(err)
	}
	const page = 16 << 10
	used := len(bytes.TrimRight(blobs, "\x00"))
	h.blobs = blobs[:min(len(blobs), (used+page-1)/page*page)]
	return h
}

// operate does a random operation.
func (h *history) operate(t *testing.T) error {
	h.files = [][]byte{h.read(t)}
	if h.db.Merging() > 0 {
		h.merging++
	}
	switch n := h.IntN(40); {
	case n == 0:
		return h.db.Settle()
	case n == 1:
		dir := t.TempDir()
		if err := backUp(t.Context(), h.db, dir); err != nil {
			return err
		}
		backup := openReadOnly(t, dir)
		defer backup.Close()
		expectAll(t, backup, h.want)
		return nil
	case n < 6 && !h.onlyCreates && len(h.want) > 0:
		return h.changes(t)
	}
	return h.creates(t)
}

// step does a random operation, and checks what a random fault leaves.
func (h *history) step(t *testing.T) {
	before := maps.Clone(h.want)
	if err := h.operate(t); err != nil {
		t.Fatal(err)
	}
	if h.IntN(4) == 0 {
		expectAll(t, h.db, h.want)
	}
	if h.IntN(32) == 0 {
		h.closeAndDamage(t)
		return
	}
	names := slices.Sorted(maps.Keys(faults))
	name, step := names[h.IntN(len(names))], h.IntN(len(h.files))
	file := faults[name](h, h.files[max(step-1, 0)], h.files[step])
	over := step == len(h.files)-1 && (name == "kill" || step == 0)

	left := h.leave(t, file)
	found := openReadOnly(t, left)
	defer found.Close()
	has := contents(t, found)
	undone := !maps.EqualFunc(has, h.want, bytes.Equal)
	if undone && (over || !maps.EqualFunc(has, before, bytes.Equal)) {
		t.Fatalf("%s, operation over: %v: the store has %d objects, want %d, or before the operation %d", name, over, len(has), len(h.want), len(before))
	}
	expectAll(t, found, has) // its totals, and no damage
	if h.IntN(4) == 0 {
		found.Close()
		h.db.Close()
		h.want = has
		h.open(t, left)
	}
}

// leave returns a directory with this meta.db.
func (h *history) leave(t *testing.T, meta []byte) (dir string) {
	dir = t.TempDir()
	writeSparse(t, filepath.Join(dir, "meta.db"), meta)
	writeSparse(t, filepath.Join(dir, "blobs.db"), h.blobs)
	return dir
}

// closeAndDamage closes the store, damages a meta page of each file, and goes on.
func (h *history) closeAndDamage(t *testing.T) {
	t.Helper()
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	patch(t, h.dir, "meta.db", h.damageMetaPage)
	h.open(t, h.dir)
	if expectAll(t, h.db, h.want); t.Failed() {
		t.Fatal("after a meta page of the closed store was damaged")
	}
}

// An interrupted commit and then a damaged meta page are two faults, which a store need not survive: pages
// of the state of the other meta page may be overwritten. But what is read of it is right, or an error.
func TestTwoFaults(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h, lost := newHistory(t, seed, true), 0
	for range 60 {
		before := maps.Clone(h.want)
		if err := h.operate(t); err != nil {
			t.Fatal(err)
		}
		step := h.IntN(len(h.files))
		file := faults["lost sectors"](h, h.files[max(step-1, 0)], h.files[step])
		h.damageMetaPage(file)
		if !readsRight(t, h.leave(t, file), before) {
			lost++
		}
	}
	t.Logf("%d of 60 stores lost something", lost)
}

// readsRight checks that nothing wrong is read of a store, and reports whether all objects are there.
func readsRight(t *testing.T, dir string, objects map[string][]byte) (all bool) {
	db, err := bolt.Open(dir, nil)
	if err != nil {
		if !errors.Is(err, storage.ErrDamaged) && !errors.Is(err, storage.ErrForeign) {
			t.Error(err)
		}
		return false
	}
	defer db.Close()
	all = true
	for key, content := range objects {
		o, err := db.Open(t.Context(), key)
		if err != nil {
			if !errors.Is(err, storage.ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			all = false
			continue
		}
		got, err := io.ReadAll(o)
		if err := errors.Join(err, o.Close()); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d other bytes, or %v", key, len(got), err)
		}
	}
	return all
}
