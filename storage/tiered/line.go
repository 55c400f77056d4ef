package tiered

import (
	"errors"
	"strings"
	"sync"
)

// lines order what is written to the local tier, by key. What was read from the bucket, or written to it,
// is stored locally some time later, and the object may have changed in the bucket meanwhile: so it is
// stored with a ticket, which was taken before, and which a change makes void.
type lines struct {
	mu   sync.Mutex
	keys map[string]*line // those with tickets
}

func newLines() *lines { return &lines{keys: map[string]*line{}} }

// line is what is under way for one key.
type line struct {
	writing sync.Mutex // held while the local object is written or deleted

	// Guarded by lines.mu.
	tickets map[*ticket]struct{}
	changes int // tickets of changes
}

// ticket is the right to store, under a key of the local tier, what the bucket has there.
type ticket struct {
	lines *lines
	key   string
	line  *line

	// Guarded by lines.mu.
	void   bool // the object has changed since, or may have
	change bool // it is the ticket of a change of this process that is under way
}

// take returns a ticket, which the caller must give back. It is void from the beginning while a change of
// the key is under way.
func (l *lines) take(key string) *ticket { return l.enter(key, false) }

// change returns the ticket of a change, and voids all others.
func (l *lines) change(key string) *ticket { return l.enter(key, true) }

func (l *lines) enter(key string, change bool) *ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.keys[key]
	if at == nil {
		at = &line{tickets: map[*ticket]struct{}{}}
		l.keys[key] = at
	}
	t := &ticket{lines: l, key: key, line: at, change: change, void: at.changes > 0}
	if change {
		at.void()
		at.changes++
	}
	at.tickets[t] = struct{}{}
	return t
}

// void voids the tickets of a line. The caller holds lines.mu.
func (at *line) void() {
	for t := range at.tickets {
		t.void = true
	}
}

// done says that the bucket has answered a change. What it has now may be stored with the ticket.
func (t *ticket) done() {
	t.lines.mu.Lock()
	defer t.lines.mu.Unlock()
	t.end()
}

func (t *ticket) end() {
	if t.change {
		t.change = false
		t.line.changes--
	}
}

// back gives the ticket back.
func (t *ticket) back() {
	t.lines.mu.Lock()
	defer t.lines.mu.Unlock()
	t.end()
	delete(t.line.tickets, t)
	if len(t.line.tickets) == 0 {
		delete(t.lines.keys, t.key)
	}
}

// valid reports whether the ticket is not void.
func (t *ticket) valid() bool {
	t.lines.mu.Lock()
	defer t.lines.mu.Unlock()
	return !t.void
}

// errVoid means that an object was not stored because it has changed in the bucket.
var errVoid = errors.New("the object changed meanwhile")

// store calls do while nothing else writes the key, unless the ticket is void. A change that begins
// meanwhile waits for its end before it deletes the local object.
func (t *ticket) store(do func() error) error {
	t.line.writing.Lock()
	defer t.line.writing.Unlock()
	if !t.valid() {
		return errVoid
	}
	return do()
}

// remove calls do while nothing else writes the key.
func (t *ticket) remove(do func() error) error {
	t.line.writing.Lock()
	defer t.line.writing.Unlock()
	return do()
}

// voidAll voids the tickets of all keys that begin with prefix, and waits for what is being written with
// them.
func (l *lines) voidAll(prefix string) {
	l.mu.Lock()
	var found []*line
	for key, at := range l.keys {
		if strings.HasPrefix(key, prefix) {
			at.void()
			found = append(found, at)
		}
	}
	l.mu.Unlock()
	for _, at := range found {
		at.writing.Lock()
		//lint:ignore SA2001 what was being written is there now
		at.writing.Unlock()
	}
}

// busy returns the number of keys with tickets.
func (l *lines) busy() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.keys)
}
