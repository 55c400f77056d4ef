package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
)

func batchTests() []contract {
	return []contract{
		{"all of it is there", batchAll},
		{"what is there already counts as created, if it is the same", batchAgain},
		{"a key that is taken is fs.ErrExist", batchExist},
		{"a state that changed is ErrConflict", batchConflict},
		{"what is too large or named twice is refused", batchBounds},
		{"a cancelled context is the error", batchCancelled},
		{"a reader that sees the swap sees all objects", batchSight},
		{"one of many who extend a log wins each place", batchLog},
		{"after a cut the first steps are there, and the batch can be applied again", batchCut},
		{"a swap that is the first step permits the objects", batchSwapFirst},
	}
}

// inOrderTests are the tests of batches and moves on an engine without transactions.
func inOrderTests() (tests []contract) {
	for _, c := range append(batchTests(), moveTests()...) {
		tests = append(tests, contract{c.promise, func(t *testing.T, s storage.Store) { c.check(t, Cut(s, -1)) }})
	}
	return tests
}

// smalls returns objects for a batch.
func smalls(sizes ...int) (all []storage.Small) {
	for i, size := range sizes {
		info := storage.Info{Key: fmt.Sprintf("batch/%d/%d", i, size), Hash: fmt.Sprint("hash", i), Proof: "log", Time: time.Unix(1e9, 0).UTC()}
		all = append(all, storage.Small{Info: info, Content: Content(uint64(i), size)})
	}
	return all
}

func expectSmall(t testing.TB, s storage.Store, c storage.Small) {
	t.Helper()
	expectContent(t, s, c.Info.Key, c.Content)
	want := c.Info
	want.Size = int64(len(c.Content))
	if info, err := s.Stat(t.Context(), c.Info.Key); err != nil || info != want {
		t.Errorf("Stat = %v, %v, want %v", info, err, want)
	}
}

func mustApply(t testing.TB, s storage.Store, b storage.Batch) {
	t.Helper()
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func batchAll(t *testing.T, s storage.Store) {
	mustApply(t, s, storage.Batch{})
	objects := smalls(0, 1, 5000, storage.MaxSmall)
	mustApply(t, s, storage.Batch{Create: objects, Swap: &storage.Swap{Name: "head", New: []byte("1")}})
	for _, c := range objects {
		expectSmall(t, s, c)
	}
	if got := listed(t, s, "batch/"); len(got) != len(objects) {
		t.Errorf("List yields %q, want %d keys", got, len(objects))
	}
	expectState(t, s, "head", []byte("1"))
	mustApply(t, s, storage.Batch{Swap: &storage.Swap{Name: "head", Old: []byte("1"), New: []byte("2")}})
	expectState(t, s, "head", []byte("2"))
	mustApply(t, s, storage.Batch{Create: smalls(7)})
	expectSmall(t, s, smalls(7)[0])

	large := storage.Batch{}
	for i := range storage.MaxBatch / storage.MaxSmall {
		large.Create = append(large.Create, storage.Small{Info: storage.Info{Key: fmt.Sprint("large/", i)}, Content: Content(uint64(i), storage.MaxSmall)})
	}
	mustApply(t, s, large)
	for _, c := range large.Create {
		expectContent(t, s, c.Info.Key, c.Content)
	}
	if info, err := s.Stat(t.Context(), "large/0"); err != nil || time.Since(info.Time).Abs() > time.Minute {
		t.Errorf("Stat = %v, %v, want the time of now", info, err)
	}
}

func batchAgain(t *testing.T, s storage.Store) {
	objects := smalls(10, 4000, 0)
	create(t, s, "batch/other", nil)
	for range 2 {
		mustApply(t, s, storage.Batch{Create: objects})
	}
	mustDelete(t, s, objects[1].Info.Key)
	for i := range objects {
		objects[i].Info.Time = time.Now() // it need not be the same
	}
	mustApply(t, s, storage.Batch{Create: objects, Swap: &storage.Swap{Name: "head", New: []byte("1")}})
	for _, c := range objects {
		expectContent(t, s, c.Info.Key, c.Content)
	}
	expectState(t, s, "head", []byte("1"))
}

func batchExist(t *testing.T, s storage.Store) {
	first := smalls(100)[0]
	mustApply(t, s, storage.Batch{Create: []storage.Small{first}})
	for name, change := range map[string]func(*storage.Small){
		"content": func(c *storage.Small) { c.Content = Content(9, 100) },
		"size":    func(c *storage.Small) { c.Content = nil },
		"hash":    func(c *storage.Small) { c.Info.Hash = "other" },
		"proof":   func(c *storage.Small) { c.Info.Proof = "other" },
	} {
		c := first
		change(&c)
		b := storage.Batch{Create: []storage.Small{c}, Swap: &storage.Swap{Name: "head", New: []byte("1")}}
		if err := s.Apply(t.Context(), b); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Apply with another %s = %v, want fs.ErrExist", name, err)
		}
	}
	create(t, s, "large", Content(1, 100<<10))
	b := storage.Batch{Create: []storage.Small{{Info: storage.Info{Key: "large"}}}, Swap: &storage.Swap{Name: "head", New: []byte("1")}}
	if err := s.Apply(t.Context(), b); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Apply at the key of a large object = %v, want fs.ErrExist", err)
	}
	expectSmall(t, s, first)
	if v, err := s.State(t.Context(), "head"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("State = %q, %v, want fs.ErrNotExist", v, err)
	}
}

