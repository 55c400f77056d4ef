package bolt_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// A creator waits for some hundred objects of a merge, and not for a full journal. So does each other
// writer, because each transaction has no more of them.
func TestMergeInSlices(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	created := 0
	for _, size := range []int{1000, 20, 1} { // until the journal is full, but for fewer than that
		for db.InJournal()+size <= bolt.MaxRecent {
			var batch storage.Batch
			for k := range size {
				batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: fmt.Sprintf("b%03d/%d", k*37%1000, created)}})
			}
			if err := db.Apply(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			created += size
		}
	}
	begun, most := created-db.InJournal(), 0
	for merged := begun; merged == begun || db.InJournal() > 1; created++ {
		put(t, db, fmt.Sprintf("single/%d", created), nil)
		now := created + 1 - db.InJournal()
		most = max(most, now-merged)
		merged = now
	}
	if most > bolt.MergeSlice {
		t.Errorf("%d of %d objects were merged while one creator waited, want at most %d", most, bolt.MaxRecent, bolt.MergeSlice)
	}
	if s, err := db.Stats(context.Background()); err != nil || s.Objects != int64(created) {
		t.Errorf("%d objects, %v, want %d", s.Objects, err, created)
	}
}

// A deletion or a backup that needs all of the journal in the tree lets others write between slices, also if
// few objects are large.
func TestSettleInSlices(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	for i := 0; db.InJournal() < bolt.MergeSlice/2; i++ {
		var batch storage.Batch
		for k := range 16 {
			batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: fmt.Sprintf("b%d/%d", i, k)}, Content: make([]byte, 32<<10)})
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := db.LeftOfSettle(); err != nil || left > 2<<20 {
		t.Errorf("%d bytes are merged while all others wait, %v", left, err)
	}
}

// After a kill nothing is merged at the start, however full the journal is, and the first creator waits for
// a slice.
func TestMergeAfterRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	for i := 0; db.Merging() == 0; i++ {
		var batch storage.Batch
		for k := range 1000 {
			batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: fmt.Sprintf("b%03d/%d", i*37%100, k)}})
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	again := openDB(t, afterCrash(t, dir))
	if again.InJournal() != db.InJournal() || again.Merging() != db.Merging() {
		t.Errorf("at the start %d objects are in the journal and %d merged, want %d and %d", again.InJournal(), again.Merging(), db.InJournal(), db.Merging())
	}
	put(t, again, "k", nil)
	if n := again.Merging() - db.Merging(); n > bolt.MergeSlice || n == 0 {
		t.Errorf("the first creator merged %d objects, want at most %d", n, bolt.MergeSlice)
	}
}

// What is merged while Verify runs counts once.
func TestVerifyBesideMerge(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	for i := range 2 {
		var batch storage.Batch
		for k := range 600 { // more than one step of the walk
			batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: fmt.Sprint(i, "/", k)}, Content: []byte("x")})
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := db.Settle(); err != nil {
				t.Fatal(err)
			}
		}
	}
	v, err := db.Verify(t.Context(), storage.VerifyOptions{
		Damage: func(d storage.Damage) { t.Errorf("found %v", d) },
		Progress: func(storage.Verified) {
			if err := db.Settle(); err != nil {
				t.Error(err)
			}
		},
	})
	if err != nil || v.Objects != 1200 || v.Bytes != 1200 || db.InJournal() > 0 {
		t.Errorf("verified %+v, %v, with %d objects in the journal", v, err, db.InJournal())
	}
}
