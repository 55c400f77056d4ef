package places

import (
	"context"
	"time"
)

// state is the state of a claim.
type state uint8

const (
	waiting state = iota
	running
	ended
)

// Claim is a claim to a place. Its methods may be called concurrently.
type Claim struct {
	places *Places
	who    For
	ready  chan struct{} // closed when the claim has left the queue

	// places.mu guards the fields below.
	state    state
	err      error          // the reason why it ended without a place
	clients  map[string]int // requests that wait for the work, by client
	client   string         // the place is counted for it
	cancel   context.CancelCauseFunc
	yielding bool // it must give up its place
	firm     bool // it no longer yields

	since    time.Time // when it got its place, or Rest was called
	measured bool      // it has reported progress since
	bytes    int64
	last     time.Time // when it last reported progress
	from, to mark      // progress at two moments; if there are two, they are at least a window apart
}

// mark is the progress at a moment.
type mark struct {
	at    time.Time
	bytes int64
}

// Take waits until the claim has a place, at most for wait, and returns the context for
// the work. The context ends with ErrYielded as its cause when the work must give up its
// place. The error is ErrLate, ErrFull, ErrLeft, ErrYielded or the cause of ctx.
func (c *Claim) Take(ctx context.Context, wait time.Duration) (context.Context, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case <-c.ready:
	case <-timer.C:
		err = ErrLate
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, c.err
	case c.state == waiting:
		if err == ErrLate {
			c.places.stats.Late++
		}
		c.places.dequeue(c)
		c.state = ended
		return nil, err
	}
	ctx, c.cancel = context.WithCancelCause(ctx)
	if c.yielding {
		c.cancel(ErrYielded)
	}
	return ctx, nil
}

// Release gives the place back and ends the context of the work. Further calls do
// nothing.
func (c *Claim) Release() {
	p := c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	switch c.state {
	case waiting:
		p.dequeue(c)
	case running:
		if c.cancel != nil {
			c.cancel(nil)
		}
		delete(p.running, c)
		p.count(c, -1)
	}
	c.state = ended
	p.dispatch()
}

// Client returns the client that made the claim.
func (c *Claim) Client() string { return c.who.Client }

// Join adds a request of a client that waits for the work. It returns false if the work
// is about to give up its place; then the request should make a claim of its own.
func (c *Claim) Join(client string) bool {
	p := c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.yielding || c.err != nil {
		return false
	}
	c.clients[client]++
	if c.state == waiting { // this client may get a place where the others may not
		p.dispatch()
		if c.state == waiting && c.clients[client] == 1 {
			p.makeRoom(c)
		}
	}
	return true
}

// Leave takes back one Join, or the client of the claim itself. A waiting claim is
// dropped with its last client; running work continues while no other claim needs its
// place.
func (c *Claim) Leave(client string) {
	p := c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.clients[client]--; c.clients[client] <= 0 {
		delete(c.clients, client)
	}
	if len(c.clients) == 0 && c.state == waiting {
		p.drop(c, ErrLeft)
	}
}

// Progress says that the work has transferred n more bytes.
func (c *Claim) Progress(n int) {
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	now := time.Now()
	c.bytes, c.last = c.bytes+int64(n), now
	if !c.measured {
		c.measured = true
		c.to = mark{now, c.bytes}
		c.from = c.to
	}
	if now.Sub(c.to.at) >= c.places.config.Window {
		c.from, c.to = c.to, mark{now, c.bytes}
	}
}

// Rest says that the work no longer waits for bytes: its rate is judged as if it had just
// begun.
func (c *Claim) Rest() {
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	c.since, c.measured = time.Now(), false
}

// Firm says that the work is almost done: it no longer yields.
func (c *Claim) Firm() {
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	c.firm = true
}

// giveUp makes the work yield.
func (c *Claim) giveUp() {
	c.yielding = true
	if c.cancel != nil {
		c.cancel(ErrYielded)
	}
}

// class is a class of work, in the order in which work yields.
type class uint8

const (
	abandoned class = iota // no client waits for it
	crawling               // it yields to every claim
	sluggish               // it yields to claims of clients that hold fewer places
	keep                   // it never yields
)

// verdict says how soon work should yield its place.
type verdict struct {
	class class
	rate  float64 // bytes per second
	since time.Time
}

// before reports whether work with verdict v yields before work with verdict w.
func (v verdict) before(w verdict) bool {
	switch {
	case v.class != w.class:
		return v.class < w.class
	case v.rate != w.rate:
		return v.rate < w.rate
	default:
		return v.since.Before(w.since)
	}
}

// judge returns the verdict on the work of c.
func (c *Claim) judge(now time.Time) verdict {
	v := verdict{class: keep, since: c.since}
	if c.firm || c.yielding {
		return v
	}
	if len(c.clients) == 0 {
		v.class = abandoned
		return v
	}
	rate, known := c.rate(now)
	if v.rate = rate; known && rate < crawl {
		v.class = crawling
	} else if known && rate < slow {
		v.class = sluggish
	}
	return v
}

// rate returns the recent bytes per second, and whether there is enough data.
func (c *Claim) rate(now time.Time) (rate float64, known bool) {
	if !c.measured {
		patience := c.places.config.Patience
		return 0, patience > 0 && now.Sub(c.since) >= patience
	}
	took := now.Sub(c.from.at)
	if now.Sub(c.last) >= c.places.config.Window {
		return 0, true // it stalls, whatever its earlier rate
	}
	return float64(c.bytes-c.from.bytes) / took.Seconds(), took >= c.places.config.Window
}
