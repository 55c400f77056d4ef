package sumdb_test

import (
	"testing"

	"github.com/assay-proxy/assay/storage"
)

// realStore is a store that can be closed and opened again.
type realStore struct {
	storage.Store
}

func newStore(t testing.TB) *realStore {
	return &realStore{newMemory(t)}
}

func (s *realStore) reopen(t testing.TB) {}
