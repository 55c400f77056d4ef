package tiered

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/assay-proxy/assay/storage"
)

// writer changes objects: first in the bucket, then locally.
type writer struct {
	cache  *cache
	lines  *lines
	fills  *fills
	drafts *drafts
	remote storage.Store
}

// create creates an object in the bucket. A content that fits into memory is kept there for readers, until
// it is stored locally.
func (w *writer) create(ctx context.Context, info storage.Info, r io.Reader) error {
	if info.Size > maxBuffer {
		return w.createLarge(ctx, info, r)
	}
	return w.write(ctx, info, r, func(_ *ticket, info storage.Info, r io.Reader) error { return w.remote.Create(ctx, info, r) })
}

// write writes an object to the bucket with do, which gets the ticket of this change.
func (w *writer) write(ctx context.Context, info storage.Info, r io.Reader, do func(*ticket, storage.Info, io.Reader) error) error {
	info = stamped(info)
	t := w.lines.change(info.Key)
	b := w.buffer(ctx, info.Size)
	if b != nil {
		r = io.TeeReader(r, b)
	}
	err := do(t, info, r)
	t.done()
	if err == nil && b != nil {
		w.fills.add(t, info, b.sum(), b)
		return nil
	}
	if b != nil {
		_ = b.Close()
	}
	t.back()
	return err
}

func (w *writer) buffer(ctx context.Context, size int64) *buffer {
	if size < 0 || size > maxBuffer {
		return nil
	}
	b := w.fills.budget.buffer(ctx, size)
	if b == nil {
		w.fills.metrics.skipped.Inc()
	}
	return b
}

// createLarge creates an object by a draft, whose bytes are on a disk already when they are stored locally.
func (w *writer) createLarge(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := info.Check(); err != nil {
		return err
	}
	switch _, err := w.remote.Stat(ctx, info.Key); {
	case err == nil, errors.Is(err, storage.ErrDamaged):
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	d, err := w.drafts.draft(ctx, info.Size)
	if err != nil {
		return err
	}
	defer d.Close()
	if n, err := io.Copy(d, r); err != nil {
		return err
	} else if n < info.Size {
		return fmt.Errorf("%d of %d bytes: %w", n, info.Size, io.ErrUnexpectedEOF)
	}
	return d.Commit(ctx, info)
}

// replace deletes the local object first: a process that is killed leaves no old one behind.
func (w *writer) replace(ctx context.Context, info storage.Info, r io.Reader) error {
	return w.write(ctx, info, r, func(t *ticket, info storage.Info, r io.Reader) error {
		if err := errors.Join(info.Check(), ctx.Err()); err != nil {
			return err
		}
		_ = w.cache.drop(ctx, t)
		return w.remote.Replace(ctx, info, r)
	})
}

// forget deletes a local object, and makes void what would store it.
func (w *writer) forget(ctx context.Context, key string) error {
	t := w.lines.change(key)
	defer t.back()
	return w.cache.drop(ctx, t)
}

// delete deletes an object locally and then in the bucket.
func (w *writer) delete(ctx context.Context, key string) error {
	if err := errors.Join(storage.CheckKey(key), ctx.Err()); err != nil {
		return fmt.Errorf("delete %.200q: %w", key, err)
	}
	t := w.lines.change(key)
	defer t.back()
	_ = w.cache.drop(ctx, t)
	return w.remote.Delete(ctx, key)
}

// move moves an object in the bucket. Its content is read from there when it is used next.
func (w *writer) move(ctx context.Context, from, to, proof string) error {
	target := storage.Info{Key: to, Proof: proof}
	if err := errors.Join(storage.CheckKey(from), target.Check(), ctx.Err()); err != nil {
		return fmt.Errorf("move %.200q to %.200q: %w", from, to, err)
	}
	for _, key := range []string{from, to} {
		t := w.lines.change(key)
		defer t.back()
		_ = w.cache.drop(ctx, t)
	}
	return w.remote.Move(ctx, from, to, proof)
}

// apply applies a batch in the bucket, and stores its objects locally.
func (w *writer) apply(ctx context.Context, b storage.Batch) error {
	if err := b.Check(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	smalls := make([]storage.Small, len(b.Create))
	tickets := make([]*ticket, len(b.Create))
	for i, small := range b.Create {
		small.Info = stamped(small.Info)
		small.Info.Size = int64(len(small.Content))
		smalls[i], tickets[i] = small, w.lines.change(small.Info.Key)
	}
	b.Create = smalls
	err := w.remote.Apply(ctx, b)
	for i, t := range tickets {
		t.done()
		if err != nil || !w.keep(ctx, t, smalls[i]) {
			t.back()
		}
	}
	return err
}

// keep stores an object of a batch locally, unless it is there. Another object that is there is old: another process has
// deleted it in the bucket, and this one was not told yet.
func (w *writer) keep(ctx context.Context, t *ticket, small storage.Small) bool {
	sum := sha256.Sum256(small.Content)
	o, err := w.cache.open(ctx, t.key)
	if err == nil {
		there := o.Info()
		there.Time = small.Info.Time // a batch that is applied again changes no time
		current := same(there, small.Info) && o.SHA256() == sum
		_ = o.Close()
		if current {
			return false
		}
	}
	if !errors.Is(err, errMiss) {
		_ = w.cache.drop(ctx, t)
	}
	b := w.buffer(ctx, small.Info.Size)
	if b == nil {
		return false
	}
	_, _ = b.Write(bytes.Clone(small.Content))
	w.fills.add(t, small.Info, sum, b)
	return true
}
