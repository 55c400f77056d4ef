package vcs

import (
	"context"
	"sync"

	"github.com/assay-proxy/assay/defect"
)

// shares are questions that are being asked, each once for all who want to know.
//
// An answer that was begun before Anew is not for callers that come after it. They share
// the next one, which begins when that has ended, however often there is something new
// meanwhile: of each question one is being asked at most, and one waits.
type shares struct {
	mu    sync.Mutex
	anew  uint64 // counts calls of Anew
	asked map[string]*share
}

// share is one question. Its answer is there when done is closed.
type share struct {
	ask  func() (any, error)
	anew uint64 // when it began
	next *share // for those who came too late for this one, nil if there are none

	done   chan struct{}
	answer any
	err    error
}

// Anew says that some repository has changed: later callers do not share the answer
// to a question that is already under way.
func (s *Source) Anew() {
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	s.asked.anew++
}

// shared does f once for all concurrent callers with the same key. It goes on, with
// the deadline of a command, when the one who asked first has left.
func shared[T any](ctx context.Context, s *Source, key string, f func(context.Context) (T, error)) (result T, err error) {
	q := s.asked.join(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.Timeout)
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
	q := s.asked[key]
	switch {
	case q == nil:
		q = &share{ask: ask, done: make(chan struct{})}
		s.begin(key, q)
	case q.anew != s.anew:
		if q.next == nil {
			q.next = &share{ask: ask, done: make(chan struct{})}
		}
		q = q.next
	}
	return q
}

// begin asks q. The lock is held.
func (s *shares) begin(key string, q *share) {
	if s.asked == nil {
		s.asked = map[string]*share{}
	}
	q.anew, s.asked[key] = s.anew, q
	go func() {
		q.err = defect.Catch(func() (err error) { // no page may end the program
			q.answer, err = q.ask()
			return err
		})
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asked, key)
		if q.next != nil {
			s.begin(key, q.next)
		}
		close(q.done)
	}()
}
