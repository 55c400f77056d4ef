package vcs

import (
	"context"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/panics"
)

// shares are the current questions, each asked once for all concurrent callers.
//
// A caller that comes after changed does not get an answer that began before it. Such
// callers share the next question, which begins when the current one has ended, however
// often changed is called meanwhile: of each question at most one is running, and one
// waits.
type shares struct {
	timeout time.Duration // of a question

	mu      sync.Mutex
	changes uint64 // calls of changed
	active  map[string]*share
}

// share is one question. Its answer is there when done is closed.
type share struct {
	ask     func() (any, error)
	changes uint64 // when it began
	next    *share // for callers that came too late for this one, nil if there are none

	done   chan struct{}
	answer any
	err    error
}

// changed says that some repository has changed.
func (s *shares) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
}

// shared calls f once for all concurrent callers with the same key. The call continues
// when the first caller has left.
func shared[T any](ctx context.Context, s *shares, key string, f func(context.Context) (T, error)) (result T, err error) {
	q := s.join(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		return f(ctx)
	})
	select {
	case <-ctx.Done():
		return result, context.Cause(ctx)
	case <-q.done:
		result, _ = q.answer.(T)
		return result, q.err
	}
}

// join returns the question whose answer is current for a new caller.
func (s *shares) join(key string, ask func() (any, error)) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.active[key]
	switch {
	case q == nil:
		q = &share{ask: ask, done: make(chan struct{})}
		s.begin(key, q)
	case q.changes != s.changes:
		if q.next == nil {
			q.next = &share{ask: ask, done: make(chan struct{})}
		}
		q = q.next
	}
	return q
}

// begin asks q. The caller holds s.mu.
func (s *shares) begin(key string, q *share) {
	if s.active == nil {
		s.active = map[string]*share{}
	}
	q.changes, s.active[key] = s.changes, q
	go func() {
		q.err = panics.Catch(func() (err error) { // no page may end the program
			q.answer, err = q.ask()
			return err
		})
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.active, key)
		if q.next != nil {
			s.begin(key, q.next)
		}
		close(q.done)
	}()
}
