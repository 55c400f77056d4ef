package tiered

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// errMiss means that the local store has no object that may be served.
var errMiss = errors.New("not on the local disk")

// cache is the local tier. Its errors are counted, the first one is logged, and the bucket serves instead.
type cache struct {
	store   storage.Store
	lines   *lines
	trust   *trust
	scope   *flight.Scope
	metrics *metrics
	log     *slog.Logger
	logged  atomic.Int64 // when an error was logged, in nanoseconds since 1970
}

// open opens a trusted local object. The error is errMiss, or one of the caller: its context has ended, or
// the memory for readers is used up.
func (c *cache) open(ctx context.Context, key string) (storage.Object, error) {
	if !c.trust.has(key) {
		return nil, errMiss
	}
	return c.peek(ctx, key)
}

// peek is open of an object that need not be trusted.
func (c *cache) peek(ctx context.Context, key string) (storage.Object, error) {
	o, err := c.store.Open(ctx, key)
	if err == nil {
		return o, nil
	}
	return nil, c.readError(ctx, key, err)
}

// stat returns the Info of a trusted local object. The error is as that of open.
func (c *cache) stat(ctx context.Context, key string) (storage.Info, error) {
	if !c.trust.has(key) {
		return storage.Info{}, errMiss
	}
	info, err := c.store.Stat(ctx, key)
	if err != nil {
		err = c.readError(ctx, key, err)
	}
	return info, err
}

// readError returns what an error of reading means for the caller. A damaged object is deleted.
func (c *cache) readError(ctx context.Context, key string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errMiss
	case passes(err):
		return err
	}
	c.spoilt(ctx, key, err)
	return errMiss
}

// spoilt notes that a local object cannot be read. A damaged one is deleted.
func (c *cache) spoilt(ctx context.Context, key string, err error) {
	c.note(opRead, err)
	if !errors.Is(err, storage.ErrDamaged) {
		return
	}
	t := c.lines.take(key)
	defer t.back()
	_ = c.drop(ctx, t)
}

// passes reports whether an error is one of the caller or of a closed store, not of the disk.
func passes(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, memory.ErrFull) || errors.Is(err, fs.ErrClosed)
}

// put stores a content. What the local store has under the key is replaced if it is another object, or not
// trusted.
func (c *cache) put(ctx context.Context, t *ticket, info storage.Info, content io.ReaderAt) error {
	return c.write(t, func() error {
		reader := func() io.Reader { return io.NewSectionReader(content, 0, info.Size) }
		err := c.store.Create(ctx, info, reader())
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if there, err := c.store.Stat(ctx, t.key); err == nil && same(there, info) && c.trust.has(t.key) {
			return nil
		}
		return c.store.Replace(ctx, info, reader())
	})
}

// commit is put of a content that is in a draft of the local store.
func (c *cache) commit(ctx context.Context, t *ticket, info storage.Info, draft storage.Draft) error {
	return c.write(t, func() error {
		if err := draft.Commit(ctx, info); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return c.store.Replace(ctx, info, io.NewSectionReader(draft, 0, info.Size))
	})
}

// write stores an object with do, which is trusted then, unless the ticket is void.
func (c *cache) write(t *ticket, do func() error) error {
	err := t.store(func() error {
		err := do()
		if err == nil {
			c.confirm(t.key)
		}
		return err
	})
	c.count(err)
	return err
}

// same reports whether two stores have the same object.
func same(a, b storage.Info) bool {
	return a.Key == b.Key && a.Size == b.Size && a.Hash == b.Hash && a.Proof == b.Proof && a.Time.Equal(b.Time)
}

// count counts the end of an attempt to store an object.
func (c *cache) count(err error) {
	switch {
	case err == nil:
		c.metrics.stored.Inc()
	case errors.Is(err, errVoid):
		c.metrics.old.Inc()
	case errors.Is(err, storage.ErrNoLarge) && !errors.Is(err, storage.ErrUnwritable):
		c.metrics.refused.Inc()
	case passes(err):
		c.metrics.skipped.Inc()
	default:
		c.metrics.kept.WithLabelValues("error").Inc()
		c.note(opWrite, err)
	}
}

// confirm trusts a local object.
func (c *cache) confirm(key string) {
	if !c.trust.confirm(key) {
		return
	}
	c.scope.Go(func(ctx context.Context) {
		if err := c.trust.save(ctx); err != nil {
			c.note(opWrite, err)
		}
	})
}

// check reports whether the local store has an object, which is not trusted yet, and trusts it. If it has
// another one under the key, or one that the bucket may not have any more, it is deleted.
func (c *cache) check(ctx context.Context, t *ticket, info storage.Info, sum [sha256.Size]byte) bool {
	o, err := c.peek(ctx, t.key)
	if err != nil {
		return false
	}
	defer o.Close()
	err = t.store(func() error {
		if !same(o.Info(), info) || o.SHA256() != sum {
			return errMiss
		}
		c.confirm(t.key)
		return nil
	})
	if err != nil {
		_ = c.drop(ctx, t)
	}
	return err == nil
}

// drop deletes a local object. After an error it is not trusted any more.
func (c *cache) drop(ctx context.Context, t *ticket) error {
	ctx = context.WithoutCancel(ctx) // a client that leaves must not keep an object that is gone
	err := t.remove(func() error {
		if _, err := c.store.Stat(ctx, t.key); errors.Is(err, fs.ErrNotExist) {
			return nil // without a write to the disk
		}
		return c.store.Delete(ctx, t.key)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.trust.suspect(t.key)
		c.note(opDelete, err)
		return fmt.Errorf("local copy: %w", err)
	}
	c.trust.clean(t.key)
	return nil
}

// quiet is how long no second error of the local store is logged.
const quiet = 10 * time.Minute

// note counts an error of the local store, and logs the first one.
func (c *cache) note(op string, err error) {
	c.metrics.errors.WithLabelValues(op).Inc()
	now, last := time.Now().UnixNano(), c.logged.Load()
	if now-last < int64(quiet) || !c.logged.CompareAndSwap(last, now) {
		return
	}
	c.log.Error("the local disk before the bucket fails; the bucket serves instead: free some space there, or look at the disk", "op", op, "err", err)
}
