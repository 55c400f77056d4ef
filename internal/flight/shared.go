package flight

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/assay-proxy/assay/defect"
)

// ErrClosed says that a Shared starts no work any more.
var ErrClosed = errors.New("closed")

// Shared is work that needs no places: one piece at most for each key, which goes on when
// the caller that asked first leaves, and ends when no caller waits for it any more.
type Shared struct {
	// life ends with Close, and the work with it. It is the context of no caller.
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex // guards what follows
	active  map[string]*shared
	closed  bool
	running sync.WaitGroup // Add under mu
}

// NewShared makes a Shared of which nothing is under way.
func NewShared() *Shared {
	s := &Shared{active: map[string]*shared{}}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// shared is one piece of work.
type shared struct {
	done    chan struct{} // closed when it has ended, after value and err were set
	value   any
	err     error
	cancel  context.CancelFunc
	callers int // that wait, guarded by Shared.mu
}

// Do runs work once for all callers that ask for key at the same time, and returns what
// it returns. The work has the values of the context of the first caller, but neither its
// deadline nor its end: it has limit. A caller leaves when its own context ends. All work
// for a key has the same type.
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

// join returns the work for key, with one caller more, and starts it if there is none.
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
	w.err = defect.Catch(func() (err error) {
		w.value, err = work(ctx)
		return err
	})
	s.mu.Lock()
	s.remove(key, w)
	s.mu.Unlock()
	close(w.done)
}

// remove makes the next caller for key start work of its own. mu is held.
func (s *Shared) remove(key string, w *shared) {
	if s.active[key] == w {
		delete(s.active, key)
	}
}

// leave takes a caller away from w, which ends with the last one.
func (s *Shared) leave(key string, w *shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.callers--; w.callers == 0 {
		s.remove(key, w)
		w.cancel()
	}
}

// Close ends what is under way and waits for it.
func (s *Shared) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.running.Wait()
}
