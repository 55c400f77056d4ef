package storagetest

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/storage"
)

// Strict returns s with a check that engines need not make: t fails when an object is
// stored whose key is a directory of another.
func Strict(t testing.TB, s storage.Store) storage.Store {
	return &strict{Store: s, t: t, keys: map[string]bool{}, dirs: map[string]string{}}
}

type strict struct {
	storage.Store
	t testing.TB

	mu   sync.Mutex
	keys map[string]bool   // that there ever were
	dirs map[string]string // directory → a key in it
}

func (s *strict) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	s.check(info.Key)
	return s.Store.Create(ctx, info, r)
}

func (s *strict) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	s.check(info.Key)
	return s.Store.Replace(ctx, info, r)
}

func (s *strict) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := s.Store.Draft(ctx, size)
	if err != nil {
		return nil, err
	}
	return &strictDraft{d, s}, nil
}

type strictDraft struct {
	storage.Draft
	s *strict
}

func (d *strictDraft) Commit(ctx context.Context, info storage.Info) error {
	d.s.check(info.Key)
	return d.Draft.Commit(ctx, info)
}

func (s *strict) Move(ctx context.Context, from, to, proof string) error {
	s.check(to)
	return s.Store.Move(ctx, from, to, proof)
}

func (s *strict) Apply(ctx context.Context, b storage.Batch) error {
	for _, c := range b.Create {
		s.check(c.Info.Key)
	}
	return s.Store.Apply(ctx, b)
}

func (s *strict) check(key string) {
	s.t.Helper()
	if storage.CheckKey(key) != nil {
		return // it is not stored
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[key] {
		return
	}
	s.keys[key] = true
	if below, ok := s.dirs[key]; ok {
		s.t.Errorf("the key %q is a directory of %q", key, below)
	}
	for i, c := range []byte(key) {
		if c != '/' {
			continue
		}
		s.dirs[key[:i]] = key
		if s.keys[key[:i]] {
			s.t.Errorf("the key %q is a directory of %q", key[:i], key)
		}
	}
}
