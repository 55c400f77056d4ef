package pinlog

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
)

// errClosed means that the log was closed.
var errClosed = fmt.Errorf("log is closed: %w", fs.ErrClosed)

// pin is an entry that a caller of Log.Pin waits for.
type pin struct {
	entry Entry         // the caller's entry; at the end the stored one
	have  *Entry        // the entry that it contradicts
	fresh bool          // this call appended it
	with  Dependents    // stored with the guard that covers the entry
	kept  bool          // with is stored
	err   error         // why it was not decided
	done  chan struct{} // closed when the rest is set
}

func newPin(e Entry, with Dependents) *pin {
	return &pin{entry: e, with: with, done: make(chan struct{})}
}

// decided returns the entry that decided p.
func (p *pin) decided() Entry {
	if p.have != nil {
		return *p.have
	}
	return p.entry
}

// decide compares p with stored, the entry of the same version.
func (p *pin) decide(stored Entry) {
	p.fresh = p.fresh && p.entry.ID == stored.ID && p.entry.Time.Equal(stored.Time) && p.entry.Origin == stored.Origin
	if stored.same(p.entry) {
		p.entry = stored
	} else {
		p.have = &stored
	}
}

// finish ends the wait for p.
func (p *pin) finish(err error) {
	p.err = err
	close(p.done)
}

// result returns the entry of p, which is decided, and whether it was appended or known.
func (p *pin) result() (Entry, string, error) {
	switch {
	case p.have != nil:
		return Entry{}, "", &ConflictError{Have: *p.have, Got: p.entry}
	case p.fresh:
		return p.entry, "appended", nil
	}
	return p.entry, "known", nil
}

// queue lets one goroutine at a time write the log, and collects the pins of the others meanwhile:
// the next writer appends all of them.
type queue struct {
	// writer holds a value while the queue is locked. It is a channel and not a mutex, so that a
	// caller can stop waiting when its context ends.
	writer chan struct{}

	mu      sync.Mutex // guards the fields below
	waiting []*pin
	closed  bool
}

func newQueue() *queue { return &queue{writer: make(chan struct{}, 1)} }

// lock waits until no other goroutine writes. The error is errClosed; if there is none, the caller
// must call unlock.
func (q *queue) lock() error {
	q.writer <- struct{}{}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.unlock()
		return errClosed
	}
	return nil
}

func (q *queue) unlock() { <-q.writer }

// append queues p and waits until it is decided. The goroutine that gets the lock calls write with
// all queued pins.
func (q *queue) append(ctx context.Context, p *pin, write func([]*pin)) error {
	if err := q.add(p); err != nil {
		return err
	}
	for {
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			q.remove(p)
			return ctx.Err()
		case q.writer <- struct{}{}:
			q.write(write)
		}
	}
}

// write calls write with all queued pins, and gives the lock back, also after a panic: it ends one caller,
// and not the log.
func (q *queue) write(write func([]*pin)) {
	defer q.unlock()
	write(q.takeAll())
}

func (q *queue) add(p *pin) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	q.waiting = append(q.waiting, p)
	return nil
}

func (q *queue) remove(p *pin) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(other *pin) bool { return other == p })
}

func (q *queue) takeAll() []*pin {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.waiting
	q.waiting = nil
	return all
}

// close fails all waiting pins with errClosed. The caller holds the lock.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	for _, p := range q.takeAll() {
		p.finish(errClosed)
	}
}
