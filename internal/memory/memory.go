// Package memory limits the bytes in buffers whose size a client or an upstream chooses.
//
// A Budget is a fixed number of bytes. A taker waits or is refused when there are not
// enough. A program has one Budget and divides it with Part, so that one use of memory
// leaves the part of another use untouched.
//
// An owner, such as a client, gets at most a part of a Budget, so that one owner never
// holds all of it.
//
// Two rules prevent deadlocks. A holder takes more only with Try, which never waits; and
// it waits only for parts whose own holders do not wait.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrFull says that a budget does not have the requested bytes.
var ErrFull = errors.New("the memory budget is used up")

// maxWaiting is how many takers may wait for one budget, unless Queue changes it. Memory that a
// waiting taker already uses, such as the first part of a response, is not counted.
const maxWaiting = 64

// Budget is a number of bytes. Its methods may be called concurrently. A nil Budget has
// no limit.
type Budget struct {
	size    int64
	used    atomic.Int64
	refused atomic.Int64
	queued  atomic.Int32 // length of queue
	waiting atomic.Int32 // of these, those that wait for bytes alone

	mu     sync.Mutex       // guards the fields below
	queue  []*waiter        // in order of arrival
	most   int64            // for one owner with several holds
	places int              // in queue, three quarters of them for one owner
	owners map[string]int64 // bytes held, by owner
}

// waiter waits for n bytes. ready is closed when it has them.
type waiter struct {
	owner string
	n     int64
	ready chan struct{}
}

// New returns a budget of size bytes. One owner gets at most three quarters of it, so
// that a second owner finds some; but a single hold may take all.
func New(size int64) *Budget {
	return &Budget{size: size, most: size - size/4, places: maxWaiting, owners: map[string]int64{}}
}

// Queue changes how many takers may wait, for a use in which they have no other memory. Call it before the
// first use.
func (b *Budget) Queue(places int) *Budget {
	b.places = places
	return b
}

// Limit changes how much one owner with several holds gets. Call it before the first use.
func (b *Budget) Limit(most int64) *Budget {
	b.most = most
	return b
}

// Part takes size bytes forever and returns a budget of them. It panics if there are not
// enough: the program decides how a budget is divided.
func (b *Budget) Part(size int64) *Budget {
	if b == nil {
		return nil
	}
	if !b.Try(size) {
		panic(fmt.Sprintf("memory: no part of %d bytes in a budget of %d, of which %d are used", size, b.size, b.Used()))
	}
	return New(size)
}

// Size returns the size of the budget, 0 if it has no limit.
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

// Refused returns how often the budget refused bytes.
func (b *Budget) Refused() int64 {
	if b == nil {
		return 0
	}
	return b.refused.Load()
}

// Try takes n bytes if they are free, and reports whether it did. It takes no lock. It
// also returns false while others wait: they are first.
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

// grab takes n bytes if they are free.
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

// Must takes n bytes even if they are not free, for memory that cannot be refused, such
// as that for data already on disk. Until enough bytes are given back, all others are
// refused.
func (b *Budget) Must(n int64) {
	if b != nil {
		b.used.Add(n)
	}
}

// Take takes n bytes, and waits for them until ctx ends. The error is ErrFull if the
// budget is smaller, if too many already wait, or if ctx ended because of its deadline;
// otherwise it is that of ctx.
func (b *Budget) Take(ctx context.Context, n int64) error { return b.takeFor(ctx, "", n) }

// Give gives back n taken bytes.
func (b *Budget) Give(n int64) { b.giveFor("", n) }

// tryFor is Try for an owner, whose hold has held bytes and grows by n. It takes no lock
// without an owner.
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

// mayHave reports whether an owner may take n more bytes, with held bytes in the same
// hold. The caller holds b.mu.
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

// enqueue returns a waiter at the end of the queue, which may get its bytes at once; nil
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
	if len(b.queue) >= b.places || owner != "" && mine >= b.places/4*3 {
		return nil
	}
	w := &waiter{owner, n, make(chan struct{})}
	b.queue = append(b.queue, w)
	b.queued.Store(int32(len(b.queue)))
	b.serve() // bytes may have been given back before giveFor could see the queue
	return w
}

// leave removes w from the queue and returns the reason. If w got its bytes at the same
// moment, leave gives them back.
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

// own adds n to the bytes of an owner. The caller holds b.mu.
func (b *Budget) own(owner string, n int64) {
	if owner == "" {
		return
	}
	if b.owners[owner] += n; b.owners[owner] == 0 {
		delete(b.owners, owner)
	}
}

// serve gives waiters their bytes, in the order of the queue, while there are enough for
// the first of them. It skips waiters whose owner already has its part. The caller holds
// b.mu.
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

// WithOwner returns a context that names the owner of taken memory: each owner gets at
// most a part of each budget, so that some is left for others.
func WithOwner(ctx context.Context, owner string) context.Context {
	return context.WithValue(ctx, ownerKey{}, owner)
}

// Hold is the bytes that one use has taken from a budget. Only one goroutine may use it
// at a time. The zero value holds nothing, of a budget without a limit.
type Hold struct {
	budget *Budget
	owner  string // "": none
	bytes  int64
}

// Hold returns an empty Hold of b. The caller must call Free in the end, and must not
// copy the Hold after its first use.
func (b *Budget) Hold() Hold { return Hold{budget: b} }

// HoldFor is Hold for the owner that ctx names, if any.
func (b *Budget) HoldFor(ctx context.Context) Hold {
	owner, _ := ctx.Value(ownerKey{}).(string)
	return Hold{budget: b, owner: owner}
}

// Own sets the owner of an empty Hold.
func (h *Hold) Own(owner string) { h.owner = owner }

// Grow makes the Hold at least n bytes. An empty Hold waits until ctx ends, as Take does;
// any other is refused at once.
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

// Try makes the Hold at least n bytes, or returns ErrFull at once.
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

// Shrink gives back all but n bytes. It does nothing if the Hold has no more than these.
func (h *Hold) Shrink(n int64) {
	if n < h.bytes {
		h.budget.giveFor(h.owner, h.bytes-n)
		h.bytes = n
	}
}

// Bytes returns the size of the Hold.
func (h *Hold) Bytes() int64 { return h.bytes }

// Free gives back all bytes. A second call does nothing.
func (h *Hold) Free() {
	h.budget.giveFor(h.owner, h.bytes)
	h.bytes = 0
}

type holdKey struct{}

// Context returns a context whose reads take their memory from h. It must not reach a
// goroutine that continues when the caller has freed h.
func (h *Hold) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, holdKey{}, h)
}

// HoldOf returns the Hold of ctx, or one of a budget without a limit.
func HoldOf(ctx context.Context) *Hold {
	if h, ok := ctx.Value(holdKey{}).(*Hold); ok {
		return h
	}
	return new(Hold)
}
