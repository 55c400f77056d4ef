package sumdb_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// memory is a storage.Store for tests that make thousands of them, or run in a
// bubble of synctest. The others use the real one.
type memory struct {
	storage.Store // nil: mirrors do not call its other methods

	mu      sync.Mutex
	objects map[string][]byte
	proofs  map[string]string // of the objects
	states  map[string][]byte
}

func newMemory(testing.TB) *memory {
	return &memory{objects: make(map[string][]byte), proofs: make(map[string]string), states: make(map[string][]byte)}
}

type memoryObject struct {
	*bytes.Reader
	data []byte
	info storage.Info
}

func (o memoryObject) Close() error              { return nil }
func (o memoryObject) Info() storage.Info        { return o.info }
func (o memoryObject) SHA256() [sha256.Size]byte { return sha256.Sum256(o.data) }

func (s *memory) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if int64(len(data)) != info.Size {
		return fmt.Errorf("%s: %d bytes, not %d", info.Key, len(data), info.Size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[info.Key]; ok {
		return fmt.Errorf("%s: %w", info.Key, fs.ErrExist)
	}
	s.objects[info.Key] = data
	s.proofs[info.Key] = info.Proof
	return ctx.Err()
}

// Apply does one step after the other.
func (s *memory) Apply(ctx context.Context, b storage.Batch) error {
	return storagetest.Cut(s, -1).Apply(ctx, b)
}

func (s *memory) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	_ = s.Delete(ctx, info.Key) // the object may not exist
	return s.Create(ctx, info, r)
}

func (s *memory) Open(ctx context.Context, key string) (storage.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	return memoryObject{bytes.NewReader(data), data, storage.Info{Key: key, Size: int64(len(data)), Proof: s.proofs[key]}}, ctx.Err()
}

func (s *memory) Stat(ctx context.Context, key string) (storage.Info, error) {
	object, err := s.Open(ctx, key)
	if err != nil {
		return storage.Info{}, err
	}
	return object.Info(), nil
}

func (s *memory) Delete(ctx context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[key]; !ok {
		return fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	delete(s.objects, key)
	return nil
}

func (s *memory) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	s.mu.Lock()
	keys := slices.Sorted(maps.Keys(s.objects))
	s.mu.Unlock()
	return func(yield func(string, error) bool) {
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) && !yield(key, nil) {
				return
			}
		}
	}
}

func (s *memory) State(ctx context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.states[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return bytes.Clone(value), ctx.Err()
}

func (s *memory) SetState(ctx context.Context, name string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[name] = bytes.Clone(value)
	return nil
}

func (s *memory) SwapState(ctx context.Context, name string, old, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	held, ok := s.states[name]
	if ok != (old != nil) || !bytes.Equal(held, old) {
		return fmt.Errorf("%s: %w", name, storage.ErrConflict)
	}
	s.states[name] = bytes.Clone(value)
	return nil
}

func (s *memory) DeleteState(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.states[name]; !ok {
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	delete(s.states, name)
	return nil
}

func (s *memory) Close() error { return nil }
