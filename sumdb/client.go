package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/notfound"
)

const (
	// textLimit bounds a lookup and a signed head: real ones are below 1 KiB,
	// and a note has at most 100 signatures.
	textLimit = 64 << 10

	// dataLimit bounds a data tile: 256 records of 4 KiB, where real ones have
	// about 200 bytes.
	dataLimit = 1 << 20

	// lookupTime bounds one lookup. For a module that the database has never seen, it clones the
	// repository first (golang/go#70042).
	lookupTime = 150 * time.Second

	// fileTime bounds a request for a file that upstream only has to read.
	fileTime = 60 * time.Second

	// dataCopies is how many copies of a data tile are in memory: the response, and the records
	// that are cut from it for the callers and for the store.
	dataCopies = 3
)

// client sends requests to upstream. It checks the form of the responses, and proves nothing.
type client struct {
	name    string           // of the database
	current func() FetchFunc // returns nil without upstream
	flights *flight.Shared
	memory  *memory.Budget
}

// connected reports whether there is an upstream.
func (c *client) connected() bool { return c.current() != nil }

// errDisconnected is the error when a reload removed the upstream during a request.
var errDisconnected = errors.New("no upstream any more")

// fetch sends one request to the current upstream.
func (c *client) fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	f := c.current()
	if f == nil {
		return nil, fmt.Errorf("%s of %s: %w", path, c.name, errDisconnected)
	}
	return f(ctx, path, limit)
}

// share runs work once for all concurrent callers with the same key.
func share[T any](ctx context.Context, c *client, key string, limit time.Duration, work func(context.Context) (T, error)) (T, error) {
	value, err := flight.Do(ctx, c.flights, key, limit, work)
	if errors.Is(err, flight.ErrClosed) {
		err = fmt.Errorf("mirror of %s is %w", c.name, err)
	}
	return value, err
}

// latest fetches the signed head that upstream states is the newest.
func (c *client) latest(ctx context.Context) ([]byte, error) {
	msg, err := c.fetch(ctx, "latest", textLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no latest: %w", ErrInvalid, c.name, notfound.OfPart(err))
	}
	if err != nil {
		return nil, fmt.Errorf("latest of %s: %w", c.name, err)
	}
	return msg, nil
}

// errNoTile is the error when upstream does not have a tile.
var errNoTile = errors.New("upstream has no such tile")

// tile fetches the hash tile t. Concurrent callers for the same tile share one request.
func (c *client) tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	return share(ctx, c, t.Path(), fileTime, func(ctx context.Context) ([]byte, error) {
		data, err := c.fetchTile(ctx, t)
		if full := placeOf(t).full(); err != nil && t != full && ctx.Err() == nil {
			// Once a tile is complete, upstream need not keep its narrower forms.
			if wide, err := c.fetchTile(ctx, full); err == nil {
				return wide[:t.W*tlog.HashSize], nil
			}
		}
		return data, err
	})
}

func (c *client) fetchTile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	want := t.W * tlog.HashSize
	data, err := c.fetch(ctx, t.Path(), int64(want))
	if err == nil && len(data) != want {
		return nil, fmt.Errorf("%w: %s of %s has %d bytes, not %d", ErrInvalid, t.Path(), c.name, len(data), want)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w of %s: %w", ErrInvalid, errNoTile, c.name, notfound.OfPart(err)) // a signed head promises it
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), c.name, err)
	}
	return data, nil
}

// records fetches the records of the data tile t.
func (c *client) records(ctx context.Context, t tlog.Tile) ([][]byte, error) {
	return share(ctx, c, t.Path(), fileTime, func(ctx context.Context) ([][]byte, error) {
		held := c.memory.HoldFor(ctx) // counts bytes as they arrive: a database that hangs takes no memory from other requests
		defer held.Free()
		records, err := c.fetchRecords(ctx, &held, t)
		if full := placeOf(t).full(); err != nil && t != full && ctx.Err() == nil {
			if records, err := c.fetchRecords(ctx, &held, full); err == nil {
				return records[:t.W], nil
			}
		}
		return records, err
	})
}

func (c *client) fetchRecords(ctx context.Context, held *memory.Hold, t tlog.Tile) ([][]byte, error) {
	data, err := c.fetch(held.Context(ctx), t.Path(), dataLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoTile, notfound.OfPart(err))
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), c.name, err)
	}
	if err := held.Grow(ctx, dataCopies*int64(len(data))); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), c.name, err)
	}
	records, err := parseDataTile(data, t.W)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), c.name, err)
	}
	return records, nil
}
