package fetch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// probeTimes times Budget.FirstByte is the time of a probe. An upstream that takes 9 s for
	// every answer is alive, and a caller of one that hangs gets the verdict before Budget.Answer
	// is over.
	probeTimes = 2

	// probeFresh is how long the verdict of a probe is valid.
	probeFresh = 3 * time.Second

	// probeStale is how old the last verdict may be while the next probe takes longer than
	// probeGrace: an upstream that hangs delays each probe, and callers need not wait for the same
	// verdict again.
	probeStale = time.Minute
	probeGrace = time.Second
)

// probe finds out whether an upstream is alive, by a request that no client has chosen: for the
// name of the checksum database, or else for the root. Any answer below 500 means alive. There is
// at most one request at a time, and all callers share its verdict.
type probe struct {
	at     *endpoint
	client *client
	paths  []string            // requested in this order until one has a good answer
	report func(found finding) // called with each verdict

	mu      sync.Mutex    // guards what follows
	running chan struct{} // closed when the running probe has ended; nil: none
	began   time.Time     // when the running or last one began
	ended   time.Time     // when the last one ended
	last    finding       // of it
	habit   habit
	slow    time.Time // until when the upstream counts as slow
}

func newProbe(at *endpoint, c *client, report func(found finding)) *probe {
	p := &probe{at: at, client: c, report: report}
	if c.database != "" {
		p.paths = append(p.paths, "sumdb/"+c.database+"/supported")
	}
	p.paths = append(p.paths, "")
	return p
}

// begin starts a probe unless one is running or there is a verdict not older than age. It returns a
// channel that is closed when the probe has ended, nil if there is a verdict or the chain is
// closed.
func (p *probe) begin(age time.Duration) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.running != nil:
		return p.running
	case p.last.verdict != unknown && time.Since(p.ended) < age:
		return nil
	}
	running := make(chan struct{})
	if !p.client.background.start(func(ctx context.Context) { p.run(ctx, running) }) {
		return nil
	}
	p.running, p.began = running, time.Now()
	return running
}

// run probes the upstream, and keeps and reports the verdict.
func (p *probe) run(ctx context.Context, running chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, probeTimes*p.client.budget.FirstByte)
	defer cancel()
	found := p.ask(ctx)

	p.mu.Lock()
	found.verdict = p.habit.judge(found, p.began)
	if found.verdict != unknown {
		p.last, p.ended = found, time.Now()
	}
	if found.verdict == alive && p.isLong(time.Since(p.began)) {
		p.slow = time.Now().Add(slowFor)
	}
	p.mu.Unlock()
	p.report(found)
	p.mu.Lock()
	p.running = nil
	p.mu.Unlock()
	close(running)
}

// ask sends a request for each path until one is answered below 500.
func (p *probe) ask(ctx context.Context) (found finding) {
	for _, path := range p.paths {
		status, err := p.send(ctx, path)
		switch {
		case err == nil && status < http.StatusInternalServerError:
			return finding{verdict: alive, status: status}
		case err == nil:
			found = finding{verdict: dead, status: status}
		case isOurs(err), errors.Is(context.Cause(ctx), context.Canceled):
			return finding{}
		default:
			var network net.Error
			found = finding{verdict: dead, late: errors.As(err, &network) && network.Timeout()}
		}
	}
	return found
}

// send requests path over a separate connection: an idle one may be dead.
func (p *probe) send(ctx context.Context, path string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.at.url(path).String(), nil)
	if err != nil {
		return 0, err
	}
	req.Header = p.client.header.Clone()
	if p.at.authorization != "" {
		req.Header.Set("Authorization", p.at.authorization)
	}
	resp, err := p.client.transports.fresh.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close() // the status is enough
	return resp.StatusCode, nil
}

// timedOut reports whether the last probe failed because its time ran out.
func (p *probe) timedOut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.verdict == dead && p.last.late
}

// doubt notes that probes got only this status for a long time, see habit.
func (p *probe) doubt(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.habit.doubt(status)
}

// isLong reports whether an upstream is slow that takes so long to answer.
func (p *probe) isLong(took time.Duration) bool { return took > p.client.budget.FirstByte*3/4 }

// isSlow reports whether the upstream is alive but slow, so that attempts do not end at
// Budget.FirstByte. The probe decides it, not the request of a client.
func (p *probe) isSlow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.slow)
}

// noteAnswer notes that a client's request was answered below 500, after a time.
func (p *probe) noteAnswer(took time.Duration) {
	p.mu.Lock()
	now := time.Now()
	p.habit.lived = now
	if now.Before(p.slow) && p.isLong(took) {
		p.slow = now.Add(slowFor)
	}
	contradicts := p.last.verdict == dead && p.last.status != 0
	p.mu.Unlock()
	if contradicts { // the probe got an error, and a client did not
		p.begin(probeFresh)
	}
}

// now returns whether the upstream is alive. Without a verdict not older than age it waits
// for a probe, until ctx ends at most; then the verdict is unknown.
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
	return p.last.verdict
}

// stillDead reports whether the last probe failed recently, and the running one has had no answer
// for a while either.
func (p *probe) stillDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.verdict == dead && time.Since(p.ended) < probeStale && time.Since(p.began) >= probeGrace
}

// grace returns how long a request waits at most for the running probe.
func (p *probe) grace() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return probeGrace - time.Since(p.began)
}
