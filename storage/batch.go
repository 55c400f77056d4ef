package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Check checks the arguments of Apply.
func (b Batch) Check() error {
	keys, total := map[string]bool{}, 0
	for _, c := range b.Create {
		if err := c.Info.Check(); err != nil {
			return err
		}
		if len(c.Content) > MaxSmall {
			return fmt.Errorf("object %.200q of %d bytes is larger than %d", c.Info.Key, len(c.Content), MaxSmall)
		}
		if keys[c.Info.Key] {
			return fmt.Errorf("object %.200q is in the batch twice", c.Info.Key)
		}
		keys[c.Info.Key] = true
		total += len(c.Content)
	}
	if total > MaxBatch {
		return fmt.Errorf("objects of %d bytes are more than %d", total, MaxBatch)
	}
	if b.Swap == nil {
		return nil
	}
	return CheckState(b.Swap.Name, b.Swap.New)
}

// ApplyInOrder implements Store.Apply for an engine without transactions, with its Create, Open and
// SwapState.
func ApplyInOrder(ctx context.Context, s Store, b Batch) error {
	if err := b.Check(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	for _, c := range b.Create {
		c.Info.Size = int64(len(c.Content))
		err := s.Create(ctx, c.Info, bytes.NewReader(c.Content))
		if errors.Is(err, fs.ErrExist) && holds(ctx, s, c) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	if b.Swap == nil {
		return nil
	}
	if err := s.SwapState(ctx, b.Swap.Name, b.Swap.Old, b.Swap.New); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// holds reports whether the object at the key in s is the one of the batch.
func holds(ctx context.Context, s Store, c Small) bool {
	o, err := s.Open(ctx, c.Info.Key)
	if err != nil {
		return false
	}
	defer o.Close()
	if !c.Same(o.Info()) {
		return false
	}
	content, err := io.ReadAll(o)
	return err == nil && bytes.Equal(content, c.Content)
}

// Same reports whether an object with this Info and the same content equals the one of the batch.
func (c Small) Same(as Info) bool {
	return as.Size == int64(len(c.Content)) && as.Hash == c.Info.Hash && as.Proof == c.Info.Proof
}