func batchConflict(t *testing.T, s storage.Store) {
	mustSet(t, s, "head", []byte("1"))
	for _, old := range [][]byte{nil, {}, []byte("2"), []byte("11")} {
		b := storage.Batch{Swap: &storage.Swap{Name: "head", Old: old, New: []byte("3")}}
		if err := s.Apply(t.Context(), b); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("Apply with old %q = %v, want ErrConflict", old, err)
		}
	}
	b := storage.Batch{Create: smalls(10), Swap: &storage.Swap{Name: "absent", Old: []byte("1"), New: []byte("3")}}
	if err := s.Apply(t.Context(), b); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Apply = %v, want ErrConflict", err)
	}
	expectState(t, s, "head", []byte("1"))
	b.Swap = &storage.Swap{Name: "head", Old: []byte("1"), New: []byte("2")}
	mustApply(t, s, b) // whatever is left of what failed
	expectSmall(t, s, smalls(10)[0])
	expectState(t, s, "head", []byte("2"))
}

func batchBounds(t *testing.T, s storage.Store) {
	many := storage.Batch{}
	for i := range storage.MaxBatch/storage.MaxSmall + 1 {
		many.Create = append(many.Create, storage.Small{Info: storage.Info{Key: fmt.Sprint("many/", i)}, Content: make([]byte, storage.MaxSmall)})
	}
	for name, b := range map[string]storage.Batch{
		"a large object": {Create: smalls(10, storage.MaxSmall+1)},
		"much":           many,
		"a key twice":    {Create: append(smalls(10), smalls(10)...)},
		"a bad key":      {Create: append(smalls(10), storage.Small{Info: storage.Info{Key: "a//b"}})},
		"a bad name":     {Create: smalls(10), Swap: &storage.Swap{Name: "/head"}},
		"a large state":  {Create: smalls(10), Swap: &storage.Swap{Name: "head", New: make([]byte, storage.MaxState+1)}},
		"a long proof":   {Create: append(smalls(10), storage.Small{Info: storage.Info{Key: "k", Proof: strings.Repeat("p", 1025)}})},
	} {
		if err := s.Apply(t.Context(), b); err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, storage.ErrConflict) {
			t.Errorf("%s: Apply = %v, want an error of its own", name, err)
		}
		if got := listed(t, s, ""); len(got) > 0 {
			t.Errorf("%s: List yields %q, want nothing", name, got)
		}
	}
}

func batchCancelled(t *testing.T, s storage.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, b := range []storage.Batch{{Create: smalls(10)}, {Swap: &storage.Swap{Name: "head", New: []byte("1")}}} {
		if err := s.Apply(ctx, b); !errors.Is(err, context.Canceled) {
			t.Errorf("Apply = %v, want context.Canceled", err)
		}
	}
	expectAbsent(t, s, smalls(10)[0].Info.Key)
}

// entry is a position in a log that batches write: an object for each entry, and a state
// with the number of entries.
func entry(n int, content string) storage.Small {
	return storage.Small{Info: storage.Info{Key: fmt.Sprintf("log/%06d", n)}, Content: []byte(content)}
}

func entryBatch(n int, content string) storage.Batch {
	old := []byte(fmt.Sprint(n))
	if n == 0 {
		old = nil
	}
	return storage.Batch{
		Create: []storage.Small{entry(n, content), {Info: storage.Info{Key: fmt.Sprintf("tile/%06d", n)}, Content: []byte(content)}},
		Swap:   &storage.Swap{Name: "size", Old: old, New: []byte(fmt.Sprint(n + 1))},
	}
}

