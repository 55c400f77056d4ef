package sumdb_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// realStore is the embedded store. A test can restart it, read its files, and make its operations
// fail like those of a disk.
type realStore struct {
	storage.Store
	t   testing.TB
	dir string

	mu   sync.Mutex // guards what follows
	fail func(op, key string) error
}

func newStore(t testing.TB) *realStore {
	t.Helper()
	s := &realStore{t: t, dir: t.TempDir()}
	s.open()
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *realStore) open() {
	s.t.Helper()
	store, err := bolt.Open(s.dir, nil)
	if err != nil {
		s.t.Fatalf("bolt.Open: %v", err)
	}
	s.Store = store
}

// reopen restarts the store. Mirrors on it must be closed.
func (s *realStore) reopen() {
	s.t.Helper()
	if err := s.Close(); err != nil {
		s.t.Fatalf("close the store: %v", err)
	}
	s.open()
}

// failWith makes operations (create, open, swap) fail with the error that f returns. A nil f lets
// all of them through.
func (s *realStore) failWith(f func(op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

func (s *realStore) fails(op, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		return nil
	}
	return s.fail(op, key)
}

func (s *realStore) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := s.fails("create", info.Key); err != nil {
		return err
	}
	return s.Store.Create(ctx, info, r)
}

func (s *realStore) Open(ctx context.Context, key string) (storage.Object, error) {
	if err := s.fails("open", key); err != nil {
		return nil, err
	}
	return s.Store.Open(ctx, key)
}

func (s *realStore) SwapState(ctx context.Context, name string, old, value []byte) error {
	if err := s.fails("swap", name); err != nil {
		return err
	}
	return s.Store.SwapState(ctx, name, old, value)
}

// Apply does one step after the other, so that each can fail.
func (s *realStore) Apply(ctx context.Context, b storage.Batch) error {
	if err := s.fails("apply", ""); err != nil {
		return err
	}
	return storagetest.Cut(s, -1).Apply(ctx, b)
}

// keys lists the objects.
func (s *realStore) keys() []string {
	s.t.Helper()
	var keys []string
	for info, err := range s.List(s.t.Context(), "") {
		if err != nil {
			s.t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func (s *realStore) has(key string) bool {
	_, err := s.Stat(s.t.Context(), key)
	return err == nil
}

// set replaces the object at key; nil removes it.
func (s *realStore) set(key string, data []byte) {
	s.t.Helper()
	if err := s.Delete(s.t.Context(), key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	if data == nil {
		return
	}
	info := storage.Info{Key: key, Size: int64(len(data))}
	if err := s.Store.Create(s.t.Context(), info, bytes.NewReader(data)); err != nil {
		s.t.Fatal(err)
	}
}

// head returns the state of the head.
func (s *realStore) head() []byte {
	s.t.Helper()
	state, err := s.State(s.t.Context(), headState)
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

// setHead replaces the state of the head; nil removes it.
func (s *realStore) setHead(state []byte) {
	s.t.Helper()
	err := error(nil)
	if state == nil {
		err = s.DeleteState(s.t.Context(), headState)
	} else {
		err = s.SetState(s.t.Context(), headState, state)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
