package tiered_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// unsaved is a local store that takes no state while full is set.
type unsaved struct {
	storage.Store
	full atomic.Bool
}

func (u *unsaved) SetState(ctx context.Context, name string, value []byte) error {
	if u.full.Load() {
		return storage.ErrUnwritable
	}
	return u.Store.SetState(ctx, name, value)
}

// A doubt that a full disk does not take is saved later: what was compared since is not compared again, and the next
// process doubts, too.
func TestDoubtOnFullDisk(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	dir := t.TempDir()
	start := func() (*tiered.Store, *unsaved) {
		db, err := bolt.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		kept := &unsaved{Store: db}
		return open(t, tiered.Options{Local: kept, Remote: bucket(t, server)}), kept
	}
	s, kept := start()
	content := storagetest.Content(1, 1000)
	for _, key := range []string{"one", "two"} {
		create(t, s, key, content)
	}
	s.Settle(t)
	kept.full.Store(true)
	if err := s.Doubt(t.Context()); !errors.Is(err, storage.ErrUnwritable) {
		t.Fatalf("Doubt on a full disk = %v, want its error", err)
	}
	expect(t, s, "one", content)
	s.Settle(t)
	if err := s.SaveDoubt(t.Context()); !errors.Is(err, storage.ErrUnwritable) {
		t.Errorf("SaveDoubt on a full disk = %v, want its error", err)
	}
	kept.full.Store(false)
	if err := s.SaveDoubt(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Fail(nil)
	expect(t, s, "one", content)
	if n := server.Requests(); n > 0 {
		t.Errorf("%d requests for what was compared since the doubt", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = start()
	server.Fail(nil)
	expect(t, s, "one", content)
	expect(t, s, "two", content)
	s.Settle(t)
	if n := server.Requests(); n != 1 {
		t.Errorf("%d requests after a restart, want one for what was not compared", n)
	}
}
