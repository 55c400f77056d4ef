// Package places limits how much work runs at the same time, and shares the places fairly
// among the clients of the work.
//
// A claim names its client, module and host. While places are free a claim gets one at
// once. One client, and one site with any number of clients, holds at most three quarters
// of the places, so that the next client finds one. A freed place goes to the waiting
// claim whose client holds the fewest places, then whose site does, then whose module,
// then whose host (max-min fairness); among equals the oldest claim is first. Only while
// claims wait, work yields its place if no client waits for it, or if it makes little
// progress.
//
// The package knows nothing about the work itself: it changes counters and cancels
// contexts.
package places

import (
	"slices"
	"sync"
	"time"
)

// Limits that are not settings.
const (
	// A client may have this many waiting claims for each place, or minQueue if that is
	// more: a fleet of build machines behind one address requests hundreds of objects at
	// once, and the go command does not retry after a refusal.
	queuePerPlace = 8
	minQueue      = 256

	// clientsInQueue is how many clients with full queues fit into the whole queue.
	clientsInQueue = 4

	// review is how often waiting claims look for work that should yield.
	review = time.Second
)

// Places is a number of places. Its methods may be called concurrently.
type Places struct {
	config Config
	share  int // how many places one client may hold
	queue  int // how many claims of one client may wait

	mu      sync.Mutex // guards the fields below, and the claims
	running map[*work]struct{}
	waiting []*work        // oldest first
	held    map[holder]int // places in use, by holder
	queued  map[holder]int // waiting claims, by the client that made them and by its site
	timer   *time.Timer    // of the next review; nil while no claim waits
	stats   Stats
}

// holder is a client, site, module or host for which places are counted.
type holder struct{ kind, name string }

// Stats are counts of one set of places.
type Stats struct {
	Running, Waiting int // now
	Clients          int // requests that wait for work, which is running or waits

	// Claims refused since the start, by reason; see the errors of the same names.
	ClientFull, Full, Late uint64

	// Work that had to yield since the start: because its clients had left, and
	// because it was slow.
	Abandoned, Slow uint64
}

// New makes places; all are free.
func New(c Config) *Places {
	c.N = max(c.N, 1)
	if c.Window <= 0 {
		c.Window = 3 * time.Second
	}
	if c.Site == nil {
		c.Site = func(client string) string { return client }
	}
	return &Places{
		config: c, share: c.N - c.N/4, queue: max(queuePerPlace*c.N, minQueue),
		running: map[*work]struct{}{}, held: map[holder]int{}, queued: map[holder]int{},
	}
}

// Judge changes when work yields, as if Config had patience and window. Call it before
// the first claim.
func (p *Places) Judge(patience, window time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config.Patience, p.config.Window = patience, window
}

// Stats returns the counts.
func (p *Places) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	stats := p.stats
	stats.Running, stats.Waiting = len(p.running), len(p.waiting)
	for w := range p.running {
		stats.Clients += w.requests()
	}
	for _, w := range p.waiting {
		stats.Clients += w.requests()
	}
	return stats
}

// Waits reports whether work waits for a place.
func (p *Places) Waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) > 0
}

// admit gives w a place if one is free and one of its clients may take it.
func (p *Places) admit(w *work) bool {
	client, ok := p.neediest(w)
	if !ok || len(p.running) >= p.config.N {
		return false
	}
	w.state, w.client, w.pace.since = running, client, time.Now()
	p.running[w] = struct{}{}
	p.count(w, 1)
	close(w.ready)
	return true
}

// count adds n to the places of the holders of w.
func (p *Places) count(w *work, n int) {
	for _, h := range []holder{clientHolder(w.client), p.site(w.client), {"module", w.who.Module}, {"host", w.who.Host}} {
		add(p.held, h, n)
	}
}

func clientHolder(client string) holder { return holder{"client", client} }

func (p *Places) site(client string) holder { return holder{"site", p.config.Site(client)} }

// add adds n to one count.
func add(counts map[holder]int, h holder, n int) {
	if counts[h] += n; counts[h] == 0 {
		delete(counts, h)
	}
}

// neediest returns the client of w that holds the fewest places, among equals the one
// whose site does, and whether it may hold one more.
func (p *Places) neediest(w *work) (client string, ok bool) {
	var least [2]int
	for name := range w.clients {
		holds := [2]int{p.held[clientHolder(name)], p.held[p.site(name)]}
		if holds[1] < p.share && (!ok || slices.Compare(holds[:], least[:]) < 0) {
			client, least, ok = name, holds, true
		}
	}
	return client, ok
}

