package sumdb

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/assay-proxy/assay/defect"
)

// flights is work under way that callers share: requests to upstream and proofs, one for
// each key.
type flights struct {
	name string // of the database

	// life ends with close, and the work with it. It is the context of no caller, because
	// work outlives the caller that asked first.
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex // guards what follows
	active  map[string]*flight
	closed  bool
	running sync.WaitGroup // Add under mu
}

func newFlights(name string) *flights {
	f := &flights{name: name, active: make(map[string]*flight)}
	f.life, f.end = context.WithCancel(context.Background())
	return f
}

// flight is one piece of work.
type flight struct {
	done    chan struct{} // closed when it has ended, after value and err were set
	value   any
	err     error
	cancel  context.CancelFunc
	waiting int // callers, guarded by flights.mu
}

// do runs work once for all callers that ask for key at the same time. The work has a
// deadline of its own and goes on when the first caller leaves; it ends when no caller
// waits any more. Callers leave with their own context.
func (f *flights) do(ctx context.Context, key string, limit time.Duration, work func(context.Context) (any, error)) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	joined, err := f.join(ctx, key, limit, work)
	if err != nil {
		return nil, err
	}
	select {
	case <-joined.done:
		return joined.value, joined.err
	case <-ctx.Done():
		f.leave(key, joined)
		return nil, ctx.Err()
	}
}

// join returns the flight for key, with one caller more, and starts it if there is none:
// with the values of the context of the first caller, and not with its end.
func (f *flights) join(ctx context.Context, key string, limit time.Duration, work func(context.Context) (any, error)) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fmt.Errorf("mirror of %s is closed", f.name)
	}
	joined := f.active[key]
	if joined == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		stop := context.AfterFunc(f.life, cancel)
		joined = &flight{done: make(chan struct{}), cancel: func() { stop(); cancel() }}
		f.active[key] = joined
		f.running.Add(1)
		go f.run(ctx, key, joined, work)
	}
	joined.waiting++
	return joined, nil
}

// run does the work of a flight.
func (f *flights) run(ctx context.Context, key string, joined *flight, work func(context.Context) (any, error)) {
	defer f.running.Done()
	defer joined.cancel()
	joined.err = defect.Catch(func() (err error) {
		joined.value, err = work(ctx)
		return err
	})
	f.mu.Lock()
	f.remove(key, joined)
	f.mu.Unlock()
	close(joined.done)
}

// remove makes the next caller for key start a flight of its own. mu is held.
func (f *flights) remove(key string, joined *flight) {
	if f.active[key] == joined {
		delete(f.active, key)
	}
}

// leave takes a caller away from a flight, which ends with the last one.
func (f *flights) leave(key string, joined *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if joined.waiting--; joined.waiting == 0 {
		f.remove(key, joined)
		joined.cancel()
	}
}

// close ends what is under way and waits for it.
func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.end()
	f.running.Wait()
}
