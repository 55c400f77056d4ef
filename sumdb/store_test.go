package sumdb_test

import (
	"testing"

	"github.com/assay-proxy/assay/storage"
)

// realStore is the embedded store, closed and opened again as by a restart.
type realStore struct {
	storage.Store
	dir string
}

func newStore(t testing.TB) *realStore {
	t.Helper()
	s := &realStore{dir: t.TempDir()}
	s.open(t)
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *realStore) open(t testing.TB) {
	t.Helper()
	store, err := storage.Open(s.dir, nil)
	if err != nil {
		t.Fatalf("storage.Open: %v", err)
	}
	s.Store = store
}

// reopen is a restart. Mirrors on the store must be closed.
func (s *realStore) reopen(t testing.TB) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close the store: %v", err)
	}
	s.open(t)
}
