package fetch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// probeTimes is how many times Budget.FirstByte a probe has: an upstream that takes 9 s
	// for every answer lives, and a caller that waits for one that hangs knows before Budget.Answer
	// is over.
	probeTimes = 2

	// probeFresh is how long the verdict of a probe counts as how the upstream is now.
	probeFresh = 3 * time.Second

	// probeStale is how long the last verdict is good enough while the next probe is
	// under way for longer than probeGrace: an upstream that hangs keeps each probe for long,
	// and callers need not wait for the same again.
	probeStale = time.Minute
	probeGrace = time.Second

	// lifeFresh is how old an answer to a client's request may be to speak for an
	// upstream that says 500 to its probe.
	lifeFresh = 10 * time.Second
)

// verdict is what a probe has found.
type verdict int

const (
	unknown verdict = iota // never asked, or we could not ask
	alive
	dead
)

// probe asks one upstream whether it lives, with a request that no client has chosen: for
// the name of the checksum database, else for its root. Any answer below 500 is life.
// There is at most one request at a time, and one verdict for all who want it.
type probe struct {
	u     *upstream
	paths []string // asked in this order until one is answered well

	mu      sync.Mutex    // guards what follows
	running chan struct{} // closed when the probe under way has ended; nil: none
	began   time.Time     // when that one, or the last one, began
	ended   time.Time     // when the last one ended
	last    verdict       // of it
	status  int           // that it came to, 0 for none
	late    bool          // its time ran out
	normal  int           // a status that the probe has when clients are answered; 0: none
	doubted int           // a status of the probe that may be normal; 0: none
	since   time.Time     // when that was doubted
	lived   time.Time     // when a client's request was last answered below 500
	slow    time.Time     // until when the upstream counts as slow
}

func newProbe(u *upstream, database string) *probe {
	p := &probe{u: u}
	if database != "" {
		p.paths = append(p.paths, "sumdb/"+database+"/supported")
	}
	p.paths = append(p.paths, "")
	return p
}

// begin makes sure that there is a verdict of the last age, or a probe under way. It
// returns what is closed when that one has ended, nil if the verdict is there.
func (p *probe) begin(age time.Duration) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.running != nil:
		return p.running
	case p.last != unknown && time.Since(p.ended) < age:
		return nil
	}
	running := make(chan struct{})
	if !p.u.client.background(func(ctx context.Context) { p.run(ctx, running) }) {
		return nil
	}
	p.running, p.began = running, time.Now()
	return running
}

// run asks the upstream, and keeps the verdict.
func (p *probe) run(ctx context.Context, running chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, probeTimes*p.u.client.budget.FirstByte)
	defer cancel()
	found, status, late := p.ask(ctx)

	p.mu.Lock()
	found = p.judge(found, status)
	if found != unknown {
		p.last, p.ended, p.status, p.late = found, time.Now(), status, late
	}
	if found == alive && p.isLong(time.Since(p.began)) {
		p.slow = time.Now().Add(slowFor)
	}
	p.mu.Unlock()
	p.u.breaker.probed(found, status)
	p.mu.Lock()
	p.running = nil
	p.mu.Unlock()
	close(running)
}

// ask sends a request for each path until one is answered below 500. The status is that
// of the last answer, if it is the last thing that happened; late says that time ran out.
func (p *probe) ask(ctx context.Context) (found verdict, status int, late bool) {
	for _, path := range p.paths {
		code, err := p.send(ctx, path)
		switch {
		case err == nil && code < http.StatusInternalServerError:
			return alive, code, false
		case err == nil:
			found, status, late = dead, code, false
		case isOurs(err), errors.Is(context.Cause(ctx), context.Canceled):
			return unknown, 0, false
		default:
			var network net.Error
			found, status, late = dead, 0, errors.As(err, &network) && network.Timeout()
		}
	}
	return found, status, late
}

// timedOut reports whether the last probe failed because its time ran out.
func (p *probe) timedOut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last == dead && p.late
}

// judge returns what the answers to clients make of a verdict. There are upstreams that
// say 500 to whatever they do not have, and so to every probe; that they answer clients
// is the better proof of life. The statuses of a gateway whose upstream is gone (502, 503,
// 504) are taken for that only if the probe has had no other for as long as the breaker was
// open, and then clients were answered all the same. The caller holds p.mu.
func (p *probe) judge(found verdict, status int) verdict {
	if found == alive {
		p.normal, p.doubted = 0, 0
	}
	if found != dead {
		return found
	}
	if p.lived.After(p.began) {
		found = alive // in the meantime
	}
	if status == 0 {
		return found
	}
	if time.Since(p.lived) < lifeFresh && !p.lived.IsZero() && (isHabit(status) || status == p.doubted && p.lived.After(p.since)) {
		p.normal = status
	}
	if status == p.normal {
		return alive
	}
	return found
}

