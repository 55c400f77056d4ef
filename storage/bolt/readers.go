package bolt

import (
	"context"
	"sync"
	"time"
)

// readersAgain is how long waitForEarlier waits before it looks again. Readers that serve clients
// take less than a millisecond.
const readersAgain = 10 * time.Millisecond

// readers counts the read transactions of a file that are open, by the round in which they began.
// Only waitForEarlier begins a new round, so there are always new readers that it need not wait for.
type readers struct {
	mu    sync.Mutex
	round int
	open  map[int]int
}

// begin returns the round of a new reader, which must call end with it.
func (r *readers) begin() (round int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[r.round]++
	return r.round
}

func (r *readers) end(round int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[round]--; r.open[round] == 0 {
		delete(r.open, round)
	}
}

// waitForEarlier waits until all readers have ended that began before the call.
func (r *readers) waitForEarlier(ctx context.Context) error {
	r.mu.Lock()
	r.round++
	now := r.round
	r.mu.Unlock()
	for r.earlier(now) {
		select {
		case <-time.After(readersAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// earlier reports whether there are readers of rounds before now.
func (r *readers) earlier(now int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for round := range r.open {
		if round < now {
			return true
		}
	}
	return false
}
