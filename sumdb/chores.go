package sumdb

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/panics"
)

const (
	// firstPause and lastPause are how long a chore waits after it has failed. The pause doubles.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second

	// choreTime bounds one attempt: the store may hang.
	choreTime = 20 * time.Second

	// lastTime is how long close waits for an attempt that runs.
	lastTime = 5 * time.Second
)

// chores are what a replica does in the background for the others, so that no client waits for it. A
// chore that fails is done again, until it succeeds or close is called.
type chores struct {
	log   *slog.Logger
	ended chan struct{} // closed by close

	mu      sync.Mutex      // guards what follows
	again   map[string]bool // the chores that run, by name, and whether they were added again since they began
	closed  bool
	running sync.WaitGroup // Add under mu
}

func newChores(log *slog.Logger) *chores {
	return &chores{log: log, ended: make(chan struct{}), again: map[string]bool{}}
}

// add does a chore soon. A chore with a name that runs is done once more after it, so that it does not
// miss what has changed since it began.
func (c *chores) add(name string, do func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, runs := c.again[name]
	switch {
	case c.closed:
	case runs:
		c.again[name] = true
	default:
		c.again[name] = false
		c.running.Go(func() { c.run(name, do) })
	}
}

func (c *chores) run(name string, do func(context.Context) error) {
	pause := firstPause
	for {
		err := c.attempt(do)
		switch {
		case err == nil && !c.anew(name):
			return
		case err == nil:
			pause = firstPause
			continue
		case pause == firstPause:
			c.log.Warn("other replicas cannot be told yet; this is tried again", "what", name, "err", err)
		}
		select {
		case <-c.ended:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// attempt does a chore once. After close it has a little time left.
func (c *chores) attempt(do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), choreTime)
	defer cancel()
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-c.ended:
		}
		select {
		case <-ctx.Done():
		case <-time.After(lastTime):
			cancel()
		}
	}()
	return panics.Catch(func() error { return do(ctx) })
}

// anew reports whether the chore was added again while it ran. If not, it is none any more.
func (c *chores) anew(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if again := c.again[name]; !again || c.closed {
		delete(c.again, name)
		return false
	}
	c.again[name] = false
	return true
}

// close ends the chores: those that wait after a failure at once, those that run after lastTime.
func (c *chores) close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.ended)
	}
	c.mu.Unlock()
	c.running.Wait()
}
