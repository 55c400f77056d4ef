package fetch

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"
)

// answeredOpen bounds how long the breaker stays open for an upstream that answers its probes with
// an error. An upstream may give that answer to every request for an object that it does not have,
// and a gateway to every path that it does not route. A few requests per minute tell such an
// upstream from one that is down.
const answeredOpen = time.Minute

// States of a breaker, the values of its metric.
const (
	stateClosed   = 0
	stateHalfOpen = 1 // the next probe is due, or running
	stateOpen     = 2
)

// breaker decides whether requests are sent to an upstream.
type breaker struct {
	log        *slog.Logger // names the upstream
	limits     Breaker
	background *background
	probe      *probe
	closed     func() // called, with mu held, when the breaker closes

	mu       sync.Mutex // guards the fields below
	open     bool
	shared   bool      // opened because many fetches failed, although the probe may succeed
	opened   time.Time // when it opened
	refused  time.Time // when it opened, or the last probe since then failed
	window   window
	watching bool // watch is running
}

// newBreaker returns the breaker of an upstream, with its probe. It calls closed when the breaker
// closes.
func newBreaker(at *endpoint, c *client, closed func()) *breaker {
	b := &breaker{log: c.log.With("source", at.label), limits: c.breaker, background: c.background, closed: closed}
	b.window = window{limits: c.breaker, seed: maphash.MakeSeed()}
	b.probe = newProbe(at, c, b.probed)
	return b
}

// allow returns nil if a request may be sent to the upstream; otherwise it returns how long
// requests are refused. If the next probe is due, allow waits a moment for its verdict, so that the
// first clients get responses as soon as the upstream works again.
func (b *breaker) allow(ctx context.Context) (wait time.Duration, err error) {
	if b.state() == stateHalfOpen {
		if running := b.probe.begin(0); running != nil {
			grace := time.NewTimer(b.probe.grace())
			defer grace.Stop()
			select {
			case <-running:
			case <-grace.C:
			case <-ctx.Done():
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return 0, nil
	}
	return max(b.limits.Open-time.Since(b.refused), time.Second), errOpen
}

// state returns the value of the metric.
func (b *breaker) state() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open:
		return stateClosed
	case time.Since(b.refused) >= b.limits.Open:
		return stateHalfOpen
	}
	return stateOpen
}

// note counts a fetch.
func (b *breaker) note(ctx context.Context, path string, lost bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.window.add(callerOf(ctx).client, path, lost)
	if lost && !b.open && b.window.mostLost() {
		b.shared = true
		b.trip("too many requests got no answer")
	}
}

// probed updates the breaker after a probe.
func (b *breaker) probed(found finding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case found.verdict == dead && !b.open:
		b.trip("a probe got no answer")
	case found.verdict == dead && found.status != 0 && time.Since(b.opened) >= answeredOpen:
		b.probe.doubt(found.status)
		b.close("probes get only errors; clients may get more")
	case found.verdict == dead:
		b.refused = time.Now()
	case found.verdict == alive && b.open && (!b.shared || time.Since(b.refused) >= b.limits.Open):
		b.close("a probe was answered")
	}
}

// trip opens the breaker. The caller holds b.mu.
func (b *breaker) trip(why string) {
	b.open, b.opened, b.refused = true, time.Now(), time.Now()
	b.watching = b.watching || b.background.start(b.watch)
	b.log.Warn("circuit breaker of upstream opened", "why", why)
}

// close closes the breaker and forgets the fetches of the outage. The caller holds b.mu.
func (b *breaker) close(why string) {
	b.open, b.shared = false, false
	b.window.clear()
	b.closed()
	b.log.Warn("circuit breaker of upstream closed", "why", why, "open_s", time.Since(b.opened).Seconds())
}

// watch probes the upstream until the breaker closes, with or without requests of clients, so that
// no client's request has to test whether the upstream works again.
func (b *breaker) watch(ctx context.Context) {
	for {
		b.mu.Lock()
		b.watching = b.open
		open, due := b.open, b.limits.Open-time.Since(b.refused)
		b.mu.Unlock()
		if !open || due > 0 && !sleep(ctx, due) {
			return
		}
		running := b.probe.begin(0)
		if running == nil {
			return // the chain is closed
		}
		<-running
		if b.state() == stateHalfOpen && !sleep(ctx, b.limits.Open) { // unknown: this machine could not connect
			return
		}
	}
}
