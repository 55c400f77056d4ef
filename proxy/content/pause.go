package content

import (
	"errors"
	"sync"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// pauseFor is how long nothing is predicted, or no zip, after a fill could not be stored. What is predicted could
// not be stored either, or would take the space that a client's fill needs.
const pauseFor = 30 * time.Second

// pause is the time in which nothing of some kinds is predicted.
type pause struct {
	reason     func(err error) bool // reports whether the error of a fill is a reason
	predicting bool                 // there are predictions, else there is no pause; not changed after the first request

	mu    sync.Mutex
	until time.Time
	next  chan struct{} // closed when the next pause begins; nil: it was not needed yet
}

// unstorable reports whether err says that the store can store nothing now. Another disk that is full, such as
// that of the directory for repositories, is no reason to predict nothing.
func unstorable(err error) bool {
	return errors.Is(err, storage.ErrUnwritable) || errors.Is(err, storage.ErrReadOnly)
}

// noZips reports whether err says that the store can store no zip now. Most zips that are predicted are not as
// small as what a store can still have at its limit, and all take the space of those that clients request.
func noZips(err error) bool {
	return unstorable(err) || errors.Is(err, storage.ErrNoLarge) || errors.Is(err, storage.ErrNotKept)
}

// note begins a pause, or prolongs it, if err of a fill is a reason, and reports whether it begins one.
func (p *pause) note(err error, now time.Time) (begins bool) {
	if !p.predicting || !p.reason(err) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	begins = !now.Before(p.until)
	p.until = now.Add(pauseFor)
	if begins && p.next != nil {
		close(p.next)
		p.next = nil
	}
	return begins
}

// lasts reports whether there is a pause at a time.
func (p *pause) lasts(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Before(p.until)
}

// begins returns a channel that is closed when the next pause begins.
func (p *pause) begins() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil {
		p.next = make(chan struct{})
	}
	return p.next
}
