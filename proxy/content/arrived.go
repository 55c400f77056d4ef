package content

import (
	"context"
	"sync"

	"github.com/assay-proxy/assay/storage"
)

// arrived is a zip in the store that has no key yet, and grows while other goroutines read
// it. It is closed when its last user has released it.
type arrived struct {
	storage.Draft

	mu    sync.Mutex
	size  int64         // bytes that can be read
	more  chan struct{} // closed and replaced when size grows
	users int
}

// newArrived returns a zip with one user, of which nothing has arrived yet.
func newArrived(draft storage.Draft) *arrived {
	return &arrived{Draft: draft, more: make(chan struct{}), users: 1}
}

// Write appends p. Only one goroutine writes.
func (a *arrived) Write(p []byte) (int, error) {
	n, err := a.Draft.Write(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.size += int64(n)
	close(a.more)
	a.more = make(chan struct{})
	return n, err
}

// readable returns how many bytes can be read, and a channel that is closed when
// there are more.
func (a *arrived) readable() (int64, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.size, a.more
}

// wait returns how many bytes can be read as soon as there are more than n. It
// returns early when done is closed or ctx ends; the error is then ctx's.
func (a *arrived) wait(ctx context.Context, n int64, done <-chan struct{}) (int64, error) {
	for {
		size, more := a.readable()
		if size > n {
			return size, nil
		}
		select {
		case <-more:
		case <-done:
			size, _ = a.readable()
			return size, nil
		case <-ctx.Done():
			return size, ctx.Err()
		}
	}
}

// acquire adds a user, and reports whether the zip can still be read.
func (a *arrived) acquire() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users == 0 {
		return false
	}
	a.users++
	return true
}

// release removes a user; the last one closes the draft.
func (a *arrived) release() {
	a.mu.Lock()
	a.users--
	last := a.users == 0
	a.mu.Unlock()
	if last {
		_ = a.Draft.Close() // its content is stored, or no longer needed
	}
}