// enqueue lets w wait. If the queue is full, w replaces the newest work of the site with
// the most claims, and there of the client with the most.
func (p *Places) enqueue(w *work) error {
	if p.queued[clientHolder(w.who.Client)] >= p.queue {
		p.stats.ClientFull++
		return ErrClientFull
	}
	if len(p.waiting) >= clientsInQueue*p.queue {
		p.stats.Full++
		longest := p.longest()
		of := clientHolder
		if p.site(longest.who.Client) != p.site(w.who.Client) {
			of = p.site
		}
		if p.queued[of(longest.who.Client)] <= p.queued[of(w.who.Client)]+1 {
			return ErrFull
		}
		p.drop(longest, ErrFull)
	}
	p.waiting = append(p.waiting, w)
	p.countQueued(w, 1)
	return nil
}

// longest returns the newest waiting claim of the client with the most, at the site with
// the most.
func (p *Places) longest() *work {
	var found *work
	var most [2]int
	for _, w := range slices.Backward(p.waiting) {
		queued := [2]int{p.queued[p.site(w.who.Client)], p.queued[clientHolder(w.who.Client)]}
		if found == nil || slices.Compare(queued[:], most[:]) > 0 {
			found, most = w, queued
		}
	}
	return found
}

// countQueued adds n to the waiting claims of the client of w.
func (p *Places) countQueued(w *work, n int) {
	add(p.queued, clientHolder(w.who.Client), n)
	add(p.queued, p.site(w.who.Client), n)
}

// drop ends a waiting claim.
func (p *Places) drop(w *work, why error) {
	p.dequeue(w)
	w.state, w.err = ended, why
	close(w.ready)
}

func (p *Places) dequeue(w *work) {
	at := slices.Index(p.waiting, w)
	p.waiting = slices.Delete(p.waiting, at, at+1)
	p.countQueued(w, -1)
}

// dispatch gives free places to waiting claims.
func (p *Places) dispatch() {
	for len(p.running) < p.config.N {
		var (
			best  *work
			least [4]int
		)
		for _, w := range p.waiting {
			client, ok := p.neediest(w)
			if !ok {
				continue
			}
			holds := [4]int{p.held[clientHolder(client)], p.held[p.site(client)], p.held[holder{"module", w.who.Module}], p.held[holder{"host", w.who.Host}]}
			if best == nil || slices.Compare(holds[:], least[:]) < 0 {
				best, least = w, holds
			}
		}
		if best == nil {
			return
		}
		p.dequeue(best)
		p.admit(best)
	}
}

// review looks for work that should yield, as long as claims wait: running work can
// become slow, or lose its clients, at any time.
func (p *Places) review() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	if len(p.waiting) == 0 {
		return
	}
	p.timer = time.AfterFunc(review, p.review)
	yielding := 0
	for w := range p.running {
		if w.yielding {
			yielding++
		}
	}
	for _, w := range p.waiting[min(yielding, len(p.waiting)):] {
		if !p.makeRoom(w) && p.idle() {
			return
		}
	}
}

// atSite reports whether one of the clients of w is at the site of a client.
func (p *Places) atSite(w *work, client string) bool {
	for name := range w.clients {
		if p.site(name) == p.site(client) {
			return true
		}
	}
	return false
}

// idle reports whether no work could yield to any claim.
func (p *Places) idle() bool {
	now := time.Now()
	for w := range p.running {
		if w.judge(now, p.config).class != keep {
			return false
		}
	}
	return true
}

// makeRoom makes the work with the lowest verdict yield to w, and reports whether there
// was any.
func (p *Places) makeRoom(w *work) bool {
	var (
		victim *work
		worst  verdict
		now    = time.Now()
	)
	client, below := p.neediest(w)
	for v := range p.running {
		if !below && !p.atSite(w, v.client) {
			continue // w's clients have their share: a place of another client does not help
		}
		judged := v.judge(now, p.config)
		if judged.class == sluggish && (!below || p.held[clientHolder(v.client)] <= p.held[clientHolder(client)]) {
			continue
		}
		if judged.class != keep && (victim == nil || judged.before(worst)) {
			victim, worst = v, judged
		}
	}
	if victim == nil {
		return false
	}
	if worst.class == abandoned {
		p.stats.Abandoned++
	} else {
		p.stats.Slow++
	}
	victim.giveUp()
	return true
}
