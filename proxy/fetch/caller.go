package fetch

import (
	"context"
	"errors"
	"sync"
	"time"
)

// caller is the information about a fetch, and about its client, that a context carries.
type caller struct {
	client  string
	module  string // whose name the requests send, "" if they send none
	patient bool
	wanted  func() bool // nil: some client waits for it
	giveUp  func() bool // nil: it must not be given up
	last    bool        // a last attempt, which may take long
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

func (c caller) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// WithClient returns a context with the client of the fetch: the name of a user, or an address. The
// circuit breaker counts clients whose fetches got no answer. The name is sent nowhere.
func WithClient(ctx context.Context, client string) context.Context {
	c := callerOf(ctx)
	c.client = client
	return c.in(ctx)
}

// WithModule returns a context for requests that send the name of a module, for Config.Permit.
// Requests for files of a checksum database other than lookups send no name: callers that look up
// different modules share them.
func WithModule(ctx context.Context, modulePath string) context.Context {
	c := callerOf(ctx)
	c.module = modulePath
	return c.in(ctx)
}

// WithPatience returns a context whose fetches are still useful after Budget.Answer. If that has
// run out, and time was the only failure, Fetch walks the list once more, with one attempt for each
// upstream, which does not end at Budget.FirstByte. It ends two seconds before ctx does, and after
// three minutes at most. A host gets at most eight such attempts at a time, four of them for one
// client; beyond that, and while the upstream does not answer its probe, a fetch ends as without
// patience.
func WithPatience(ctx context.Context) context.Context {
	c := callerOf(ctx)
	c.patient = true
	return c.in(ctx)
}

// WhileWanted returns a context for fetches that no client may wait for: wanted says whether one does.
// As long as none does, Fetch makes no last attempt, and what it fails with is not remembered for the
// path, nor counted by the circuit breaker: a client that comes later must get the answer that it would
// have got. If the upstream has asked for fewer requests, Fetch sends it one only if giveUp returns false.
// When giveUp returns true no client waits, and none can come any more.
func WhileWanted(ctx context.Context, wanted, giveUp func() bool) context.Context {
	c := callerOf(ctx)
	c.wanted, c.giveUp = wanted, giveUp
	return c.in(ctx)
}

// firmly returns a context for work that callers share: it is not given up because of one of them.
func firmly(ctx context.Context) context.Context {
	c := callerOf(ctx)
	c.giveUp = nil
	return c.in(ctx)
}

// isWanted reports whether a client waits.
func (c caller) isWanted() bool { return c.wanted == nil || c.wanted() }

// givesUp gives the fetch up if no client waits, and reports whether it does.
func (c caller) givesUp() bool { return c.giveUp != nil && c.giveUp() }

const (
	// patience bounds a last attempt.
	patience = 3 * time.Minute

	// patienceLeft is how much of its caller's time a last attempt leaves for using the fetched
	// object.
	patienceLeft = 2 * time.Second

	// patienceProof is how old the proof may be that an upstream is alive; without it there is no
	// last attempt. The first attempts started a probe.
	patienceProof = 30 * time.Second

	// maxPatient bounds the last attempts at one host at a time, maxPatientFor those of one client.
	maxPatient    = 8
	maxPatientFor = 4

	// slowFor is how long an upstream counts as slow after a slow probe, or after a slow answer
	// while it counts as slow.
	slowFor = 10 * time.Minute
)

// lastAttempt returns the context and the deadline of one more attempt. ok is false unless late,
// which means that time was the only failure, and the caller has time left.
func lastAttempt(ctx context.Context, late bool) (next context.Context, deadline time.Time, ok bool) {
	c := callerOf(ctx)
	if !c.patient || !late || ctx.Err() != nil || !c.isWanted() {
		return nil, deadline, false
	}
	deadline = time.Now().Add(patience)
	if end, ok := ctx.Deadline(); ok && end.Add(-patienceLeft).Before(deadline) {
		deadline = end.Add(-patienceLeft)
	}
	c.last = true
	return c.in(ctx), deadline, time.Now().Before(deadline)
}

// isLate reports whether err means that the time of a fetch ran out.
func isLate(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.late && !e.remembered
}

// untried reports whether err means that a last attempt was not made.
func untried(err error) bool { return errors.Is(err, errCrowded) || errors.Is(err, errOpen) }

// patients counts the last attempts.
type patients struct {
	mu sync.Mutex
	at map[string]map[string]int // by host and client; zeros are removed
}

// enter counts a last attempt at host for client until leave is called. ok is false if there are
// too many.
func (p *patients) enter(host, client string) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := 0
	for _, n := range p.at[host] {
		all += n
	}
	if all >= maxPatient || p.at[host][client] >= maxPatientFor {
		return nil, false
	}
	if p.at == nil {
		p.at = map[string]map[string]int{}
	}
	if p.at[host] == nil {
		p.at[host] = map[string]int{}
	}
	p.at[host][client]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.at[host][client]--; p.at[host][client] == 0 {
			delete(p.at[host], client)
		}
	}, true
}
