package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// caller is what a context says of the client that is fetched for, and how it is.
type caller struct {
	client  string
	patient bool
	last    bool // one attempt, which may take long
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

func (c caller) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// WithClient says in the returned context for whom is fetched: the name of a user, or the
// address of a client. It decides how far a failed fetch speaks against an upstream, and
// is sent nowhere.
func WithClient(ctx context.Context, client string) context.Context {
	c := callerOf(ctx)
	c.client = client
	return c.in(ctx)
}

// WithPatience says in the returned context that what is fetched will be of use after
// Budget.Answer too. If that has run out, and nothing else is wrong, the list is walked once
// more, with one attempt for each upstream that is not cut at Budget.FirstByte; it ends
// two seconds before ctx does, and after three minutes in any case. There are eight such attempts at a
// host at a time, four for one client; for more, and while the upstream does not answer
// its probe, fetching ends as without patience.
func WithPatience(ctx context.Context) context.Context {
	c := callerOf(ctx)
	c.patient = true
	return c.in(ctx)
}

const (
	// patience is how long a last attempt may take.
	patience = 3 * time.Minute

	// patienceLeft is what a last attempt leaves of its caller's time, to do something with
	// what has come.
	patienceLeft = 2 * time.Second

	// patienceProof is how old the proof may be that an upstream lives, for which there is a
	// last attempt: the first attempts have caused a probe.
	patienceProof = 30 * time.Second

	// maxPatient is how many last attempts there are at one host at a time, maxPatientFor
	// how many of them for one client.
	maxPatient    = 8
	maxPatientFor = 4

	// slowFor is how long an upstream counts as slow, whose probe, or answer while it
	// counted as slow, took more than Budget.FirstByte.
	slowFor = 10 * time.Minute
)

// lastAttempt returns the context and the deadline for one more attempt, if only time was
// short until now, and the caller has it.
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

// isLate reports whether err is that of a fetch whose time ran out.
func isLate(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.late && !e.remembered
}

// errCrowded is why there is no last attempt.
var errCrowded = errors.New("too many requests wait for this host")

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

// attempts returns how many attempts the caller with ctx has at u. A last one counts
// until leave is called.
func (u *upstream) attempts(ctx context.Context, path string) (n int, leave func(), err error) {
	c := callerOf(ctx)
	if !c.last {
		return u.client.attempts, func() {}, nil
	}
	if u.probe.now(ctx, patienceProof) != alive {
		return 0, nil, u.fail(path, outcomeTimeout, fmt.Errorf("%w: %w", ErrUnavailable, errOpen)).Error
	}
	leave, ok := u.client.patients.enter(u.base.Host, c.client)
	if !ok {
		return 0, nil, u.fail(path, outcomeTimeout, fmt.Errorf("%w: %w", ErrUnavailable, errCrowded)).Error
	}
	return 1, leave, nil
}
