package vcs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// A host that hangs keeps each of its commands for as long as one may take. So that it
// does not occupy all places, the commands that run at the same time are bounded for each
// host, too: for the host of a repository, and less tightly for the host in the module
// path, whose page may name others. A page is read before that, without a place. Public
// modules leave a place to private ones. Lists have separate places from downloads, which
// may take minutes.

// maxAtHost is how many runs there may be at one host, including waiting ones. It is
// below the number that the proxy lets wait for all repositories: otherwise a host that
// hangs would block all others.
const maxAtHost = 192

// maxForClient is how many of them may be for one client, so that there is room for others.
const maxForClient = maxAtHost * 3 / 4

// clientKey is the key of a context's client.
type clientKey struct{}

// WithClient returns a context with the client of a fetch. At a host one client has three
// quarters of the queue, and a place goes to the client that has the fewest. A fetch
// without a client counts for none.
func WithClient(ctx context.Context, client string) context.Context {
	return context.WithValue(ctx, clientKey{}, client)
}

func clientOf(ctx context.Context) string {
	client, _ := ctx.Value(clientKey{}).(string)
	return client
}

// ErrBusy says that the queue for a host is full: one more run would not get a place in time.
var ErrBusy = errors.New("too many fetches are queued for this host")

// hostLimit counts the current runs at each host, and those for each client there.
type hostLimit struct {
	mu sync.Mutex
	at map[hostClient]int
}

// hostClient is a host and a client; "" is all clients.
type hostClient struct{ host, client string }

// enter counts one more at host, for the client of ctx, until leave is called.
func (l *hostLimit) enter(ctx context.Context, host string) (leave func(), err error) {
	all, mine := hostClient{host: host}, hostClient{host, clientOf(ctx)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at[all] >= maxAtHost || mine != all && l.at[mine] >= maxForClient {
		return nil, &guard.HostError{Host: host, Err: ErrBusy}
	}
	l.count(all, 1)
	if mine != all {
		l.count(mine, 1)
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.count(all, -1)
		if mine != all {
			l.count(mine, -1)
		}
	}, nil
}

// count adds n to the count of key. The caller holds l.mu.
func (l *hostLimit) count(key hostClient, n int) {
	if l.at == nil {
		l.at = map[hostClient]int{}
	}
	if l.at[key] += n; l.at[key] == 0 {
		delete(l.at, key)
	}
}

// slots limit how many commands run at the same time: in all, and under each name.
type slots struct {
	mu      sync.Mutex // guards the fields below
	running map[string]int
	waiting []*waiter // oldest first
}

// bound is how many commands may run under one name.
type bound struct {
	name  string
	limit int
}

// waiter waits until there is room under each of its names.
type waiter struct {
	client string // its name in running
	bounds []bound
	ready  chan struct{} // closed when it has its places
}

// take waits until there is room under all names at once: a command that held one place
// while it waits for another would block others. release gives the places back.
func (p *slots) take(ctx context.Context, bounds []bound) (release func(), err error) {
	w := &waiter{"client " + clientOf(ctx), bounds, make(chan struct{})}
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.dispatch()
	p.mu.Unlock()
	release = sync.OnceFunc(func() { p.release(w) })
	select {
	case <-w.ready:
		return release, nil
	case <-ctx.Done():
		release()
		return nil, context.Cause(ctx)
	}
}

// release gives back the places of w, or removes it from the queue.
func (p *slots) release(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return
	}
	p.count(w, -1)
	p.dispatch()
}

// dispatch gives places to waiters for which there is room: first those of the client with
// the fewest places, then the oldest. The caller holds p.mu.
func (p *slots) dispatch() {
	for {
		next := -1
		for i, w := range p.waiting {
			if p.hasRoom(w) && (next < 0 || p.running[w.client] < p.running[p.waiting[next].client]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := p.waiting[next]
		p.waiting = slices.Delete(p.waiting, next, next+1)
		p.count(w, 1)
		close(w.ready)
	}
}

// hasRoom reports whether there is room for w under each of its names. The caller holds
// p.mu.
func (p *slots) hasRoom(w *waiter) bool {
	return !slices.ContainsFunc(w.bounds, func(b bound) bool { return p.running[b.name] >= b.limit })
}

// count adds n under all names of w. The caller holds p.mu.
func (p *slots) count(w *waiter, n int) {
	if p.running == nil {
		p.running = map[string]int{}
	}
	add := func(name string) {
		if p.running[name] += n; p.running[name] == 0 {
			delete(p.running, name)
		}
	}
	for _, b := range w.bounds {
		add(b.name)
	}
	add(w.client)
}

// bounds returns the bounds of a command for t, with n places in all.
func bounds(t target, n int) []bound {
	page, _, _ := strings.Cut(t.job.module, "/")
	atHost := max(1, n/2)
	forPage := min(n, max(atHost+1, n*3/4))
	all := []bound{
		{"all", n},
		{"repositories on " + t.remote().Hostname(), atHost},
		{"modules of " + page, forPage},
	}
	if t.job.reach == Public {
		all = append(all, bound{"public modules", max(1, n-1)})
	}
	return all
}
