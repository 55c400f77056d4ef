// Package memory bounds the bytes that the program holds in buffers whose size a
// client or an upstream chooses.
//
// A Budget is a number of bytes. What takes from it waits or is refused when there are
// not enough: it never grows. A program has one Budget and divides it with Part, so
// that one use of memory cannot take what another one needs.
//
// Two rules keep uses from waiting for each other for ever. A holder asks for more
// only with Try, which never waits; and it waits only for parts whose own holders do
// not wait.
package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// ErrFull says that a budget has not as many bytes as were asked for.
var ErrFull = errors.New("the memory budget is used up")

// maxWaiting is how many may wait for one budget. What each of them waits with, such
// as the part of an answer that has arrived already, is not counted.
const maxWaiting = 64

// Budget is a number of bytes. All methods may be called at the same time. A nil
// Budget has no end: it gives whatever is asked for.
type Budget struct {
	size    int64
	used    atomic.Int64
	refused atomic.Int64

	waiting atomic.Int32 // length of queue
	mu      sync.Mutex   // guards queue
	queue   []*waiter    // in the order in which they came
}

// waiter waits for n bytes. ready is closed when they are its own.
type waiter struct {
	n     int64
	ready chan struct{}
}

// New returns a budget of size bytes.
func New(size int64) *Budget { return &Budget{size: size} }

// Part takes size bytes for ever and returns a budget of these. It panics if they are
// not there: how a budget is divided is decided by the program.
func (b *Budget) Part(size int64) *Budget {
	if b == nil {
		return nil
	}
	if !b.Try(size) {
		panic(fmt.Sprintf("memory: no part of %d bytes in a budget of %d, of which %d are used", size, b.size, b.Used()))
	}
	return New(size)
}

// Size returns how many bytes there are, 0 for a budget without end.
func (b *Budget) Size() int64 {
	if b == nil {
		return 0
	}
	return b.size
}

// Used returns how many bytes are taken.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// Refused returns how often bytes were not given.
func (b *Budget) Refused() int64 {
	if b == nil {
		return 0
	}
	return b.refused.Load()
}

// Try takes n bytes and reports whether they were there. It takes no lock. It is
// false also while others wait, whose turn it is.
func (b *Budget) Try(n int64) bool {
	if b == nil {
		return true
	}
	if b.waiting.Load() == 0 && b.grab(n) {
		return true
	}
	b.refused.Add(1)
	return false
}

// grab takes n bytes if they are there.
func (b *Budget) grab(n int64) bool {
	for {
		used := b.used.Load()
		if n > b.size-used {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Must takes n bytes although they may not be there, for what cannot be refused, as
// what is on disk already. Until enough is given back, all others are refused.
func (b *Budget) Must(n int64) {
	if b != nil {
		b.used.Add(n)
	}
}

// Take takes n bytes, and waits for them until ctx ends. The error is ErrFull if the
// budget will never have so many, if too many wait already, or if ctx ended because
// of its deadline; else it is that of ctx.
func (b *Budget) Take(ctx context.Context, n int64) error {
	if b == nil || b.waiting.Load() == 0 && b.grab(n) {
		return nil
	}
	if n > b.size {
		b.refused.Add(1)
		return fmt.Errorf("%w: %d bytes are needed, there are never more than %d", ErrFull, n, b.size)
	}
	w := b.enqueue(n)
	if w == nil {
		b.refused.Add(1)
		return fmt.Errorf("%w: too many wait for it", ErrFull)
	}
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return b.leave(ctx, w)
	}
}

// enqueue returns a waiter at the end of the queue, nil if the queue is full.
func (b *Budget) enqueue(n int64) *waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) >= maxWaiting {
		return nil
	}
	w := &waiter{n, make(chan struct{})}
	b.queue = append(b.queue, w)
	b.waiting.Store(int32(len(b.queue)))
	b.serve() // bytes may have come back before Give could see the queue
	return w
}

// leave takes w out of the queue and returns why. If w got its bytes at the same
// moment they are given back.
func (b *Budget) leave(ctx context.Context, w *waiter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.ready:
		b.used.Add(-w.n)
	default:
		for i, other := range b.queue {
			if other == w {
				b.queue = append(b.queue[:i], b.queue[i+1:]...)
				break
			}
		}
	}
	b.serve()
	b.refused.Add(1)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: waited for %d bytes of %d", ErrFull, w.n, b.size)
	}
	return ctx.Err()
}

// Give gives back n bytes that were taken.
func (b *Budget) Give(n int64) {
	if b == nil {
		return
	}
	b.used.Add(-n)
	if b.waiting.Load() > 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.serve()
	}
}

// serve gives those in the queue what they wait for, as long as there is enough for
// the first of them. It needs mu.
func (b *Budget) serve() {
	for len(b.queue) > 0 && b.grab(b.queue[0].n) {
		close(b.queue[0].ready)
		b.queue = b.queue[1:]
	}
	b.waiting.Store(int32(len(b.queue)))
}

// Hold is what one use has taken of a budget. One goroutine uses it at a time. The
// zero value holds nothing of a budget without end.
type Hold struct {
	budget *Budget
	bytes  int64
}

// Hold returns a Hold of b that is still empty. Its owner calls Free in the end, and
// does not copy it after its first use.
func (b *Budget) Hold() Hold { return Hold{budget: b} }

// Grow makes what is held at least n bytes. A Hold that is empty waits until ctx
// ends, as Take does; one that has something already is refused at once.
func (h *Hold) Grow(ctx context.Context, n int64) error {
	if h.bytes > 0 || n <= 0 {
		return h.Try(n)
	}
	if err := h.budget.Take(ctx, n); err != nil {
		return err
	}
	h.bytes = n
	return nil
}

// Try makes what is held at least n bytes, or returns ErrFull at once.
func (h *Hold) Try(n int64) error {
	more := n - h.bytes
	if more <= 0 {
		return nil
	}
	if !h.budget.Try(more) {
		return fmt.Errorf("%w: %d bytes are held, %d are needed", ErrFull, h.bytes, n)
	}
	h.bytes = n
	return nil
}

// Bytes returns how many bytes are held.
func (h *Hold) Bytes() int64 { return h.bytes }

// Free gives back all that is held. Nothing happens the second time.
func (h *Hold) Free() {
	h.budget.Give(h.bytes)
	h.bytes = 0
}

type holdKey struct{}

// Context returns a context in which what is read for the caller is read into h. It
// must not reach a goroutine that goes on when the caller is done with h.
func (h *Hold) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, holdKey{}, h)
}

// HoldOf returns the Hold of ctx, else one of a budget without end.
func HoldOf(ctx context.Context) *Hold {
	if h, ok := ctx.Value(holdKey{}).(*Hold); ok {
		return h
	}
	return new(Hold)
}
