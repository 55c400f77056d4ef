package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/assay-proxy/assay/storage"
)

const (
	// admitWait is how long a content that exceeds the limit waits, complete, for room; then it is passed
	// through.
	admitWait = 5 * time.Second

	// closeWait is how long Close of a draft that exceeds the limit waits for the engine to give its space back, and
	// freeWait how long another one may not exceed the limit because of that.
	closeWait, freeWait = 10 * time.Second, 5 * time.Minute
)

// draft is a draft whose bytes are counted.
type draft struct {
	storage.Draft
	ctx   context.Context // of the writes
	store *Store
	claim claim
}

// Draft implements storage.Store. One draft at a time may exceed the limit; others wait for room. If there is no
// room for the content, Commit returns storage.ErrNotKept.
func (s *Store) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := s.Local.Draft(ctx, size)
	if err != nil {
		return nil, err
	}
	return &draft{Draft: d, ctx: ctx, store: s}, nil
}

// Write implements storage.Draft.
func (d *draft) Write(p []byte) (int, error) {
	n := int64(len(p))
	give, err := d.store.room.takeFor(d.ctx, &d.claim, n, d.store.evictor.wake, d.displace)
	if err != nil {
		return 0, err
	}
	defer give()
	return d.Draft.Write(p)
}

// displace evicts objects for n bytes. What it does not achieve is left to the next call.
func (d *draft) displace(ctx context.Context, n int64) {
	_, _ = d.store.evictor.evict(ctx, n, countFitting, ranks)
}

// Commit implements storage.Draft.
func (d *draft) Commit(ctx context.Context, info storage.Info) error {
	if err := info.Check(); err != nil {
		return err
	}
	s := d.store
	if err := s.admit(ctx, d, info); err != nil {
		if errors.Is(err, storage.ErrNotKept) {
			s.room.pass(&d.claim)
			s.index.passed(info.Key)
			s.metrics.passed.Inc()
		}
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	if err := d.Draft.Commit(ctx, info); err != nil {
		return err
	}
	s.room.finished(&d.claim)
	s.stored(ctx, info)
	return nil
}

// admit returns nil if a complete draft is to be stored. One that exceeds the limit needs the place of objects that
// are worth less.
func (s *Store) admit(ctx context.Context, d *draft, info storage.Info) error {
	if !s.room.exceeds(&d.claim) {
		return nil
	}
	if info.Size > s.config.most()-margin-s.room.reserve() {
		return fmt.Errorf("%w: %d bytes are more than the limit has room for", storage.ErrNotKept, info.Size)
	}
	wait, cancel := context.WithTimeout(ctx, admitWait)
	defer cancel()
	fits, err := s.evictor.evict(wait, 0, countAll, s.index.rankOf(info))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil || !fits:
		return fmt.Errorf("%w: there is no room for %d bytes, and nothing that is worth less", storage.ErrNotKept, info.Size)
	}
	return nil
}

// Close implements storage.Draft.
func (d *draft) Close() error {
	err := d.Draft.Close()
	s := d.store
	if !s.room.exceeds(&d.claim) {
		s.room.finished(&d.claim)
		return err
	}
	freed := make(chan struct{})
	go func() {
		defer close(freed)
		ctx, cancel := context.WithTimeout(context.Background(), freeWait)
		defer cancel()
		_ = s.Local.Deleted(ctx) // an error lets the next one exceed the limit a little more
		s.room.finished(&d.claim)
	}()
	select {
	case <-freed:
	case <-time.After(closeWait):
	}
	return err
}
