// Package budget is a store whose bytes on disk stay within a limit: it evicts what can be fetched again. It is a
// layer over an engine on the local disk, and knows nothing of modules: its caller says which objects are to be
// kept, and whether an object can still be fetched. Its design is in docs/design/disk.md.
package budget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/storage"
)

// Store is a store with a limit. Nothing is evicted before Run is called; until then what does not fit is not
// stored.
type Store struct {
	Local
	config  Config
	disk    *disk
	index   *index
	room    *room
	evictor *evictor
	metrics *metrics
}

// New returns a store over an engine, which the store closes. The error is a *TooSmallError if the limit cannot
// hold what is never evicted. It lists all objects of the engine.
func New(ctx context.Context, local Local, c Config) (*Store, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{Local: local, config: c, disk: newDisk(local, c.Dir), index: newIndex(c.Keep), metrics: newMetrics()}
	s.room = newRoom(s.disk, c.most())
	s.evictor = newEvictor(local, s.index, s.room, c, s.metrics)
	if err := s.index.load(ctx, local); err != nil {
		return nil, fmt.Errorf("list what may be evicted: %w", err)
	}
	if err := checkLimit(s.disk, s.index, c.most()); err != nil {
		return nil, err
	}
	s.metrics.state = newState(s.Report)
	return s, nil
}

// Run evicts until ctx ends. A nil ask means that every object can be fetched again. Run saves what is known of
// the use of objects from time to time and at its end.
func (s *Store) Run(ctx context.Context, ask Asker) { s.evictor.run(ctx, ask) }

// Metrics implements storage.Measured.
func (s *Store) Metrics() []prometheus.Collector {
	return append(s.Local.Metrics(), s.metrics.collectors()...)
}

// Report returns how the limit is used.
func (s *Store) Report() (Report, error) {
	use, err := s.disk.use()
	r := s.index.report()
	r.Limit, r.Taken = s.config.Limit, use.taken
	return r, err
}

// Changed says that Keep may now give other reasons, so that objects that were kept may be evicted.
func (s *Store) Changed(ctx context.Context) error { return s.index.load(ctx, s.Local) }

// Create implements storage.Store.
func (s *Store) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	return s.store(ctx, info, func() error { return s.Local.Create(ctx, info, r) })
}

// Replace implements storage.Store.
func (s *Store) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	return s.store(ctx, info, func() error { return s.Local.Replace(ctx, info, r) })
}

// store stores an object if there is room.
func (s *Store) store(ctx context.Context, info storage.Info, do func() error) error {
	if err := s.makeRoom(ctx, info.Size); err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	err := do()
	s.room.give(info.Size, info.Size <= storage.MaxSmall)
	if err == nil {
		s.stored(ctx, info)
	}
	return err
}

// makeRoom makes room for n bytes, which the caller gives back to the room when they are stored.
func (s *Store) makeRoom(ctx context.Context, n int64) error {
	large := n > storage.MaxSmall
	err := s.room.take(n, !large)
	if !errors.Is(err, errNoRoom) {
		return err
	}
	if _, err := s.evictor.evict(ctx, n, countFitting, ranks); ctx.Err() != nil {
		return fmt.Errorf("%w: %w", full(large), err)
	}
	if err := s.room.take(n, !large); !errors.Is(err, errNoRoom) {
		return err
	}
	s.metrics.refused.Inc()
	return full(large)
}

// stored notes an object that was stored.
func (s *Store) stored(ctx context.Context, info storage.Info) {
	s.index.stored(ctx, info)
	s.evictor.wake()
}

// Apply implements storage.Store.
func (s *Store) Apply(ctx context.Context, b storage.Batch) error {
	n := int64(0)
	for _, c := range b.Create {
		n += int64(len(c.Content))
	}
	if b.Swap != nil {
		n += int64(len(b.Swap.New))
	}
	if err := s.makeRoom(ctx, n); err != nil {
		return err
	}
	err := s.Local.Apply(ctx, b)
	s.room.give(n, n <= storage.MaxSmall)
	if err != nil {
		return err
	}
	for _, c := range b.Create {
		info := c.Info
		info.Size = int64(len(c.Content))
		s.index.stored(ctx, info)
	}
	s.evictor.wake()
	return nil
}

// SetState implements storage.Store.
func (s *Store) SetState(ctx context.Context, name string, value []byte) error {
	return s.state(ctx, name, value, func() error { return s.Local.SetState(ctx, name, value) })
}

// SwapState implements storage.Store.
func (s *Store) SwapState(ctx context.Context, name string, old, value []byte) error {
	return s.state(ctx, name, value, func() error { return s.Local.SwapState(ctx, name, old, value) })
}

func (s *Store) state(ctx context.Context, name string, value []byte, do func() error) error {
	n := int64(len(value))
	if err := s.makeRoom(ctx, n); err != nil {
		return fmt.Errorf("set state %.200q: %w", name, err)
	}
	defer s.room.give(n, n <= storage.MaxSmall)
	return do()
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := s.Local.Delete(ctx, key)
	if err == nil {
		s.index.removed(key)
		s.room.changed()
	}
	return err
}

// Move implements storage.Store.
func (s *Store) Move(ctx context.Context, from, to, proof string) error {
	if err := s.Local.Move(ctx, from, to, proof); err != nil {
		return err
	}
	s.index.removed(from)
	if info, err := s.Local.Stat(ctx, to); err == nil {
		s.index.stored(ctx, info)
	}
	return nil
}

// Open implements storage.Store. An object that is open is not evicted.
func (s *Store) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Local.Open(ctx, key)
	if err != nil || !s.index.opened(key) {
		return object, err
	}
	return &reading{object, sync.OnceFunc(func() { s.index.closed(key) })}, nil
}

// reading is an open object that is counted.
type reading struct {
	storage.Object
	closed func()
}

// Close implements storage.Object.
func (r *reading) Close() error {
	r.closed()
	return r.Object.Close()
}
