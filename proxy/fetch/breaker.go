package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// Breaker says when an upstream is not asked any more. Zero means the default.
//
// A failed fetch never opens the breaker of an upstream: what is asked for is chosen by
// clients. It causes a neutral probe, and the breaker opens if that fails too; or if so
// many fetches, of many modules and for many clients, get no answer that it cannot be the
// choice of one of them. It closes when a probe succeeds.
type Breaker struct {
	Share   int           // percent of the last fetches that get no answer; 50
	Window  int           // how many the last ones are, at most; 100
	Minimum int           // of so many different modules at least; 20
	Open    time.Duration // from one probe to the next; 5 s
}

func (b Breaker) withDefaults() Breaker {
	for _, n := range []struct {
		field *int
		value int
	}{{&b.Share, 50}, {&b.Window, 100}, {&b.Minimum, 20}} {
		if *n.field <= 0 {
			*n.field = n.value
		}
	}
	if b.Open <= 0 {
		b.Open = 5 * time.Second
	}
	return b
}

const (
	// breakerClients is how many clients must have had no answer.
	breakerClients = 3

	// answeredOpen bounds how long the breaker stays open for an upstream that answers
	// its probes with an error: it may say that to whatever it does not have, and a
	// gateway to what it does not route. A few requests in a minute show it.
	answeredOpen = time.Minute
)

// States of a breaker, the values of its metric.
const (
	stateClosed   = 0
	stateHalfOpen = 1 // the next probe is due, or under way
	stateOpen     = 2
)

// errOpen is why a fetch is refused.
var errOpen = errors.New("its circuit breaker is open: recent requests got no answer")

// breaker decides whether an upstream is asked at all.
type breaker struct {
	u    *upstream
	seed maphash.Seed

	mu      sync.Mutex // guards what follows
	open    bool
	shared  bool      // opened because many fetches failed, though the probe may succeed
	opened  time.Time // when
	refused time.Time // when it was opened, or the last probe since failed
	last    []fetched // a ring
	next    int       // in last

	watching bool // watch runs
}

// fetched is what the breaker keeps of a fetch.
type fetched struct {
	client, module uint64 // hashes
	lost           bool   // it got no answer
}

func newBreaker(u *upstream) *breaker { return &breaker{u: u, seed: maphash.MakeSeed()} }

func (b *breaker) config() Breaker { return b.u.client.breaker }

// allow returns nil if the upstream may be asked, else how long it may not. Where the
// next probe is due it waits for the outcome a moment, so that an upstream which is well
// again is not refused to those who come first.
func (b *breaker) allow(ctx context.Context) (wait time.Duration, err error) {
	if b.state() == stateHalfOpen {
		if running := b.u.probe.begin(0); running != nil {
			grace := time.NewTimer(b.u.probe.grace())
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
	return max(b.config().Open-time.Since(b.refused), time.Second), errOpen
}

// state returns the value of the metric.
func (b *breaker) state() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open:
		return stateClosed
	case time.Since(b.refused) >= b.config().Open:
		return stateHalfOpen
	}
	return stateOpen
}

// note counts a fetch.
func (b *breaker) note(ctx context.Context, path string, lost bool) {
	f := fetched{maphash.String(b.seed, callerOf(ctx).client), maphash.String(b.seed, moduleOf(path)), lost}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.last) < b.config().Window {
		b.last = append(b.last, f)
	} else {
		b.last[b.next%len(b.last)] = f
		b.next++
	}
	if lost && !b.open && b.mostLost() {
		b.shared = true
		b.trip("too many requests got no answer")
	}
}