func logSize(t testing.TB, s storage.Store) (n int) {
	value, err := s.State(t.Context(), "size")
	if err == nil {
		_, err = fmt.Sscan(string(value), &n)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	return n
}

func batchSight(t *testing.T, s storage.Store) {
	const entries = 30
	parallel(t, 4, func(w int) {
		for n := 0; n < entries; {
			if w == 0 {
				if err := s.Apply(t.Context(), entryBatch(n, fmt.Sprint("entry ", n))); err != nil {
					t.Error(err)
					return
				}
				n++
				continue
			}
			size := logSize(t, s)
			for ; n < size; n++ {
				expectContent(t, s, entry(n, "").Info.Key, []byte(fmt.Sprint("entry ", n)))
				expectContent(t, s, fmt.Sprintf("tile/%06d", n), []byte(fmt.Sprint("entry ", n)))
			}
			if t.Failed() {
				return
			}
		}
	})
}

func batchLog(t *testing.T, s storage.Store) {
	const workers, each = 4, 8
	won := make([][]int, workers)
	parallel(t, workers, func(w int) {
		for n := 0; len(won[w]) < each; n++ {
			switch err := s.Apply(t.Context(), entryBatch(n, fmt.Sprint(w))); {
			case err == nil:
				won[w] = append(won[w], n)
			case !errors.Is(err, fs.ErrExist) && !errors.Is(err, storage.ErrConflict):
				t.Error(err)
				return
			case errors.Is(err, storage.ErrConflict):
				n-- // a place is tried until somebody has it
			}
		}
	})
	if size := logSize(t, s); size != workers*each {
		t.Errorf("%d entries, want %d", size, workers*each)
	}
	for w := range won {
		for _, n := range won[w] {
			expectContent(t, s, entry(n, "").Info.Key, []byte(fmt.Sprint(w)))
		}
	}
}

func batchCut(t *testing.T, s storage.Store) {
	objects := smalls(10, 2000, 0, 300)
	for steps := range len(objects) + 2 {
		b := storage.Batch{Swap: &storage.Swap{Name: fmt.Sprint("head", steps), New: []byte("1")}}
		for _, c := range objects {
			c.Info.Key = fmt.Sprint(steps, c.Info.Key)
			b.Create = append(b.Create, c)
		}
		complete := steps > len(objects)
		if err := Cut(s, steps).Apply(t.Context(), b); errors.Is(err, ErrCut) == complete {
			t.Fatalf("after %d steps Apply = %v", steps, err)
		}
		for i, c := range b.Create {
			if i < steps {
				expectSmall(t, s, c)
			} else {
				expectAbsent(t, s, c.Info.Key)
			}
		}
		if _, err := s.State(t.Context(), b.Swap.Name); errors.Is(err, fs.ErrNotExist) == complete {
			t.Errorf("after %d steps State = %v", steps, err)
		}
		if complete {
			b.Swap = nil
		}
		mustApply(t, s, b)
		for _, c := range b.Create {
			expectSmall(t, s, c)
		}
		expectState(t, s, fmt.Sprint("head", steps), []byte("1"))
	}
}

func batchSwapFirst(t *testing.T, s storage.Store) {
	objects := smalls(10, 2000)
	b := storage.Batch{Create: objects, Swap: &storage.Swap{Name: "head", Old: []byte("1"), New: []byte("2")}, SwapFirst: true}
	if err := s.Apply(t.Context(), b); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Apply = %v, want ErrConflict", err)
	}
	for _, c := range objects {
		expectAbsent(t, s, c.Info.Key)
	}
	b.Swap.Old = nil
	for steps := range len(objects) + 1 { // each prefix, until nothing is left of the batch
		last := &storage.Swap{Name: fmt.Sprint("head", steps), New: []byte("2")}
		if err := Cut(s, steps).Apply(t.Context(), storage.Batch{Create: objects, Swap: last, SwapFirst: true}); !errors.Is(err, ErrCut) {
			t.Fatalf("after %d steps Apply = %v", steps, err)
		}
		if _, err := s.State(t.Context(), last.Name); errors.Is(err, fs.ErrNotExist) != (steps == 0) {
			t.Errorf("after %d steps State = %v", steps, err)
		}
		for i, c := range objects {
			if i+1 < steps {
				expectSmall(t, s, c)
			} else {
				expectAbsent(t, s, c.Info.Key)
			}
		}
		for i := range max(steps-1, 0) {
			mustDelete(t, s, objects[i].Info.Key)
		}
	}
	mustApply(t, s, b)
	for _, c := range objects {
		expectSmall(t, s, c)
	}
	expectState(t, s, "head", []byte("2"))
	mustApply(t, s, storage.Batch{Create: objects, SwapFirst: true}) // without a swap it is a batch like any other
}
