package content

import "sync"

// waiting counts the clients that wait for a fill, and keeps what has arrived until each of them has opened its
// object: a store with a limit may not keep a zip, or evict it at once.
type waiting struct {
	mu      sync.Mutex
	clients int
	ended   bool
	release func() // nil, or called when the last client leaves
}

// enter adds a client, and reports whether it came before the end; if so, it must leave.
func (w *waiting) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.clients++
	return true
}

// leave removes a client.
func (w *waiting) leave() {
	w.mu.Lock()
	w.clients--
	release := w.release
	if w.clients > 0 {
		release = nil
	}
	w.mu.Unlock()
	if release != nil {
		release()
	}
}

// end says that the fill has ended; release is called when no client waits any more.
func (w *waiting) end(release func()) {
	w.mu.Lock()
	w.ended = true
	wait := w.clients > 0
	if wait {
		w.release = release
	}
	w.mu.Unlock()
	if !wait {
		release()
	}
}
