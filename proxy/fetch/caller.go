package fetch

import (
	"context"
	"errors"
	"sync"
	"time"
)

// caller is what a context says about the client of a fetch.
type caller struct {
	client  string
	patient bool
	last    bool // it has one attempt, which may take long
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

func (c caller) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// WithClient returns a context with the client of the fetch: the name of a user, or an
// address. The circuit breaker counts clients that lost their fetches. The name is sent
// nowhere.
func WithClient(ctx context.Context, client string) context.Context {
	c := callerOf(ctx)
	c.client = client
	return c.in(ctx)
}

// WithPatience returns a context whose fetches are useful after Budget.Answer, too. If
// that has run out, and time was the only failure, the list is walked once more, with one
// attempt for each upstream, which does not end at Budget.FirstByte. It ends two seconds
// before ctx does, and after three minutes at most. A host has eight such attempts at a
// time, four of them for one client; beyond that, and while the upstream does not answer
// its probe, a fetch ends as without patience.
func WithPatience(ctx context.Context) context.Context {
	c := callerOf(ctx)
	c.patient = true
	return c.in(ctx)
}

const (
	// patience is how long a last attempt may take.
	patience = 3 * time.Minute

	// patienceLeft is how much of its caller's time a last attempt leaves for the use of
	// what it fetched.
	patienceLeft = 2 * time.Second

	// patienceProof is how old the proof may be that an upstream is alive, without which
	// there is no last attempt. The first attempts caused a probe.
	patienceProof = 30 * time.Second

	// maxPatient is how many last attempts there are at one host at a time, maxPatientFor
	// how many of them for one client.
	maxPatient    = 8
	maxPatientFor = 4

	// slowFor is how long an upstream counts as slow after a slow probe, or a slow answer
	// while it counts as slow.
	slowFor = 10 * time.Minute
)

// lastAttempt returns the context and the deadline of one more attempt, if late says that
// time was the only failure, and the caller has time left.
func lastAttempt(ctx context.Context, late bool) (next context.Context, deadline time.Time, ok bool) {
	c := callerOf(ctx)
	if !c.patient || !late || ctx.Err() != nil {
		return nil, deadline, false
	}
	deadline = time.Now().Add(patience)
	if end, ok := ctx.Deadline(); ok && end.Add(-patienceLeft).Before(deadline) {
		deadline = end.Add(-patienceLeft)
	}
	c.last = true
	return c.in(ctx), deadline, time.Now().Before(deadline)
}

// isLate reports whether err says that the time of a fetch ran out.
func isLate(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.late && !e.remembered
}

// untried reports whether err says that a last attempt was not made.
func untried(err error) bool { return errors.Is(err, errCrowded) || errors.Is(err, errOpen) }

// patients counts last attempts.
type patients struct {
	mu sync.Mutex
	at map[string]map[string]int // by host and client; none is 0
}

// enter counts a last attempt at host for client until leave is called, if there may be
// one more.
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
