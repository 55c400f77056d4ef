package daemon

import (
	"context"
	"io/fs"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// statStore is a bucket that answers Stat with an error, and counts how often.
type statStore struct {
	storage.Store
	err   error
	asked int
}

func (s *statStore) Stat(_ context.Context, key string) (storage.Info, error) {
	s.asked++
	return storage.Info{Key: key}, s.err
}

// A copy is evicted only while the bucket has it, and a burst of evictions asks the bucket once.
func TestAskBucket(t *testing.T) {
	t.Parallel()
	bucket := &statStore{err: storage.ErrAway}
	ask := askBucket(bucket)
	want := func(obtainable bool, why error) {
		t.Helper()
		if ok, err := ask(t.Context(), storage.Info{Key: "key"}); ok != obtainable || err != why {
			t.Errorf("%t, %v, want %t, %v", ok, err, obtainable, why)
		}
	}
	want(false, storage.ErrAway)
	bucket.err = fs.ErrNotExist
	want(false, nil)
	bucket.err, bucket.asked = nil, 0
	begun := time.Now()
	for range 1000 {
		want(true, nil)
	}
	if most := 1 + int(time.Since(begun)/time.Second); bucket.asked > most {
		t.Errorf("the bucket was asked %d times, want %d at most", bucket.asked, most)
	}
}
