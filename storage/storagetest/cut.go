package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/assay-proxy/assay/storage"
)

// ErrCut is the error of a store after Cut has stopped it.
var ErrCut = errors.New("cut off")

// Cut returns s as an engine without transactions that crashes after some steps. Each
// Create, Replace, Delete, change of a state and Commit of a draft is a step, also in a Batch or a
// Move. Later steps fail with ErrCut and do nothing. With a negative number it never crashes.
//
// A store that crashes may be used by one goroutine at a time.
func Cut(s storage.Store, steps int) storage.Store { return &cut{s, steps} }

type cut struct {
	storage.Store
	left int
}

func (c *cut) step() error {
	if c.left == 0 {
		return ErrCut
	}
	if c.left > 0 {
		c.left--
	}
	return nil
}

func (c *cut) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Store.Create(ctx, info, r)
}

func (c *cut) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Store.Replace(ctx, info, r)
}

func (c *cut) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := c.Store.Draft(ctx, size)
	if err != nil {
		return nil, err
	}
	return &cutDraft{d, c}, nil
}

type cutDraft struct {
	storage.Draft
	c *cut
}

func (d *cutDraft) Commit(ctx context.Context, info storage.Info) error {
	if err := d.c.step(); err != nil {
		return err
	}
	return d.Draft.Commit(ctx, info)
}

func (c *cut) Delete(ctx context.Context, key string) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Store.Delete(ctx, key)
}

func (c *cut) SetState(ctx context.Context, name string, value []byte) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Store.SetState(ctx, name, value)
}

func (c *cut) SwapState(ctx context.Context, name string, old, value []byte) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Store.SwapState(ctx, name, old, value)
}

func (c *cut) DeleteState(ctx context.Context, name string) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Store.DeleteState(ctx, name)
}

// Apply does the parts of the batch one after the other, with Create, Open and SwapState.
func (c *cut) Apply(ctx context.Context, b storage.Batch) error {
	if err := b.Check(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if b.SwapFirst {
		if err := c.swap(ctx, b.Swap); err != nil {
			return err
		}
	}
	for _, small := range b.Create {
		small.Info.Size = int64(len(small.Content))
		err := c.Create(ctx, small.Info, bytes.NewReader(small.Content))
		if errors.Is(err, fs.ErrExist) && c.holds(ctx, small) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	if b.SwapFirst {
		return nil
	}
	return c.swap(ctx, b.Swap)
}

func (c *cut) swap(ctx context.Context, s *storage.Swap) error {
	if s == nil {
		return nil
	}
	if err := c.SwapState(ctx, s.Name, s.Old, s.New); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// holds reports whether the object at the key is the one of the batch.
func (c *cut) holds(ctx context.Context, small storage.Small) bool {
	o, err := c.Open(ctx, small.Info.Key)
	if err != nil {
		return false
	}
	defer o.Close()
	if !small.Same(o.Info()) {
		return false
	}
	content, err := io.ReadAll(o)
	return err == nil && bytes.Equal(content, small.Content)
}

// Move copies, so that the object is under both keys for a while. An engine may move instead.
func (c *cut) Move(ctx context.Context, from, to, proof string) error {
	o, err := c.Open(ctx, from)
	if err != nil {
		return err
	}
	defer o.Close()
	info := o.Info()
	info.Key, info.Proof = to, proof
	if err := c.Create(ctx, info, o); err != nil {
		return err
	}
	return c.Delete(ctx, from)
}
