// Package tiered is a storage engine in two tiers: a bucket that several processes share, and a local store
// of this process that keeps copies of its objects, so that most reads need no request.
//
// The bucket is the truth. A write is done when the bucket has it; the local store gets it then, and may
// refuse it, lose it or fail at any time. What is read from the bucket is served while it is stored.
//
// Objects change only by Replace, Move and Delete. Those of this process delete the local copy first; those
// of others are to be told by Forget, and Doubt says that some may have been missed.
package tiered

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// Options are the parts of a Store.
type Options struct {
	// Local keeps copies of objects, and one state of this package, and nothing else. It may refuse or
	// delete any of them. Remote has everything. Close closes both.
	Local, Remote storage.Store

	// Source names the bucket. A local store that was in front of another one, or of none, is not trusted,
	// as after Doubt.
	Source string

	// Memory is for contents of at most 16 MiB that are on their way to the local store: at most a third of it,
	// because that store may have the same budget. If it is used up, some contents are not stored locally, and
	// nothing waits. Nil: there is no limit.
	Memory *memory.Budget

	Logger *slog.Logger // nil: the default one
}

// Store is a store in two tiers.
type Store struct {
	local, remote storage.Store

	lines  *lines
	cache  *cache
	opener *opener
	writer *writer

	scope  *flight.Scope
	closed atomic.Bool
}

var (
	_ storage.Store    = (*Store)(nil)
	_ storage.Warmer   = (*Store)(nil)
	_ storage.Measured = (*Store)(nil)
)

// New returns a store of two others. It sends no request to the bucket.
func New(ctx context.Context, o Options) *Store {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	m, scope, lines := newMetrics(), flight.NewScope(flight.Config{}), newLines()
	trust, err := newTrust(ctx, o.Local, o.Source)
	cache := &cache{store: o.Local, lines: lines, trust: trust, scope: scope, metrics: m, log: o.Logger}
	if err != nil {
		cache.note(opWrite, err)
	}
	fills := &fills{cache: cache, remote: o.Remote, budget: newBudget(o.Memory), scope: scope, metrics: m, patience: patience,
		drafts: make(chan struct{}, maxDrafts), puts: make(chan struct{}, maxPuts), byKey: map[string]*fill{}}
	s := &Store{local: o.Local, remote: o.Remote, lines: lines, cache: cache, scope: scope}
	s.opener = &opener{cache: cache, fills: fills, remote: o.Remote, metrics: m, closed: s.closed.Load}
	drafts := &drafts{fills, o.Remote, make(chan struct{}, maxCommits)}
	s.writer = &writer{cache, lines, fills, drafts, o.Remote}
	return s
}

// check returns the error of an operation on a closed store, or with a context that has ended.
func (s *Store) check(ctx context.Context) error {
	if s.closed.Load() {
		return fs.ErrClosed
	}
	return ctx.Err()
}

// Open implements storage.Store. What the local store has needs no request.
func (s *Store) Open(ctx context.Context, key string) (storage.Object, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	o, err := s.opener.open(ctx, key)
	if err != nil {
		return nil, err
	}
	return o, nil
}

// Stat implements storage.Store.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if err := s.check(ctx); err != nil {
		return storage.Info{}, err
	}
	if info, ok := s.opener.fills.info(key); ok { // first: what is on its way may arrive now
		return info, nil
	}
	if info, err := s.cache.stat(ctx, key); !errors.Is(err, errMiss) {
		return info, err
	}
	return s.remote.Stat(ctx, key)
}

// Warm implements storage.Warmer. It makes no local copy of a content of more than 16 MiB.
func (s *Store) Warm(ctx context.Context, key string, take func(size int64) bool) (storage.Info, error) {
	if err := s.check(ctx); err != nil {
		return storage.Info{}, err
	}
	if info, err := s.cache.stat(ctx, key); !errors.Is(err, errMiss) {
		return info, err
	}
	return s.opener.warm(ctx, key, take)
}

// Create implements storage.Store.
func (s *Store) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	return s.writer.create(ctx, info, r)
}

// Replace implements storage.Store.
func (s *Store) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	return s.writer.replace(ctx, info, r)
}

// Draft implements storage.Store. The bytes are where the bucket keeps them until Commit.
func (s *Store) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	return s.writer.drafts.draft(ctx, size)
}

// Delete implements storage.Store. It deletes the local copy even if the bucket does not answer.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	return s.writer.delete(ctx, key)
}

// Move implements storage.Store.
func (s *Store) Move(ctx context.Context, from, to, proof string) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	return s.writer.move(ctx, from, to, proof)
}

// Apply implements storage.Store.
func (s *Store) Apply(ctx context.Context, b storage.Batch) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	return s.writer.apply(ctx, b)
}

// Forget makes this process look at the bucket for the object at key: another process has replaced, moved or
// deleted it. It deletes the local copy. After an error that copy is still on the disk; this process does
// not serve it without a look into the bucket, but a later one would, unless Doubt is called there.
func (s *Store) Forget(ctx context.Context, key string) error { return s.writer.forget(ctx, key) }

// ForgetAll is Forget for all keys that begin with prefix.
func (s *Store) ForgetAll(ctx context.Context, prefix string) error {
	s.lines.voidAll(prefix)
	var failed error
	for key, err := range s.local.Keys(ctx, prefix) {
		if err == nil {
			err = s.writer.forget(ctx, key)
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

// Doubt says that changes of other processes may have been missed. Each object that is in the local store
// now is compared with that of the bucket when it is used next, also after a restart. After an error this
// process does so, but the next one may not, unless SaveDoubt returns nil later.
func (s *Store) Doubt(ctx context.Context) error {
	s.lines.voidAll("")
	return s.cache.trust.doubt(ctx)
}

// SaveDoubt does again what of a Doubt has failed. What was compared since stays trusted.
func (s *Store) SaveDoubt(ctx context.Context) error { return s.cache.trust.saveDoubt(ctx) }

// List implements storage.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return s.remote.List(ctx, prefix)
}

// Keys implements storage.Store.
func (s *Store) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return s.remote.Keys(ctx, prefix)
}

// State implements storage.Store. States are only in the bucket: they are what processes share.
func (s *Store) State(ctx context.Context, name string) ([]byte, error) {
	return s.remote.State(ctx, name)
}

// SetState implements storage.Store.
func (s *Store) SetState(ctx context.Context, name string, value []byte) error {
	return s.remote.SetState(ctx, name, value)
}

// SwapState implements storage.Store.
func (s *Store) SwapState(ctx context.Context, name string, old, value []byte) error {
	return s.remote.SwapState(ctx, name, old, value)
}

// DeleteState implements storage.Store.
func (s *Store) DeleteState(ctx context.Context, name string) error {
	return s.remote.DeleteState(ctx, name)
}

// Metrics implements storage.Measured, with the metrics of both tiers.
func (s *Store) Metrics() []prometheus.Collector {
	all := s.cache.metrics.collectors()
	for _, tier := range []storage.Store{s.local, s.remote} {
		if measured, ok := tier.(storage.Measured); ok {
			all = append(all, measured.Metrics()...)
		}
	}
	return all
}

// closeTime is how long Close lets contents be stored that are on their way.
const closeTime = 10 * time.Second

// Close closes both tiers.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return fs.ErrClosed
	}
	s.writer.fills.stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = s.scope.Close(ctx) // what is not stored is read from the bucket later
	var saved error
	if s.cache.trust.unsavedNow() {
		saved = s.cache.trust.save(context.Background())
	}
	return errors.Join(saved, s.remote.Close(), s.local.Close())
}