// mostLost reports whether so many of the last fetches got no answer, for so many clients
// and modules, that it is the upstream. One client can choose all modules and fill the
// window, so it has one voice only: most clients must have lost most of theirs. The
// caller holds b.mu.
func (b *breaker) mostLost() bool {
	type count struct{ lost, all int }
	var total count
	clients, modules := map[uint64]count{}, map[uint64]struct{}{}
	for _, f := range b.last {
		n := clients[f.client]
		n.all, total.all = n.all+1, total.all+1
		if f.lost {
			n.lost, total.lost = n.lost+1, total.lost+1
			modules[f.module] = struct{}{}
		}
		clients[f.client] = n
	}
	voices := 0
	most := func(lost, all int) bool { return lost*100 >= b.config().Share*all }
	for _, n := range clients {
		if most(n.lost, n.all) {
			voices++
		}
	}
	return most(total.lost, total.all) && len(modules) >= b.config().Minimum &&
		voices >= breakerClients && most(voices, len(clients))
}

// probed tells the breaker what a probe has found, and the status that it came to.
func (b *breaker) probed(found verdict, status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case found == dead && !b.open:
		b.trip("a probe got no answer")
	case found == dead && status != 0 && time.Since(b.opened) >= answeredOpen:
		b.u.probe.doubt(status)
		b.close("probes get only errors; clients may get more")
	case found == dead:
		b.refused = time.Now()
	case found == alive && b.open && (!b.shared || time.Since(b.refused) >= b.config().Open):
		b.close("a probe was answered")
	}
}

// trip opens the breaker. The caller holds b.mu.
func (b *breaker) trip(why string) {
	b.open, b.opened, b.refused = true, time.Now(), time.Now()
	b.watching = b.watching || b.u.client.background(b.watch)
	b.u.client.log.Warn("circuit breaker of upstream opened", "source", b.u.label, "why", why)
}

// close closes the breaker and forgets what was noted while the upstream was not well.
// The caller holds b.mu.
func (b *breaker) close(why string) {
	b.open, b.shared, b.last, b.next = false, false, nil, 0
	b.u.failures.clear()
	b.u.client.log.Warn("circuit breaker of upstream closed", "source", b.u.label, "why", why, "open_s", time.Since(b.opened).Seconds())
}

// watch probes the upstream until the breaker closes, whether anything is asked for or
// not: no client is to find out at its own cost that the upstream is well again.
func (b *breaker) watch(ctx context.Context) {
	for {
		b.mu.Lock()
		b.watching = b.open
		open, due := b.open, b.config().Open-time.Since(b.refused)
		b.mu.Unlock()
		if !open || due > 0 && !sleep(ctx, due) {
			return
		}
		running := b.u.probe.begin(0)
		if running == nil {
			return // the chain is closed
		}
		<-running
		if b.state() == stateHalfOpen && !sleep(ctx, b.config().Open) { // this machine could not ask
			return
		}
	}
}

// moduleOf returns the module that path names, or path if it names none.
func moduleOf(path string) string {
	if _, lookup, ok := strings.Cut(path, "lookup/"); ok {
		path = lookup
	}
	module, _, _ := strings.Cut(path, "/@")
	module, _, _ = strings.Cut(module, "@")
	return module
}

// refuse returns why path is not asked for now, nil if it may be: the breaker is open, or
// it failed a moment ago.
func (u *upstream) refuse(ctx context.Context, path string) error {
	if wait, err := u.breaker.allow(ctx); err != nil {
		u.client.metrics.count(u.label, outcomeOpen, time.Now())
		f := u.fail(path, outcomeOpen, fmt.Errorf("%w: %w", ErrUnavailable, err))
		if u.probe.timedOut() {
			f.Err = fmt.Errorf("%w: %w: %w", ErrUnavailable, context.DeadlineExceeded, err)
		}
		f.RetryAfter = wait
		return f.Error
	}
	if err := u.failures.find(path); err != nil && !callerOf(ctx).last {
		u.client.metrics.count(u.label, outcomeRemembered, time.Now())
		return err
	}
	return nil
}

// note draws the consequences of how the fetch of path has ended; nil is well.
func (u *upstream) note(ctx context.Context, path string, f *failure) {
	if f == nil || !f.blame {
		u.failures.forget(path)
		u.breaker.note(ctx, path, false)
		return
	}
	u.failures.note(path, f.Error)
	u.breaker.note(ctx, path, f.lost)
	u.probe.begin(probeFresh)
}
