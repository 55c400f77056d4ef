package bolt_test

import (
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage/storagetest"
)

// The reaper removes the wrong intent of a blob that an object has, but not the one of the deletion of
// that object at the same moment: without it the blob would be left for ever after a kill.
func TestWrongIntentBesideDelete(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	put(t, db, "large", storagetest.Content(1, 100_000)) // its blob is the first one
	reader, err := db.Open(t.Context(), "large")         // so that the blob stays
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	waiting, release := db.HoldCommits()
	wait := func(n int) {
		for waiting() < n {
			time.Sleep(time.Millisecond)
		}
	}
	var both sync.WaitGroup
	both.Go(func() {
		if err := db.Delete(t.Context(), "large"); err != nil {
			t.Error(err)
		}
	})
	wait(1)
	both.Go(func() { db.Reap(1) })
	wait(2)
	release()
	both.Wait()
	if has, err := db.HasIntent(1); err != nil || !has {
		t.Errorf("no intent names the blob, or %v", err)
	}
}
