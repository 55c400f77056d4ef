package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
)

// databaseLifetime is how long the way to a checksum database is remembered: long
// enough to cost nothing, short enough that an upstream which begins to serve the
// database, or has been passed by while it was down, is used without a restart.
const databaseLifetime = 10 * time.Minute

// database finds the way to a checksum database, as the go command does
// (go.dev/design/25530-sumdb#proxying-a-checksum-database).
type database struct {
	chain      *Chain
	name       string
	direct     origin
	viaProxies bool

	// asking is a semaphore, so that one caller at a time asks for the way, and the
	// others wait for the result as long as their contexts allow.
	asking chan struct{}

	mu    sync.Mutex // guards known and until
	known way        // zero if not known
	until time.Time
}

// way is how the files of a database are reached.
type way struct {
	origin origin
	prefix string
}

// SumDB returns a function that gets files of the checksum database called name,
// by their paths below its root, whole. With viaProxies the entries of the list
// are asked in order whether they serve it, at /sumdb/<name>/supported: 200 means
// yes; absence means the next one; anything else is the error, unless | follows
// the entry. If none does, the database is asked directly, at direct, which may be
// empty and then is https://<name>. Like for the go command, trouble at an entry
// before | is not absence: it does not lead to the database itself.
//
// Unlike for the go command, off at the end of the list keeps us from going there
// (the error is ErrUnavailable, for nothing is known about the file), and the way
// is forgotten after ten minutes, and at once when it is in trouble.
//
// The function has Budget.Answer for everything. Its errors are those of
// Source.Fetch.
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

// supportedLimit bounds the answer of /supported, which may be anything.
const supportedLimit = 64 << 10

func (d *database) readAll(ctx context.Context, path string, limit int64) ([]byte, error) {
	if !fs.ValidPath(path) || path == "." {
		return nil, &Error{Source: d.name, Path: path, Err: fmt.Errorf("%w: it is not a path", notfound.Stated)}
	}
	data, err := d.read(ctx, path, limit, d.chain.client.deadline(ctx))
	if next, deadline, ok := lastAttempt(ctx, isLate(err)); ok {
		if again, failed := d.read(next, path, limit, deadline); !untried(failed) {
			return again, failed
		}
	}
	return data, err
}

// read asks where the database is, and reads path there.
func (d *database) read(ctx context.Context, path string, limit int64, deadline time.Time) ([]byte, error) {
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
		return nil, err // what was wrong says more than that the way is not known
	}
	return next.origin.readAll(ctx, next.prefix+path, limit, deadline)
}

// way returns the way that is known, or asks for it.
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
	w, err := d.ask(ctx, deadline)
	if err != nil {
		return way{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known, d.until = w, time.Now().Add(databaseLifetime)
	return w, nil
}

// ask walks the list. It is walk with another end: not to be found is an answer.
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
		if err == nil || errors.Is(err, ErrTooLarge) { // any body will do
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

// forget makes the next request ask again, unless another way is known already.
func (d *database) forget(w way) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == w {
		d.known = way{}
	}
}
