package pinlog

import (
	"context"
	"sync"
	"time"
)

// lookout lets requests for what the log does not have look for what other replicas have written. Requests
// that come while one looks share the next look, and clients that ask for what is nowhere do not ask the
// bucket more often than looksPerSecond.
type lookout struct {
	look func(context.Context) error

	mu     sync.Mutex
	next   *glance // waits for its turn; nil: none
	turn   chan struct{}
	tokens int
	filled time.Time
}

// glance is one look at the bucket.
type glance struct {
	done chan struct{}
	err  error
}

const (
	looksPerSecond = 4
	looksAtOnce    = 20 // before the limit matters
)

func newLookout(look func(context.Context) error) *lookout {
	return &lookout{look: look, turn: make(chan struct{}, 1), tokens: looksAtOnce, filled: time.Now()}
}

// glance waits for a look that begins after the call.
func (l *lookout) glance(ctx context.Context) error {
	l.mu.Lock()
	g := l.next
	if g == nil {
		g = &glance{done: make(chan struct{})}
		l.next = g
		go l.run(g)
	}
	l.mu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run looks for all who have joined g when it begins. It does not end with the client that came first.
func (l *lookout) run(g *glance) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	time.Sleep(l.take())
	l.mu.Lock()
	l.next = nil
	l.mu.Unlock()
	defer close(g.done)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g.err = l.look(ctx)
}

// take takes a token, and returns how long to wait for it.
func (l *lookout) take() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	const each = time.Second / looksPerSecond
	if full := int(time.Since(l.filled) / each); full > 0 {
		l.tokens = min(l.tokens+full, looksAtOnce)
		l.filled = l.filled.Add(time.Duration(full) * each)
	}
	if l.tokens > 0 {
		l.tokens--
		return 0
	}
	return each
}
