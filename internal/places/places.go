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
	"errors"
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

	// Work that transfers fewer than crawl bytes per second yields to every claim; below
	// slow it yields to claims of clients that hold fewer places. A link of 500 kB/s that
	// is shared by sixteen transfers is not slow.
	crawl = 4 << 10
	slow  = 32 << 10

	// review is how often waiting claims look for work that should yield.
	review = time.Second
)

// Errors of claims. All are temporary: the same claim may succeed a little later.
var (
	// ErrClientFull says that the client may have no more waiting claims.
	ErrClientFull = errors.New("the client has too many claims waiting")

	// ErrFull says that too many claims of all clients are waiting.
	ErrFull = errors.New("too many claims are waiting")

	// ErrLate says that no place became free in time.
	ErrLate = errors.New("no place became free in time")

	// ErrYielded is the cause of the context of work that must give up its place.
	ErrYielded = errors.New("gave its place to others")

	// ErrLeft says that a waiting claim was dropped because its clients have left.
	ErrLeft = errors.New("no client waits any more")
)

// Config says how many places there are and when work yields.
type Config struct {
	// N is the number of places; at least 1.
	N int

	// Patience is how long work without any progress keeps its place while claims wait.
	// 0: as long as a client waits for it.
	Patience time.Duration

	// Site returns the site of a client. A site has the limits of one client, because a
	// customer of a provider can make any number of clients. Default: each client is a
	// site of its own.
	Site func(client string) string

	// Window is the time over which the rate of progress is measured. Work is not judged
	// before it has passed. Default 3 s.
	Window time.Duration
}

// Places is a number of places. Its methods may be called concurrently.
type Places struct {
	config Config
	share  int // how many places one client may hold
	queue  int // how many claims of one client may wait

	mu      sync.Mutex // guards the fields below, and the claims
	running map[*Claim]struct{}
	waiting []*Claim       // oldest first
	held    map[holder]int // places in use, by holder
	queued  map[holder]int // waiting claims, by the client that made them and by its site
	timer   *time.Timer    // of the next review; nil while no claim waits
	stats   Stats
}

// holder is a client, site, module or host for which places are counted.
type holder struct{ kind, name string }

// For says for what a claim is made.
type For struct {
	Client string // of the work
	Module string
	Host   string // of the module
}

// Stats are counts of one set of places.
type Stats struct {
	Running, Waiting int // now

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
		running: map[*Claim]struct{}{}, held: map[holder]int{}, queued: map[holder]int{},
	}
}

// Judge changes when work yields, as if Config had patience and window. Call it before
// the first claim.
func (p *Places) Judge(patience, window time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config.Patience, p.config.Window = patience, window
}

// Claim claims a place. The claim gets one at once, or waits, see Take. The caller must
// call Release. The error is ErrClientFull or ErrFull.
func (p *Places) Claim(who For) (*Claim, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &Claim{places: p, who: who, ready: make(chan struct{}), clients: map[string]int{who.Client: 1}}
	if p.admit(c) {
		return c, nil
	}
	if err := p.enqueue(c); err != nil {
		return nil, err
	}
	p.makeRoom(c)
	if p.timer == nil {
		p.timer = time.AfterFunc(review, p.review)
	}
	return c, nil
}

// Stats returns the counts.
func (p *Places) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	stats := p.stats
	stats.Running, stats.Waiting = len(p.running), len(p.waiting)
	return stats
}

// admit gives c a place if one is free and one of its clients may take it.
func (p *Places) admit(c *Claim) bool {
	client, ok := p.neediest(c)
	if !ok || len(p.running) >= p.config.N {
		return false
	}
	c.state, c.client, c.since = running, client, time.Now()
	p.running[c] = struct{}{}
	p.count(c, 1)
	close(c.ready)
	return true
}

