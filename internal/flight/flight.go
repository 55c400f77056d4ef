// Package flight runs work that clients share: one piece at most for each key, which goes
// on when the clients that wait for it leave.
//
// Package x/sync/singleflight is not enough: a client can leave, the work can have to give
// up its place when the last client has left, and what it has made so far can be seen
// before it ends.
package flight

import (
	"context"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/places"
)

// Group is work under way in a Scope, by key. Its methods may be called at the same time.
type Group[T any] struct {
	scope  *Scope
	mu     sync.Mutex
	active map[string]*Flight[T]
}

// NewGroup makes a Group of which nothing is under way.
func NewGroup[T any](s *Scope) *Group[T] {
	return &Group[T]{scope: s, active: map[string]*Flight[T]{}}
}

// Work is what a Flight does.
type Work[T any] struct {
	Key    string
	Places *places.Places // of which it takes one; nil: of none
	Limit  time.Duration  // of the time that it may take; 0: none
	Value  T              // what clients can see while it is under way

	// Do does the work. It may set f.Value.
	Do func(ctx context.Context, f *Flight[T]) error

	// Ended, if there is one, is called with the error of the work before its clients
	// have it.
	Ended func(err error)
}

// Flight is one piece of work.
type Flight[T any] struct {
	Value T // of the Work; what Do sets may be read after the end
	Begun time.Time

	claim *places.Claim // nil: it needs no place
	done  chan struct{} // closed when the work has ended, after err was set
	err   error
}

// Join joins the flight for the key of w, which it starts if there is none, and reports
// whether there was one. The client of who counts as waiting until Leave. The error is
// places.ErrFull or places.ErrClientFull.
func (g *Group[T]) Join(who places.For, w Work[T]) (f *Flight[T], joined bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.active[w.Key]; f != nil && (f.claim == nil || f.claim.Join(who.Client)) {
		return f, true, nil
	}
	f = &Flight[T]{Value: w.Value, Begun: time.Now(), done: make(chan struct{})}
	if w.Places != nil {
		if f.claim, err = w.Places.Claim(who); err != nil {
			return nil, false, err
		}
	}
	g.active[w.Key] = f
	g.scope.Go(func(ctx context.Context) { g.run(ctx, f, w) })
	return f, false, nil
}

// run does the work of f, whether its clients wait or not.
func (g *Group[T]) run(ctx context.Context, f *Flight[T], w Work[T]) {
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
	if g.active[w.Key] == f { // else another one began when this one had to yield
		delete(g.active, w.Key)
	}
	g.mu.Unlock()
	close(f.done)
}

// Client returns the client for which the work was begun, "" if it needs no place.
func (f *Flight[T]) Client() string {
	if f.claim == nil {
		return ""
	}
	return f.claim.Client()
}

// Claim returns the claim to the place of the work, nil if it needs none.
func (f *Flight[T]) Claim() *places.Claim { return f.claim }

// Leave says that one request of a client does not wait any more.
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

// Wait returns what the work has come to, or the cause for which ctx ended before.
func (f *Flight[T]) Wait(ctx context.Context) (value T, err error) {
	select {
	case <-f.done:
		return f.Value, f.err
	case <-ctx.Done():
		return value, context.Cause(ctx)
	}
}
