package vcs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// A host that hangs keeps each of its commands for as long as one may take. So that it
// does not take the places of all, the commands that run at the same time are bounded
// for each host, too: for the one that a repository is on, and less tightly for the one
// in the module path, whose page may name others. A page is read before, without a place.
// Public modules leave a place to private ones. Lists have places of their own, besides
// those of downloads, which may take minutes.

// maxAtHost is how many runs may be under way at one host, waiting ones included. It is
// below what the proxy lets wait for all repositories, or else those that wait for a host
// that hangs would keep everything else from being asked for.
const maxAtHost = 192

// maxForClient is how many of them may be for one client: whatever it asks for, others find
// room.
const maxForClient = maxAtHost * 3 / 4

// clientKey is the key of a context's client.
type clientKey struct{}

// WithClient says in the returned context for whom version control is asked. At a host one
// client has three quarters of what may wait there, and a place goes to the client that has the
// fewest. What is asked for no client is not counted for any.
func WithClient(ctx context.Context, client string) context.Context {
	return context.WithValue(ctx, clientKey{}, client)
}

func clientOf(ctx context.Context) string {
	client, _ := ctx.Value(clientKey{}).(string)
	return client
}

// ErrBusy says that the queue for a host is full: one more run would not get a place in time.
var ErrBusy = errors.New("too many fetches are queued for this host")

// crowd counts the runs under way at each host, and those for each client there.
type crowd struct {
	mu sync.Mutex
	at map[crowdKey]int
}

// crowdKey is a host, and a client there; "" is all.
type crowdKey struct{ host, client string }

// enter counts one more at host, for the client of ctx, until leave is called.
func (c *crowd) enter(ctx context.Context, host string) (leave func(), err error) {
	all, mine := crowdKey{host: host}, crowdKey{host, clientOf(ctx)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at[all] >= maxAtHost || mine != all && c.at[mine] >= maxForClient {
		return nil, &guard.HostError{Host: host, Err: ErrBusy}
	}
	c.count(all, 1)
	if mine != all {
		c.count(mine, 1)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.count(all, -1)
		if mine != all {
			c.count(mine, -1)
		}
	}, nil
}

// count adds n to what is counted for key. The lock is held.
func (c *crowd) count(key crowdKey, n int) {
	if c.at == nil {
		c.at = map[crowdKey]int{}
	}
	if c.at[key] += n; c.at[key] == 0 {
		delete(c.at, key)
	}
}

// places bound what runs at the same time: in all, and for each part of a kind.
type places struct {
	mu      sync.Mutex // guards what follows
	running map[string]int
	waiting []*waiter // oldest first
}

// bound is how many may run under one name.
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

// take waits until there is room under all names at once: a run that held one place and waited
// for another would keep others from the one. They are given back by release.
func (p *places) take(ctx context.Context, bounds []bound) (release func(), err error) {
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

// release gives back what w has, or takes it out of the queue.
func (p *places) release(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return
	}
	p.count(w, -1)
	p.dispatch()
}

// dispatch gives places to those for whom there is room: the client that has the fewest is
// first, then the oldest. The lock is held.
func (p *places) dispatch() {
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

// hasRoom reports whether there is room for w under each of its names. The lock is held.
func (p *places) hasRoom(w *waiter) bool {
	return !slices.ContainsFunc(w.bounds, func(b bound) bool { return p.running[b.name] >= b.limit })
}

// count adds n under all names of w. The lock is held.
func (p *places) count(w *waiter, n int) {
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

// bounds returns what a run counts for, with n places in all.
func (r *goRun) bounds(n int) []bound {
	page, _, _ := strings.Cut(r.job.module, "/")
	atHost := max(1, n/2)
	forPage := min(n, max(atHost+1, n*3/4))
	bounds := []bound{
		{"all", n},
		{"repositories on " + r.remote().Hostname(), atHost},
		{"modules of " + page, forPage},
	}
	if r.job.reach == Public {
		bounds = append(bounds, bound{"public modules", max(1, n-1)})
	}
	return bounds
}

// isList reports whether the run is a list or a query.
func (r *goRun) isList() bool { return r.job.args[0] == "list" }

// listPatience is how long a list waits for the copy of its repository.
const listPatience = 2 * time.Second

// errCopyBusy says that the time is over.
var errCopyBusy = errors.New("the clone is in use")

// takeCopy waits for the copy called name. A list does not wait for a download, which may
// take minutes: while the copy is in use for longer, lists have a second one.
func (r *goRun) takeCopy(ctx context.Context, name string) (dir string, release func(), err error) {
	repos := &r.source.repos
	if !r.isList() {
		return repos.take(ctx, name)
	}
	soon, cancel := context.WithTimeoutCause(ctx, listPatience, errCopyBusy)
	defer cancel()
	if dir, release, err = repos.take(soon, name); errors.Is(err, errCopyBusy) {
		return repos.take(ctx, name+"-lists")
	}
	return dir, release, err
}

// takePlace waits for a place for the run.
func (r *goRun) takePlace(ctx context.Context) (release func(), err error) {
	p := &r.source.downloads
	if r.isList() {
		p = &r.source.lists
	}
	return p.take(ctx, r.bounds(r.source.config.Jobs))
}
