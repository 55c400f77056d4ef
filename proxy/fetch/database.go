package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
)

// databaseLifetime is how long the route to a checksum database is remembered: long enough to cost
// nothing, short enough that an upstream is used without a restart when it begins to serve the
// database, or was skipped while it was down.
const databaseLifetime = 10 * time.Minute

// database finds the route to a checksum database, like the go command
// (go.dev/design/25530-sumdb#proxying-a-checksum-database).
type database struct {
	chain      *Chain
	name       string
	direct     origin
	viaProxies bool

	// asking is a semaphore: one caller at a time finds the route, and the others wait for the
	// result as long as their contexts allow.
	asking chan struct{}

	mu    sync.Mutex // guards known and until
	known way        // zero if not known
	until time.Time
}

// way is the route to the files of a database.
type way struct {
	origin origin
	prefix string
}

// SumDB returns a function that fetches files of the checksum database called name, by their paths
// below its root, whole. With viaProxies it requests /sumdb/<name>/supported from the entries of
// the list in order: 200 means that the entry serves the database; absence means that the next
// entry is tried; anything else is the error, unless | follows the entry. If none serves it, the
// database is asked directly, at direct, which may be empty and then is https://<name>. Like in the
// go command, a failure of an entry that | does not follow is not absence: it does not lead to the
// database itself.
//
// Unlike in the go command, off at the end of the list prevents direct requests to the database
// (the error is ErrUnavailable, because nothing is known about the file), and the route is
// forgotten after ten minutes, and at once when it fails.
//
// Budget.Answer bounds each call of the function. Its errors are those of Source.Fetch.
func (c *Chain) SumDB(name, direct string, viaProxies bool) func(ctx context.Context, path string, limit int64) ([]byte, error) {
	d := &database{chain: c, name: name, viaProxies: viaProxies, asking: make(chan struct{}, 1)}
	if direct == "" {
		direct = "https://" + name
	}
	u, err := parseURL(direct)
	if err != nil {
		err = fmt.Errorf("%w: checksum database %s at %s: %w", ErrUnavailable, name, redactEntry(direct), err)
		return func(_ context.Context, path string, _ int64) ([]byte, error) {
			return nil, &Error{Source: name, Path: path, Err: err}
		}
	}
	d.direct = c.origin(Entry{URL: u})
	return d.readAll
}

// supportedLimit bounds the response to /supported, which may have any content.
const supportedLimit = 64 << 10

func (d *database) readAll(ctx context.Context, path string, limit int64) ([]byte, error) {
	if !fs.ValidPath(path) || path == "." {
		return nil, &Error{Source: d.name, Path: path, Err: fmt.Errorf("%w: it is not a path", notfound.Stated)}
	}
	ctx = firmly(ctx)
	data, err := d.read(ctx, path, limit, d.chain.client.deadline(ctx))
	if next, deadline, ok := lastAttempt(ctx, isLate(err)); ok {
		if again, failed := d.read(next, path, limit, deadline); !untried(failed) {
			return again, failed
		}
	}
	return data, err
}

// read finds the database, and reads path there.
func (d *database) read(ctx context.Context, path string, limit int64, deadline time.Time) ([]byte, error) {
	if !strings.HasPrefix(path, "lookup/") {
		ctx = WithModule(ctx, "")
	}
	w, err := d.way(ctx, deadline)
	if err != nil {
		return nil, err
	}
	data, err := w.origin.readAll(ctx, w.prefix+path, limit, deadline)
	if err == nil || notfound.Is(err) || errors.Is(err, ErrRefused) || errors.Is(err, ErrTooLarge) || ctx.Err() != nil {
		return data, err
	}
	d.forget(w)
	next, failed := d.way(ctx, deadline)
	if failed != nil || next == w {
		return nil, err // this error says more than one that the route is not known
	}
	return next.origin.readAll(ctx, next.prefix+path, limit, deadline)
}

// way returns the known route, or finds it.
func (d *database) way(ctx context.Context, deadline time.Time) (way, error) {
	if !d.viaProxies {
		return way{origin: d.direct}, nil
	}
	select {
	case d.asking <- struct{}{}:
		defer func() { <-d.asking }()
	case <-ctx.Done():
		return way{}, &Error{Source: d.name, Path: "supported", Err: context.Cause(ctx)}
	}
	d.mu.Lock()
	known, until := d.known, d.until
	d.mu.Unlock()
	if known.origin != nil && time.Now().Before(until) {
		return known, nil
	}
	w, err := d.ask(WithModule(ctx, ""), deadline)
	if err != nil {
		return way{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known, d.until = w, time.Now().Add(databaseLifetime)
	return w, nil
}

// ask walks the list. It differs from walk at the end: not to find the database is a result.
func (d *database) ask(ctx context.Context, deadline time.Time) (way, error) {
	prefix := "sumdb/" + d.name + "/"
	var best error
	for i, e := range d.chain.entries {
		if e.direct {
			return way{origin: d.direct}, nil
		}
		if e.origin == nil {
			return way{}, better(best, &Error{Source: "off", Path: prefix + "supported",
				Err: fmt.Errorf("%w: no entry serves the checksum database, and off forbids asking it directly", ErrUnavailable)})
		}
		_, err := e.origin.readAll(ctx, prefix+"supported", supportedLimit, d.chain.share(i, deadline))
		if err == nil || errors.Is(err, ErrTooLarge) { // any body means yes
			return way{e.origin, prefix}, nil
		}
		best = better(best, err)
		if ctx.Err() != nil || !e.anyError && !notfound.Is(err) {
			break
		}
	}
	if notfound.Is(best) {
		return way{origin: d.direct}, nil
	}
	return way{}, best
}

// forget makes the next request find the route again, unless another one is known already.
func (d *database) forget(w way) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == w {
		d.known = way{}
	}
}