// count adds n to the places of the holders of c.
func (p *Places) count(c *Claim, n int) {
	for _, h := range []holder{clientHolder(c.client), p.site(c.client), {"module", c.who.Module}, {"host", c.who.Host}} {
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

// neediest returns the client of c that holds the fewest places, among equals the one
// whose site does, and whether it may hold one more.
func (p *Places) neediest(c *Claim) (client string, ok bool) {
	var least [2]int
	for name := range c.clients {
		holds := [2]int{p.held[clientHolder(name)], p.held[p.site(name)]}
		if holds[1] < p.share && (!ok || slices.Compare(holds[:], least[:]) < 0) {
			client, least, ok = name, holds, true
		}
	}
	return client, ok
}

// enqueue lets c wait. If the queue is full, c replaces the newest claim of the site with
// the most claims, and there of the client with the most.
func (p *Places) enqueue(c *Claim) error {
	if p.queued[clientHolder(c.who.Client)] >= p.queue {
		p.stats.ClientFull++
		return ErrClientFull
	}
	if len(p.waiting) >= clientsInQueue*p.queue {
		p.stats.Full++
		longest := p.longest()
		of := clientHolder
		if p.site(longest.who.Client) != p.site(c.who.Client) {
			of = p.site
		}
		if p.queued[of(longest.who.Client)] <= p.queued[of(c.who.Client)]+1 {
			return ErrFull
		}
		p.drop(longest, ErrFull)
	}
	p.waiting = append(p.waiting, c)
	p.countQueued(c, 1)
	return nil
}

// longest returns the newest waiting claim of the client with the most, at the site with
// the most.
func (p *Places) longest() *Claim {
	var found *Claim
	var most [2]int
	for _, c := range slices.Backward(p.waiting) {
		queued := [2]int{p.queued[p.site(c.who.Client)], p.queued[clientHolder(c.who.Client)]}
		if found == nil || slices.Compare(queued[:], most[:]) > 0 {
			found, most = c, queued
		}
	}
	return found
}

// countQueued adds n to the waiting claims of the client of c.
func (p *Places) countQueued(c *Claim, n int) {
	add(p.queued, clientHolder(c.who.Client), n)
	add(p.queued, p.site(c.who.Client), n)
}

// drop ends a waiting claim.
func (p *Places) drop(c *Claim, why error) {
	p.dequeue(c)
	c.state, c.err = ended, why
	close(c.ready)
}

func (p *Places) dequeue(c *Claim) {
	at := slices.Index(p.waiting, c)
	p.waiting = slices.Delete(p.waiting, at, at+1)
	p.countQueued(c, -1)
}

// dispatch gives free places to waiting claims.
func (p *Places) dispatch() {
	for len(p.running) < p.config.N {
		var (
			best  *Claim
			least [4]int
		)
		for _, c := range p.waiting {
			client, ok := p.neediest(c)
			if !ok {
				continue
			}
			holds := [4]int{p.held[clientHolder(client)], p.held[p.site(client)], p.held[holder{"module", c.who.Module}], p.held[holder{"host", c.who.Host}]}
			if best == nil || slices.Compare(holds[:], least[:]) < 0 {
				best, least = c, holds
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
	for c := range p.running {
		if c.yielding {
			yielding++
		}
	}
	for _, c := range p.waiting[min(yielding, len(p.waiting)):] {
		if !p.makeRoom(c) && p.idle() {
			return
		}
	}
}

// atSite reports whether one of the clients of c is at the site of a client.
func (p *Places) atSite(c *Claim, client string) bool {
	for name := range c.clients {
		if p.site(name) == p.site(client) {
			return true
		}
	}
	return false
}

// idle reports whether no work could yield to any claim.
func (p *Places) idle() bool {
	now := time.Now()
	for c := range p.running {
		if c.judge(now).class != keep {
			return false
		}
	}
	return true
}

// makeRoom makes the work with the lowest verdict yield to c, and reports whether there
// was any.
func (p *Places) makeRoom(c *Claim) bool {
	var (
		victim *Claim
		worst  verdict
		now    = time.Now()
	)
	client, below := p.neediest(c)
	for v := range p.running {
		if !below && !p.atSite(c, v.client) {
			continue // c's clients have their share: a place of another client does not help
		}
		judged := v.judge(now)
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
