package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/notfound"
)

// Chain is a list of upstreams that are tried in order. Its methods may be called concurrently.
type Chain struct {
	entries []entry
	text    string // the list, without credentials
	setting string // see Setting
	client  *client

	mu    sync.Mutex           // guards hosts and names
	hosts map[string]*upstream // by base URL with credentials; SumDB adds more
	names map[string]bool      // metric labels that hosts use already
}

// entry is an element of the list in use.
type entry struct {
	origin   origin // nil: off or direct
	direct   bool
	anyError bool // continue after any error, not only after absence
}

// origin is an upstream of a chain: HTTP or a directory. A fetch must receive the headers by the
// deadline, and a read all of the body.
type origin interface {
	fetch(ctx context.Context, path string, limit int64, deadline time.Time) (*Object, error)
	readAll(ctx context.Context, path string, limit int64, deadline time.Time) ([]byte, error)
	unreachable(ctx context.Context) bool
	String() string
}

// New returns a chain. It connects to nothing, and resolves only names of entries that have a port
// of Self. Its errors are those of ParseList, an unusable CAFile, and an entry that leads to this
// program itself.
func New(c Config) (*Chain, error) {
	entries, err := ParseList(c.List)
	if err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := refuseSelf(entries, c.Self, c.Logger); err != nil {
		return nil, err
	}
	c.Budget = c.Budget.withDefaults()
	transports, err := newTransports(c)
	if err != nil {
		return nil, err
	}
	chain := &Chain{
		text:    formatList(entries),
		setting: settingOf(entries),
		client:  newClient(c, transports, trust(entries, c.RedirectHosts)),
		hosts:   map[string]*upstream{},
		names:   map[string]bool{},
	}
	for _, e := range entries {
		chain.entries = append(chain.entries, entry{chain.origin(e), e.Direct, e.AnyError})
	}
	return chain, nil
}

// origin returns the upstream of an entry.
func (c *Chain) origin(e Entry) origin {
	switch {
	case e.Off, e.Direct:
		return nil
	case e.URL.Scheme == "file":
		return newDirectory(e.URL, redactURL(e.URL), c.client.metrics)
	}
	return c.upstream(e.URL)
}

// upstream returns the upstream at base. It returns the same one for the same URL, so that this has
// only one circuit breaker.
func (c *Chain) upstream(base *url.URL) *upstream {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := base.String()
	if u, ok := c.hosts[key]; ok {
		return u
	}
	label := redactURL(base)
	for n := 2; c.names[label]; n++ { // the same URL with other credentials
		label = fmt.Sprintf("%s#%d", redactURL(base), n)
	}
	c.names[label] = true
	u := newUpstream(base, label, c.client)
	c.hosts[key] = u
	c.client.metrics.breakers.add(u.at.label, u.breaker.state)
	c.client.metrics.clocks.add(u.at.label, &u.clock)
	return u
}

// Offline reports whether the list is only off: there is no upstream at all.
func (c *Chain) Offline() bool { return c.entries[0].origin == nil && !c.entries[0].direct }

// Spared reports whether an upstream of the list, or a checksum database that is asked directly, has asked
// for fewer requests a moment ago. Then what no client waits for is not fetched: which of them it would need
// is not known before.
func (c *Chain) Spared() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.hosts {
		if u.respite.left() > 0 {
			return true
		}
	}
	return false
}

// Direct reports whether the list ends with direct.
func (c *Chain) Direct() bool { return c.entries[len(c.entries)-1].direct }

// One reports whether the list has one upstream, and perhaps direct.
func (c *Chain) One() bool { return len(c.entries) == 1 || len(c.entries) == 2 && c.Direct() }

// String returns the list without credentials.
func (c *Chain) String() string { return c.text }

// Setting returns a text that differs from that of any other list, and is the same in every
// process. It contains no credentials or queries, but 16 bits of a checksum of them: enough to
// notice other ones, too little to guess them.
func (c *Chain) Setting() string { return c.setting }

func settingOf(entries []Entry) string {
	secrets := sha256.New()
	for _, e := range entries {
		if e.URL != nil && (e.URL.User != nil || e.URL.RawQuery != "") {
			fmt.Fprintf(secrets, "%s\n", e.URL)
		}
	}
	return fmt.Sprintf("%s %x", formatList(entries), secrets.Sum(nil)[:2])
}

// Metrics returns the collectors of this chain, the same ones on each call.
func (c *Chain) Metrics() []prometheus.Collector { return c.client.metrics.collectors() }

// Close ends probes and closes idle connections. It does not affect bodies that are being read.
func (c *Chain) Close() { c.client.close() }

// Fetch implements Source. The separators of the list apply until the headers of a response arrive;
// a transfer that breaks later is resumed at the same upstream. The error is ErrDirect when the
// list has come to direct.
func (c *Chain) Fetch(ctx context.Context, path string, limit int64) (*Object, error) {
	object, _, err := ask(ctx, c, path, func(ctx context.Context, o origin, deadline time.Time) (*Object, error) {
		return o.fetch(ctx, path, limit, deadline)
	})
	return object, err
}

