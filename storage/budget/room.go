package budget

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/storage"
)

const (
	// margin is the part of the limit that no object takes: a commit of the engine writes some pages more than
	// an object has.
	margin = 256 << 10

	// leastRoom is how much room for objects there must be at the start.
	leastRoom = 1 << 20

	// again is how often a writer that waits for room measures: space also becomes free in other ways than by
	// eviction.
	again = 200 * time.Millisecond

	// passedWait is how long a draft that is not kept, and whose readers are slow, keeps others that need room
	// from displacing objects.
	passedWait = 15 * time.Second
)

// errNoRoom says that something does not fit below the limit now.
var errNoRoom = errors.New("no room below the limit of the disk")

// full is the error of a write for which there is no room.
func full(large bool) error {
	what := storage.ErrUnwritable
	if large {
		what = storage.ErrNoLarge
	}
	return fullBecause(what, "nothing that may be evicted is left, or no upstream answers; raise disk-limit, or purge modules")
}

// waited is the error of a draft that has waited for room as long as it may.
func waited(err error) error {
	return fmt.Errorf("%w: %w", fullBecause(storage.ErrNoLarge,
		"others that arrive, or that are too large to be stored and are still read by slow clients, take the room; try again later, or raise disk-limit"), err)
}

func fullBecause(what error, why string) error {
	return fmt.Errorf("%w: %w: %w: %s; stored objects stay readable", errNoRoom, syscall.ENOSPC, what, why)
}

// room is the room below the limit. Bytes that were permitted count until the engine counts them.
type room struct {
	disk  *disk
	limit int64

	taking sync.Mutex // held from the measuring until what is permitted counts

	mu         sync.Mutex
	pending    int64         // bytes that were permitted, and that the engine may not count yet
	small      int64         // part of them of small objects
	unfinished int64         // bytes of drafts that are neither stored nor closed
	over       *claim        // of the only draft that may exceed the limit; nil: none
	next       *claim        // of the only draft that may displace objects before it is complete; nil: none
	patience   time.Duration // passedWait
	news       chan struct{} // closed and replaced when there may be more room
}

// claim is what a draft takes of the room. It is guarded by the room.
type claim struct {
	written int64     // bytes
	passed  time.Time // since when it is not kept, and is only read; zero: it may still be stored
}

func newRoom(d *disk, limit int64) *room {
	return &room{disk: d, limit: limit, patience: passedWait, news: make(chan struct{})}
}

// slack is the room that eviction leaves free for what arrives meanwhile.
func (r *room) slack() int64 { return min(max(r.limit/32, 256<<10), 128<<20) }

// reserve is the room for the growth of what is not evicted: the journal of small objects and records.
func (r *room) reserve() int64 { return 2 * JournalFor(r.limit) }

// counting says which bytes of unfinished drafts count.
type counting int

const (
	countAll      counting = iota
	countFitting           // all but those of the draft that may exceed the limit
	countFinished          // none
)

// missing returns how many bytes are missing below the limit for n more. real is what must be given back to the
// file system for that; worth is less if there is reusable space, and more for the reserve.
func (r *room) missing(n int64, what counting) (real, worth int64, u use, err error) {
	before := r.counts(what)
	u, err = r.disk.use()
	if err != nil {
		return 0, 0, u, err
	}
	// What a writer has finished meanwhile may be neither on the disk that was measured nor pending now, and a draft
	// that has ended meanwhile does not take its bytes with it.
	after := r.counts(what)
	real = u.taken + u.Arriving + max(before.pending, after.pending) + n + margin - r.limit - min(before.exempt, after.exempt)
	return real, real - u.Reusable + r.reserve(), u, nil
}

// counts are the numbers of a room at one moment.
type counts struct {
	pending int64
	exempt  int64 // bytes of drafts that do not count
}

func (r *room) counts(what counting) (c counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.pending = r.pending
	switch {
	case what == countFitting && r.over != nil:
		c.exempt = r.over.written
	case what == countFinished:
		c.exempt = r.unfinished
	}
	return c
}

// take permits n bytes, until give is called. The error is errNoRoom if they do not fit. small says that they are a
// whole object, or a batch of some.
func (r *room) take(n int64, small bool) error {
	r.taking.Lock()
	defer r.taking.Unlock()
	real, _, u, err := r.missing(n, countFitting)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Small objects take pages that are allocated already. Some of those have space for other ones only.
	reused := small && n+r.small+margin/4 <= u.Reusable/2
	if real > 0 && !reused {
		return errNoRoom
	}
	r.permit(n, small)
	return nil
}

// give ends what take began.
func (r *room) give(n int64, small bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.permit(-n, small)
}

// permit counts n bytes. The caller holds mu.
func (r *room) permit(n int64, small bool) {
	r.pending += n
	if small {
		r.small += n
	}
}

// takeFor is take for a draft, and returns what ends it: it waits for room until ctx ends, unless the draft is the one
// that may exceed the limit. wake makes others evict, and displace evicts for n bytes at once.
func (r *room) takeFor(ctx context.Context, c *claim, n int64, wake func(), displace func(context.Context, int64)) (give func(), err error) {
	for {
		r.mu.Lock()
		news := r.news
		small := c.written+n <= storage.MaxSmall // a large content may arrive in small pieces
		r.mu.Unlock()
		give = func() { r.give(n, small) }
		err := r.take(n, small)
		if err == nil {
			r.wrote(c, n)
			return give, nil
		}
		if !errors.Is(err, errNoRoom) {
			return nil, err
		}
		wake()
		if r.exceed(c, n, small) {
			return give, nil
		}
		if r.displaces(c) {
			displace(ctx, n)
		}
		select {
		case <-news:
		case <-time.After(again):
		case <-ctx.Done():
			return nil, waited(ctx.Err())
		}
	}
}

// exceed permits a draft to exceed the limit, if no other one does.
func (r *room) exceed(c *claim, n int64, small bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over != nil && r.over != c {
		return false
	}
	r.over = c
	r.permit(n, small)
	c.written += n
	r.unfinished += n
	return true
}

// displaces reports whether a draft may displace objects before it is complete: one at a time may, when the one that
// exceeds the limit is not kept and its readers are slow. Otherwise that would stop all large writes until they end.
func (r *room) displaces(c *claim) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over == nil || r.over.passed.IsZero() || time.Since(r.over.passed) < r.patience {
		return false
	}
	if r.next == nil {
		r.next = c
	}
	return r.next == c
}

// pass says that a draft is not kept.
func (r *room) pass(c *claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.passed = time.Now()
}

// wrote counts the bytes of a draft.
func (r *room) wrote(c *claim, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.written += n
	r.unfinished += n
}

// exceeds reports whether a draft was permitted to exceed the limit.
func (r *room) exceeds(c *claim) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over == c
}

// finished says that a draft is stored or closed.
func (r *room) finished(c *claim) {
	r.mu.Lock()
	r.unfinished -= c.written
	c.written = 0
	if r.over == c {
		r.over = nil
	}
	if r.next == c {
		r.next = nil
	}
	r.mu.Unlock()
	r.changed()
}

// changed says that there may be more room.
func (r *room) changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.news)
	r.news = make(chan struct{})
}
