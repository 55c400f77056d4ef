package places

import (
	"context"
	"time"
)

// Claim is a claim to a place. Its methods may be called concurrently.
type Claim struct {
	places *Places
	work   *work
}

// Claim claims a place. The claim gets one at once, or waits, see Take. The caller must
// call Release. The error is ErrClientFull or ErrFull.
func (p *Places) Claim(who For) (*Claim, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &work{who: who, ready: make(chan struct{}), clients: map[string]int{who.Client: 1}}
	if p.admit(w) {
		return &Claim{p, w}, nil
	}
	if err := p.enqueue(w); err != nil {
		return nil, err
	}
	p.makeRoom(w)
	if p.timer == nil {
		p.timer = time.AfterFunc(review, p.review)
	}
	return &Claim{p, w}, nil
}

// Take waits until the claim has a place, at most for wait, and returns the context for
// the work. The context ends with ErrYielded as its cause when the work must give up its
// place. The error is ErrLate, ErrFull, ErrLeft, ErrYielded or the cause of ctx.
func (c *Claim) Take(ctx context.Context, wait time.Duration) (context.Context, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case <-c.work.ready:
	case <-timer.C:
		err = ErrLate
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	switch {
	case c.work.err != nil:
		return nil, c.work.err
	case c.work.state == waiting:
		if err == ErrLate {
			c.places.stats.Late++
		}
		c.places.dequeue(c.work)
		c.work.state = ended
		return nil, err
	}
	ctx, c.work.cancel = context.WithCancelCause(ctx)
	if c.work.yielding {
		c.work.cancel(ErrYielded)
	}
	return ctx, nil
}

// Aside gives the place back, calls do, which waits for what is done elsewhere, and waits for a place again if do
// returns true, at most for wait. The context of Take stays the same. The error is one of Take: without a place
// the work must end. It is ErrLeft if no client waits for the work any more. If do returns false the work must
// end soon, without a place.
func (c *Claim) Aside(ctx context.Context, wait time.Duration, do func() (again bool)) error {
	p, w := c.places, c.work
	p.mu.Lock()
	if w.state == running {
		delete(p.running, w)
		p.count(w, -1)
		w.state = aside
		p.dispatch()
	}
	p.mu.Unlock()
	if !do() {
		return nil
	}
	if err := c.again(); err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	err := ErrLate
	select {
	case <-w.ready:
	case <-timer.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case w.err != nil:
		return w.err
	case w.state == waiting:
		p.dequeue(w)
		w.state = ended
		return err
	}
	return nil
}

// again claims a place again for work that has given its place back.
func (c *Claim) again() error {
	p, w := c.places, c.work
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case w.state != aside:
		return nil
	case w.yielding:
		return ErrYielded
	case len(w.clients) == 0:
		w.state = ended
		return ErrLeft
	}
	w.ready = make(chan struct{})
	if p.admit(w) {
		return nil
	}
	if err := p.enqueue(w); err != nil {
		w.state = ended
		return err
	}
	w.state = waiting
	p.makeRoom(w)
	if p.timer == nil {
		p.timer = time.AfterFunc(review, p.review)
	}
	return nil
}

// Release gives the place back and ends the context of the work. Further calls do
// nothing.
func (c *Claim) Release() {
	p := c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	switch c.work.state {
	case waiting:
		p.dequeue(c.work)
	case running:
		if c.work.cancel != nil {
			c.work.cancel(nil)
		}
		delete(p.running, c.work)
		p.count(c.work, -1)
	}
	c.work.state = ended
	p.dispatch()
}

// Client returns the client that made the claim.
func (c *Claim) Client() string { return c.work.who.Client }

// Join adds a request of a client that waits for the work. It returns false if the work
// is about to give up its place; then the request should make a claim of its own.
func (c *Claim) Join(client string) bool {
	p := c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.work.yielding || c.work.err != nil {
		return false
	}
	c.work.clients[client]++
	if c.work.state == waiting { // this client may get a place where the others may not
		p.dispatch()
		if c.work.state == waiting && c.work.clients[client] == 1 {
			p.makeRoom(c.work)
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
	if c.work.clients[client]--; c.work.clients[client] <= 0 {
		delete(c.work.clients, client)
	}
	if len(c.work.clients) == 0 && c.work.state == waiting {
		p.drop(c.work, ErrLeft)
	}
}

// Wanted reports whether a client waits for the work.
func (c *Claim) Wanted() bool {
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	return len(c.work.clients) > 0
}

// GiveUp makes the work yield its place if no client waits for it, and reports whether it does: then no
// client can join it.
func (c *Claim) GiveUp() bool {
	p := c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(c.work.clients) == 0 && (c.work.state == running || c.work.state == aside) && !c.work.firm && !c.work.yielding {
		p.stats.Abandoned++
		c.work.giveUp()
	}
	return c.work.yielding
}

// Progress says that the work has transferred n more bytes.
func (c *Claim) Progress(n int) {
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	c.work.pace.add(n, c.places.config.Window)
}

// Rest says that the work no longer waits for bytes: its rate is judged as if it had just
// begun.
func (c *Claim) Rest() {
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	c.work.pace.rest()
}

// Firm says that the work is almost done: it no longer yields.
func (c *Claim) Firm() {
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	c.work.firm = true
}