// ReadAll returns all of a small object, and its upstream. Budget.Answer bounds the whole call. A
// body that does not arrive is a failure like any other: the same upstream gets another request,
// then the separators of the list apply. The body is read into the memory.Hold of ctx. The errors
// are those of Source.Fetch, and memory.ErrFull.
func (c *Chain) ReadAll(ctx context.Context, path string, limit int64) (data []byte, source string, err error) {
	return ask(ctx, c, path, func(ctx context.Context, o origin, deadline time.Time) ([]byte, error) {
		return o.readAll(ctx, path, limit, deadline)
	})
}

// Reader reads all of one small object from one upstream. The errors are those of Source.Fetch.
type Reader func(path string, limit int64) ([]byte, error)

// ReadWith is ReadAll for a result that is computed from several objects of one upstream. It calls
// answer for the entries of the list in order, as its separators say, with a Reader for that entry
// and with the entry's name without credentials. All reads share Budget.Answer. path names the
// result in errors, and is the absent path if the entry is direct or off.
func (c *Chain) ReadWith(ctx context.Context, path string, answer func(read Reader, source string) ([]byte, error)) (data []byte, source string, err error) {
	return ask(ctx, c, path, func(ctx context.Context, o origin, deadline time.Time) ([]byte, error) {
		return answer(func(path string, limit int64) ([]byte, error) { return o.readAll(ctx, path, limit, deadline) }, o.String())
	})
}

// ask walks through the list, for a caller with patience twice.
func ask[T any](ctx context.Context, c *Chain, path string, try func(ctx context.Context, o origin, deadline time.Time) (T, error)) (result T, from string, err error) {
	if !fs.ValidPath(path) || path == "." {
		return result, "", &Error{Source: c.text, Path: path, Err: fmt.Errorf("%w: it is not a path", notfound.Stated)}
	}
	late := false
	result, from, err = walk(ctx, c, path, c.client.deadline(ctx), func(ctx context.Context, o origin, deadline time.Time) (T, error) {
		result, err := try(ctx, o, deadline)
		late = late || isLate(err)
		return result, err
	})
	if next, deadline, ok := lastAttempt(ctx, late && err != nil); ok {
		if again, source, failed := walk(next, c, path, deadline, try); !untried(failed) {
			return again, source, failed
		}
	}
	return result, from, err
}

// walk tries the entries in order until one succeeds, one fails in a way that ends the list, or ctx
// is done. It returns the most informative error: any error is better than absence.
func walk[T any](ctx context.Context, c *Chain, path string, deadline time.Time, try func(ctx context.Context, o origin, deadline time.Time) (T, error)) (result T, from string, err error) {
	for i, e := range c.entries {
		if e.direct {
			return result, "", &Error{Source: "direct", Path: path, Err: ErrDirect}
		}
		if e.origin == nil {
			return result, "", better(err, &Error{Source: "off", Path: path, Err: fmt.Errorf("%w: disabled by off", notfound.Stated)})
		}
		result, failed := try(ctx, e.origin, c.share(i, deadline))
		if failed == nil {
			return result, e.origin.String(), nil
		}
		err = better(err, failed)
		if ctx.Err() != nil || !e.anyError && !notfound.Is(failed) {
			break
		}
	}
	return result, "", err
}

// better returns the more informative error, next if both are equal. A failure, which may be
// transient, says more than a refusal, and a refusal more than absence.
func better(best, next error) error {
	rank := func(err error) int {
		switch {
		case err == nil:
			return 0
		case notfound.Is(err):
			return 1
		case errors.Is(err, ErrRefused):
			return 2
		}
		return 3
	}
	if rank(best) > rank(next) {
		return best
	}
	return next
}

// share returns the deadline for entry i. An entry before | has only its part of the remaining
// time, because the next ones may have the object. An entry before a comma has all of it: a failure
// ends the list.
func (c *Chain) share(i int, deadline time.Time) time.Time {
	left := len(c.entries) - i
	if c.entries[len(c.entries)-1].origin == nil {
		left-- // off and direct take no time
	}
	if !c.entries[i].anyError || left <= 1 {
		return deadline
	}
	now := time.Now()
	return now.Add(deadline.Sub(now) / time.Duration(left))
}

// Unreachable reports whether every upstream of the list that could answer fails its probe now: it
// does not connect, does not answer within twice Budget.FirstByte, or answers 500 or above. Entries
// after off cannot answer. Unreachable is false if the list contains direct, if it is only off, and
// if the state is not known: ctx has ended, or this machine cannot connect. The circuit breakers do
// not affect it.
//
// All callers share a verdict for 3 s. A call takes at most as long as a probe.
func (c *Chain) Unreachable(ctx context.Context) bool {
	origins := c.reached()
	if len(origins) == 0 {
		return false
	}
	found := make(chan bool, len(origins))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, o := range origins {
		go func() { found <- o.unreachable(ctx) }()
	}
	for range origins {
		if !<-found {
			return false
		}
	}
	return true
}

// reached returns the upstreams to which a walk through the list may send requests, none if it may
// come to direct.
func (c *Chain) reached() []origin {
	var origins []origin
	for _, e := range c.entries {
		switch {
		case e.direct:
			return nil
		case e.origin == nil:
			return origins
		}
		origins = append(origins, e.origin)
	}
	return origins
}
