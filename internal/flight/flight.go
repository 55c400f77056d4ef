// Package flight runs work that clients share: at most one piece for each key. It
// continues when the clients that wait for it leave.
//
// Package x/sync/singleflight is not enough: here a client can leave, work without
// clients may have to give up its place, and clients can see partial results before the
// work ends.
package flight

import (
	"context"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/internal/spans"
)

// Group is the running work of a Scope, by key. Its methods may be called concurrently.
type Group[T any] struct {
	scope  *Scope
	mu     sync.Mutex
	active map[string]*Flight[T]
}

// NewGroup makes a Group without work.
func NewGroup[T any](s *Scope) *Group[T] {
	return &Group[T]{scope: s, active: map[string]*Flight[T]{}}
}

// Work describes the work of a Flight.
type Work[T any] struct {
	Key    string
	Places *places.Places // it takes one of these; nil: it needs none
	Limit  time.Duration  // of its time; 0: none
	Value  T              // clients can read it while the work is running
	Cause  spans.Cause    // the request that starts it

	// Do does the work. It may set f.Value.
	Do func(ctx context.Context, f *Flight[T]) error

	// Ended, if it is set, is called with the error of the work before clients get it.
	Ended func(err error)
}

// Flight is one piece of work.
type Flight[T any] struct {
	Value T // of the Work; if Do sets it, clients may read it after the end
	Begun time.Time
	Cause spans.Cause // of the Work

	claim *places.Claim // nil: it needs no place
	done  chan struct{} // closed when the work has ended, after err was set
	err   error

	// Guarded by Group.mu.
	outdated bool       // later clients join next
	next     *Flight[T] // nil: none has come; it begins when this one has ended
}

// Join joins the flight for the key of w, which it starts if there is none, and reports
// whether there was one. The client of who counts as waiting until Leave. The error is
// places.ErrFull, places.ErrClientFull or ErrClosed.
func (g *Group[T]) Join(who places.For, w Work[T]) (f *Flight[T], joined bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var before *Flight[T]
	f = g.active[w.Key]
	if f != nil && f.outdated {
		before, f = f, f.next
	}
	if f != nil && (f.claim == nil || f.claim.Join(who.Client)) {
		return f, true, nil
	}
	f = &Flight[T]{Value: w.Value, Begun: time.Now(), Cause: w.Cause, done: make(chan struct{})}
	if w.Places != nil {
		if f.claim, err = w.Places.Claim(who); err != nil {
			return nil, false, err
		}
	}
	if !g.scope.Go(func(ctx context.Context) { g.run(ctx, f, w, before) }) {
		if f.claim != nil {
			f.claim.Release()
		}
		return nil, false, ErrClosed
	}
	if before != nil {
		before.next = f
	} else {
		g.active[w.Key] = f // run removes it, with mu
	}
	return f, false, nil
}

// Outdate makes later clients join no work that has begun: something has changed that its
// result may not show. Their work begins when the earlier one has ended, so of each key at
// most one piece is running and one waits, however often Outdate is called.
func (g *Group[T]) Outdate() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.active {
		f.outdated = true
	}
}

// run does the work of f, even if no client waits. If there is work before it, run waits
// for its end first.
func (g *Group[T]) run(ctx context.Context, f *Flight[T], w Work[T], before *Flight[T]) {
	if before != nil {
		<-before.done
	}
	ctx = w.Cause.In(ctx)
	if w.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.Limit)
		defer cancel()
	}
	f.err = g.scope.Guard(w.Key, func() error {
		return g.scope.InPlace(ctx, f.claim, func(ctx context.Context) error { return w.Do(ctx, f) })
	})
	if w.Ended != nil {
		w.Ended(f.err)
	}
	g.mu.Lock()
	if g.active[w.Key] == f { // otherwise another one began when this one had to yield
		delete(g.active, w.Key)
		if f.next != nil {
			g.active[w.Key] = f.next
		}
	}
	g.mu.Unlock()
	close(f.done)
}

// Client returns the client that started the work, "" if it needs no place.
func (f *Flight[T]) Client() string {
	if f.claim == nil {
		return ""
	}
	return f.claim.Client()
}

// Claim returns the claim to the place of the work, nil if it needs none.
func (f *Flight[T]) Claim() *places.Claim { return f.claim }

// Leave says that one request of a client no longer waits.
func (f *Flight[T]) Leave(client string) {
	if f.claim != nil {
		f.claim.Leave(client)
	}
}

// Done returns a channel that is closed when the work has ended.
func (f *Flight[T]) Done() <-chan struct{} { return f.done }

// Ended reports whether the work has ended.
func (f *Flight[T]) Ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// Err returns the error of the work, which has ended.
func (f *Flight[T]) Err() error { return f.err }

// Wait returns the result of the work, or the cause of ctx if that ends first.
func (f *Flight[T]) Wait(ctx context.Context) (value T, err error) {
	select {
	case <-f.done:
		return f.Value, f.err
	case <-ctx.Done():
		return value, context.Cause(ctx)
	}
}
