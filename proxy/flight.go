package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// flights are pieces of work under way that clients share, at most one for each key.
type flights[T any] struct {
	mu     sync.Mutex
	active map[string]*flight[T]
}

// flight is a piece of work. It goes on when the clients that wait for it leave, while
// no other work needs its place.
type flight[T any] struct {
	claim *places.Claim
	done  chan struct{} // closed when the work has ended, after value and err were set
	value T
	err   error
}

// work is what a flight does.
type work[T any] struct {
	key    string
	places *places.Places // of which it takes one
	limit  time.Duration
	do     func(context.Context) (T, error)
}

// share joins the flight for the key of w, which it starts if there is none, and reports
// whether there was one. The client of who then counts as waiting until claim.Leave. The
// error is errBusy or errClientBusy.
func share[T any](s *Server, all *flights[T], who places.For, w work[T]) (f *flight[T], joined bool, err error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if f := all.active[w.key]; f != nil && f.claim.Join(who.Client) {
		return f, true, nil
	}
	claim, err := w.places.Claim(who)
	if err != nil {
		return nil, false, busy(err)
	}
	f = &flight[T]{claim: claim, done: make(chan struct{})}
	if all.active == nil {
		all.active = map[string]*flight[T]{}
	}
	all.active[w.key] = f
	s.running.Add(1)
	go fly(s, all, f, w)
	return f, false, nil
}

// fly does the work of f, whether its clients wait or not.
func fly[T any](s *Server, all *flights[T], f *flight[T], w work[T]) {
	defer s.running.Done()
	ctx, cancel := context.WithTimeout(s.ctx, w.limit)
	defer cancel()
	f.err = s.guard(w.key, func() error {
		return s.inPlace(ctx, f.claim, func(ctx context.Context) (err error) {
			f.value, err = w.do(ctx)
			return err
		})
	})
	all.mu.Lock()
	if all.active[w.key] == f { // else another one began when this one had to yield
		delete(all.active, w.key)
	}
	all.mu.Unlock()
	close(f.done)
}

// wait returns what the work has come to, or the cause for which ctx ended before.
func (f *flight[T]) wait(ctx context.Context) (value T, err error) {
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		return value, context.Cause(ctx)
	}
}

// inPlace does work when claim has its place, and gives the place back. The error is
// errBusy if there is none in time for a client to be told, and errYielded if the work
// had to stop because others need the place more.
func (s *Server) inPlace(ctx context.Context, claim *places.Claim, do func(context.Context) error) error {
	defer claim.Release()
	ctx, err := claim.Take(ctx, s.config.Answer*3/4)
	if err != nil {
		return busy(err)
	}
	// Clients leave, and the work goes on: an upstream that is slow has time for it.
	ctx = fetch.WithPatience(ctx)
	site := siteOf(claim.Client())
	ctx = memory.WithOwner(vcs.WithClient(fetch.WithClient(ctx, site), site), site)
	err = do(ctx)
	if err != nil && context.Cause(ctx) == places.ErrYielded {
		return fmt.Errorf("%w: %v", errYielded, err)
	}
	return err
}

// busy makes an error of a claim what a client is told.
func busy(err error) error {
	switch {
	case errors.Is(err, places.ErrClientFull):
		return errClientBusy
	case errors.Is(err, places.ErrFull), errors.Is(err, places.ErrLate):
		return errBusy
	case errors.Is(err, places.ErrYielded), errors.Is(err, places.ErrLeft):
		return errYielded
	}
	return err
}
