package admin

import (
	"context"
	"net/http"
	"sync"
)

// turn lets one backup or compaction run at a time, and tells the commands that wait which one.
type turn struct {
	mu    sync.Mutex    // guards the fields below
	what  string        // the one that runs, "" if none does
	ended chan struct{} // closed when it ends
}

// take waits until nothing else runs. It calls waits at most once, with what runs.
func (t *turn) take(ctx context.Context, what string, waits func(running string)) error {
	for told := false; ; told = true {
		running, ended := t.try(what)
		if running == "" {
			return nil
		}
		if !told {
			waits(running)
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try begins what, or returns what runs.
func (t *turn) try(what string) (running string, ended chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.what != "" {
		return t.what, t.ended
	}
	t.what, t.ended = what, make(chan struct{})
	return "", nil
}

// end ends what take began.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.what = ""
	close(t.ended)
}

// The header of an informational response, which is sent before the real one: what the request
// waits for.
const waitsHeader = "Assay-Waits-For"

// sayWaits tells the client that its request waits.
func sayWaits(w http.ResponseWriter, running string) {
	w.Header().Set(waitsHeader, running)
	w.WriteHeader(http.StatusProcessing)
	w.Header().Del(waitsHeader)
}