// doubt notes that nothing but status was the answer to probes for so long that the
// upstream is used again to see whether it answers clients.
func (p *probe) doubt(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubted, p.since = status, time.Now()
}

// isHabit reports whether status may be what an upstream says to whatever it does not have.
func isHabit(status int) bool {
	return status == http.StatusInternalServerError || status == http.StatusNotImplemented
}

// send asks for path over a connection of its own: one that is there may be dead.
func (p *probe) send(ctx context.Context, path string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.u.url(path).String(), nil)
	if err != nil {
		return 0, err
	}
	req.Header = p.u.client.header.Clone()
	if p.u.authorization != "" {
		req.Header.Set("Authorization", p.u.authorization)
	}
	resp, err := p.u.client.transports.fresh.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close() // the status says it
	return resp.StatusCode, nil
}

// isLong reports whether an upstream that took so long to answer is a slow one.
func (p *probe) isLong(took time.Duration) bool { return took > p.u.client.budget.FirstByte*3/4 }

// isSlow reports whether the upstream is well but slow, so that attempts are not to be cut
// at Budget.FirstByte. It is the probe that says so, and not what a client asked for.
func (p *probe) isSlow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.slow)
}

// noteLife notes that a client's request was answered below 500, after a time.
func (p *probe) noteLife(took time.Duration) {
	p.mu.Lock()
	p.lived = time.Now()
	if p.lived.Before(p.slow) && p.isLong(took) {
		p.slow = p.lived.Add(slowFor)
	}
	strange := p.last == dead && p.status != 0
	p.mu.Unlock()
	if strange { // the probe says one thing and the clients another: find out
		p.begin(probeFresh)
	}
}

// now returns whether the upstream lives now. It waits for a probe if there is no verdict
// of the last age, until ctx ends at most; that is unknown then.
func (p *probe) now(ctx context.Context, age time.Duration) verdict {
	if p.verdict(age) == alive {
		return alive
	}
	running := p.begin(age)
	if running == nil {
		return p.verdict(age)
	}
	grace := time.NewTicker(probeGrace)
	defer grace.Stop()
	for !p.stillDead() {
		select {
		case <-running:
			return p.verdict(age)
		case <-grace.C:
		case <-ctx.Done():
			return unknown
		}
	}
	return dead
}

// verdict returns that of the last probe, if it has ended within age.
func (p *probe) verdict(age time.Duration) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.ended) > age {
		return unknown
	}
	return p.last
}

// stillDead reports whether the last probe failed a moment ago, and the one that is under
// way, for a while, was not answered either.
func (p *probe) stillDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last == dead && time.Since(p.ended) < probeStale && time.Since(p.began) >= probeGrace
}

// grace returns how long a request waits at most for the probe that is under way.
func (p *probe) grace() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return probeGrace - time.Since(p.began)
}

// isOurs reports whether err, of connecting, says something about this machine, and
// nothing about the upstream.
func isOurs(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// Unreachable reports whether every upstream of the list that could answer fails its
// neutral probe now: it does not connect, does not answer within twice Budget.FirstByte,
// or answers 500 or above, to what no client has chosen. What stands behind off cannot
// answer. It is false if the list has direct in it, if it is only off, and whenever it is
// not known: ctx has ended, or this machine could not ask. A circuit breaker does not
// matter here.
//
// A verdict is shared by all callers for 3 s. A call takes as long as a probe at most.
func (c *Chain) Unreachable(ctx context.Context) bool {
	origins := c.reached()
	if len(origins) == 0 {
		return false
	}
	found := make(chan bool, len(origins))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, o := range origins {
		go func() { found <- o.unreachable(ctx) }()
	}
	for range origins {
		if !<-found {
			return false
		}
	}
	return true
}

// reached returns what a walk through the list may come to, nothing if that is direct.
func (c *Chain) reached() []origin {
	var origins []origin
	for _, e := range c.entries {
		switch {
		case e.direct:
			return nil
		case e.origin == nil:
			return origins
		}
		origins = append(origins, e.origin)
	}
	return origins
}

func (u *upstream) unreachable(ctx context.Context) bool { return u.probe.now(ctx, probeFresh) == dead }

// unreachable reports whether the root of the tree cannot be opened.
func (d *directory) unreachable(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	root, err := os.OpenRoot(d.root)
	if err != nil {
		return !isOurs(err)
	}
	_ = root.Close() // nothing was written
	return false
}
