package flight

import (
	"context"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/panics"
)

// Shared runs work that needs no places: at most one piece for each key. The work
// continues when its first caller leaves, and ends when no caller waits for it.
type Shared struct {
	// life ends with Close, and ends the work. It does not belong to a caller.
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex // guards the fields below
	active  map[string]*shared
	anew    chan struct{} // closed by the next Anew
	closed  bool
	running sync.WaitGroup // Add under mu
}

// NewShared makes a Shared without work.
func NewShared() *Shared {
	s := &Shared{active: map[string]*shared{}, anew: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// shared is one piece of work.
type shared struct {
	done    chan struct{} // closed when it has ended, after value and err were set
	value   any
	err     error
	cancel  context.CancelFunc
	callers int // how many wait; guarded by Shared.mu
}

// Do runs work once for all concurrent callers with the same key, and returns its result.
// The context of the work has the values of the first caller's context, but neither its
// deadline nor its cancellation; its time is limited by limit. A caller leaves when its
// own context ends. All work for a key has the same type.
func Do[T any](ctx context.Context, s *Shared, key string, limit time.Duration, work func(context.Context) (T, error)) (value T, err error) {
	if err := ctx.Err(); err != nil {
		return value, err
	}
	w, err := s.join(ctx, key, limit, func(ctx context.Context) (any, error) { return work(ctx) })
	if err != nil {
		return value, err
	}
	select {
	case <-w.done:
		value, _ = w.value.(T) // not set if the work panicked
		return value, w.err
	case <-ctx.Done():
		s.leave(key, w)
		return value, ctx.Err()
	}
}

// join returns the work for key, with one more caller, and starts it if there is none.
func (s *Shared) join(ctx context.Context, key string, limit time.Duration, work func(context.Context) (any, error)) (*shared, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	w := s.active[key]
	if w == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		stop := context.AfterFunc(s.life, cancel)
		w = &shared{done: make(chan struct{}), cancel: func() { stop(); cancel() }}
		s.active[key] = w
		s.running.Add(1)
		go s.run(ctx, key, w, work)
	}
	w.callers++
	return w, nil
}

func (s *Shared) run(ctx context.Context, key string, w *shared, work func(context.Context) (any, error)) {
	defer s.running.Done()
	defer w.cancel()
	w.err = panics.Catch(func() (err error) {
		w.value, err = work(ctx)
		return err
	})
	s.mu.Lock()
	s.remove(key, w)
	s.mu.Unlock()
	close(w.done)
}

// remove makes the next caller for key start new work. The caller holds mu.
func (s *Shared) remove(key string, w *shared) {
	if s.active[key] == w {
		delete(s.active, key)
	}
}

// leave removes a caller from w; without callers w ends.
func (s *Shared) leave(key string, w *shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.callers--; w.callers == 0 {
		s.remove(key, w)
		w.cancel()
	}
}

// Anew makes later callers join no work that has begun. That work continues.
func (s *Shared) Anew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.active)
	close(s.anew)
	s.anew = make(chan struct{})
}

// NextAnew returns a channel that is closed by the next Anew. Work that other work waits
// for may have to begin again then.
func (s *Shared) NextAnew() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.anew
}

// Close ends all work and waits for it.
func (s *Shared) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.running.Wait()
}
