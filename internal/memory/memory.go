// Package memory bounds the bytes that the program holds in buffers whose size a
// client or an upstream chooses.
//
// A Budget is a number of bytes. What takes from it waits or is refused when there are
// not enough: it never grows. A program has one Budget and divides it with Part, so
// that one use of memory cannot take what another one needs.
//
// An owner, such as a client, has a part of a Budget at most, so that one owner never
// holds all of it.
//
// Two rules keep uses from waiting for each other for ever. A holder asks for more
// only with Try, which never waits; and it waits only for parts whose own holders do
// not wait.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrFull says that a budget has not as many bytes as were asked for.
var ErrFull = errors.New("the memory budget is used up")

// maxWaiting is how many may wait for one budget, maxWaitingFor how many of them for one
// owner. What each of them waits with, such as the part of an answer that has arrived
// already, is not counted.
const (
	maxWaiting    = 64
	maxWaitingFor = maxWaiting / 4 * 3
)

// Budget is a number of bytes. All methods may be called at the same time. A nil
// Budget has no end: it gives whatever is asked for.
type Budget struct {
	size    int64
	used    atomic.Int64
	refused atomic.Int64
	queued  atomic.Int32 // length of queue
	waiting atomic.Int32 // of these, those that only bytes are missing for

	mu     sync.Mutex       // guards what follows
	queue  []*waiter        // in the order in which they came
	most   int64            // of one owner with several holds
	owners map[string]int64 // bytes held, by owner
}

// waiter waits for n bytes. ready is closed when they are its own.
type waiter struct {
	owner string
	n     int64
	ready chan struct{}
}

// New returns a budget of size bytes. One owner has three quarters of it, but for a single
// hold, which may have all: a second owner finds something.
func New(size int64) *Budget {
	return &Budget{size: size, most: size - size/4, owners: map[string]int64{}}
}

// Limit changes how much one owner has, but for a single hold. It comes before the first use.
func (b *Budget) Limit(most int64) *Budget {
	b.most = most
	return b
}

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
func (b *Budget) Take(ctx context.Context, n int64) error { return b.takeFor(ctx, "", n) }

// Give gives back n bytes that were taken.
func (b *Budget) Give(n int64) { b.giveFor("", n) }

// tryFor is Try for an owner, which has held bytes in the hold that grows by n. It takes no
// lock if there is no owner.
func (b *Budget) tryFor(owner string, held, n int64) bool {
	if b == nil || owner == "" {
		return b.Try(n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.mayHave(owner, held, n) || b.waiting.Load() > 0 || !b.grab(n) {
		b.refused.Add(1)
		return false
	}
	b.owners[owner] += n
	return true
}

// mayHave reports whether an owner may have n bytes more, with held bytes in the same hold.
// The caller holds b.mu.
func (b *Budget) mayHave(owner string, held, n int64) bool {
	all := b.owners[owner]
	return owner == "" || all == held || all+n <= b.most
}

// takeFor is Take for an owner.
func (b *Budget) takeFor(ctx context.Context, owner string, n int64) error {
	if b == nil || owner == "" && b.waiting.Load() == 0 && b.grab(n) {
		return nil
	}
	if n > b.size {
		b.refused.Add(1)
		return fmt.Errorf("%w: %d bytes are needed, there are never more than %d", ErrFull, n, b.size)
	}
	w := b.enqueue(owner, n)
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

// enqueue returns a waiter at the end of the queue, which may have its bytes at once; nil
// if the queue is full.
func (b *Budget) enqueue(owner string, n int64) *waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	mine := 0
	for _, w := range b.queue {
		if w.owner == owner {
			mine++
		}
	}
	if len(b.queue) >= maxWaiting || owner != "" && mine >= maxWaitingFor {
		return nil
	}
	w := &waiter{owner, n, make(chan struct{})}
	b.queue = append(b.queue, w)
	b.queued.Store(int32(len(b.queue)))
	b.serve() // bytes may have come back before giveFor could see the queue
	return w
}

// leave takes w out of the queue and returns why. If w got its bytes at the same
// moment they are given back.
func (b *Budget) leave(ctx context.Context, w *waiter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at := slices.Index(b.queue, w); at >= 0 {
		b.queue = slices.Delete(b.queue, at, at+1)
	} else {
		b.used.Add(-w.n)
		b.own(w.owner, -w.n)
	}
	b.serve()
	b.refused.Add(1)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: waited for %d bytes of %d", ErrFull, w.n, b.size)
	}
	return ctx.Err()
}

// giveFor is Give for an owner.
func (b *Budget) giveFor(owner string, n int64) {
	if b == nil {
		return
	}
	b.used.Add(-n)
	if owner == "" && b.queued.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own(owner, -n)
	b.serve()
}

// own adds n to what an owner holds. The caller holds b.mu.
func (b *Budget) own(owner string, n int64) {
	if owner == "" {
		return
	}
	if b.owners[owner] += n; b.owners[owner] == 0 {
		delete(b.owners, owner)
	}
}

// serve gives those in the queue what they wait for, in their order, as long as there is
// enough for the first of them. Those whose owner has its part let the others go first.
// The caller holds b.mu.
func (b *Budget) serve() {
	short := int32(0)
	b.queue = slices.DeleteFunc(b.queue, func(w *waiter) bool {
		switch {
		case !b.mayHave(w.owner, 0, w.n):
			return false
		case short > 0 || !b.grab(w.n):
			short++
			return false
		}
		b.own(w.owner, w.n)
		close(w.ready)
		return true
	})
	b.queued.Store(int32(len(b.queue)))
	b.waiting.Store(short)
}

type ownerKey struct{}

// WithOwner says in the returned context for whom memory is taken: owners have a part of
// each budget, so that one of them leaves something to the next.
func WithOwner(ctx context.Context, owner string) context.Context {
	return context.WithValue(ctx, ownerKey{}, owner)
}

// Hold is what one use has taken of a budget. One goroutine uses it at a time. The
// zero value holds nothing of a budget without end.
type Hold struct {
	budget *Budget
	owner  string // "": none
	bytes  int64
}

// Hold returns a Hold of b that is still empty. Its owner calls Free in the end, and
// does not copy it after its first use.
func (b *Budget) Hold() Hold { return Hold{budget: b} }

// HoldFor is Hold for the owner that ctx names, if it does.
func (b *Budget) HoldFor(ctx context.Context) Hold {
	owner, _ := ctx.Value(ownerKey{}).(string)
	return Hold{budget: b, owner: owner}
}

// Own says whose an empty Hold is.
func (h *Hold) Own(owner string) { h.owner = owner }

// Grow makes what is held at least n bytes. A Hold that is empty waits until ctx
// ends, as Take does; one that has something already is refused at once.
func (h *Hold) Grow(ctx context.Context, n int64) error {
	if h.bytes > 0 || n <= 0 {
		return h.Try(n)
	}
	if err := h.budget.takeFor(ctx, h.owner, n); err != nil {
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
	if !h.budget.tryFor(h.owner, h.bytes, more) {
		return fmt.Errorf("%w: %d bytes are held, %d are needed", ErrFull, h.bytes, n)
	}
	h.bytes = n
	return nil
}

// Bytes returns how many bytes are held.
func (h *Hold) Bytes() int64 { return h.bytes }

// Free gives back all that is held. Nothing happens the second time.
func (h *Hold) Free() {
	h.budget.giveFor(h.owner, h.bytes)
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
