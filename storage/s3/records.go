package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// putRecord writes a record, with the content if it is small. The error is fs.ErrExist if the key is taken.
func (b records) putRecord(ctx context.Context, r record, content []byte, c condition) error {
	value, err := r.encode(content)
	if err != nil {
		return err
	}
	if err = b.put(ctx, r.Key, r.ID, value, c); errors.Is(err, errTaken) {
		return fs.ErrExist
	}
	return err
}

// remove deletes a key that exists.
func (b records) remove(ctx context.Context, key string) error {
	for attempt := 1; ; attempt++ {
		etag, err := b.etag(ctx, key)
		if err != nil {
			return err
		}
		unknown, err := b.delete(ctx, key, etag)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // another has deleted it at the same time, or the answer to our first attempt got lost
		case !errors.Is(err, errTaken):
			return err
		case unknown:
			return nil // what is there now was created after ours was deleted, or replaced it
		case attempt == attempts:
			return errors.New("it was replaced again and again")
		}
	}
}

func (b records) move(ctx context.Context, from, to, proof string) error {
	began, _, _, err := b.generation(ctx)
	if err != nil {
		return err
	}
	r, content, etag, err := b.record(ctx, objects+from, firstRead+chunkSize)
	if err != nil {
		return err
	}
	moved := r
	moved.Key, moved.Proof, moved.ID = objects+to, proof, newID()
	if err := b.putRecord(ctx, moved, content, condition{absent: true}); err != nil {
		return err
	}
	if r.Content != "" {
		if err := b.confirm(ctx, moved, began.Number); err != nil {
			return err
		}
	}
	unknown, err := b.delete(ctx, objects+from, etag)
	if unknown || !errors.Is(err, errTaken) && !errors.Is(err, fs.ErrNotExist) {
		if errors.Is(err, errTaken) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	// Another has deleted or replaced what was moved. What was deleted must not come back.
	if _, err := b.etag(ctx, objects+from); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(fs.ErrNotExist, b.takeBack(ctx, moved))
}

func (b records) apply(ctx context.Context, batch storage.Batch) error {
	if batch.SwapFirst && batch.Swap != nil {
		if err := b.swap(ctx, batch.Swap.Name, batch.Swap.Old, batch.Swap.New); err != nil {
			return err
		}
	}
	for _, small := range batch.Create {
		if err := b.createSmall(ctx, small); err != nil {
			return fmt.Errorf("%.200q: %w", small.Info.Key, err)
		}
	}
	if batch.SwapFirst || batch.Swap == nil {
		return nil
	}
	return b.swap(ctx, batch.Swap.Name, batch.Swap.Old, batch.Swap.New)
}

// createSmall creates an object of a batch, unless it is there already.
func (b records) createSmall(ctx context.Context, small storage.Small) error {
	info := small.Info
	info.Size = int64(len(small.Content))
	r := newRecord(info, sums(small.Content))
	sum := sha256.Sum256(small.Content)
	r.SHA256 = sum[:]
	err := b.putRecord(ctx, r, small.Content, condition{absent: true})
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, content, _, readErr := b.record(ctx, objects+info.Key, firstRead+chunkSize)
	if readErr == nil && there.Content == "" {
		content, readErr = there.open(content)
	}
	if readErr != nil {
		return readErr
	}
	if !small.Same(there.info()) || !bytes.Equal(content, small.Content) {
		return err
	}
	return nil
}

// state returns the record of a state, its value, and its ETag.
func (b records) state(ctx context.Context, name string) (record, []byte, string, error) {
	r, value, etag, err := b.record(ctx, states+name, maxHeader+storage.MaxState)
	if err == nil {
		value, err = r.open(value)
	}
	return r, value, etag, err
}

// change sets a state by compare and swap: next returns the new value, or an error that ends it. A
// damaged state is there, and nil.
func (b records) change(ctx context.Context, name string, next func(now []byte, there bool) ([]byte, error)) error {
	before := ""
	for attempt := 1; ; attempt++ {
		r, now, etag, err := b.state(ctx, name)
		there := !errors.Is(err, fs.ErrNotExist)
		damaged := errors.Is(err, storage.ErrDamaged)
		if err != nil && there && !damaged {
			return err
		}
		value, nextErr := next(now, there)
		switch {
		case damaged && nextErr != nil:
			return err
		case nextErr != nil:
			return nextErr
		case there && attempt > 1 && etag == before:
			return fmt.Errorf("bucket %q: %w: it refuses the ETag that it gave", b.name, errAnswer)
		}
		c := condition{absent: !there, etag: etag, after: r.ID}
		var past []string
		if there && !damaged {
			past = r.after()
		}
		if err := b.putState(ctx, name, value, past, c); !errors.Is(err, errTaken) {
			return err
		}
		if attempt == maxChanges {
			return errors.New("it was changed again and again")
		}
		before = etag
		if err := pause(ctx, min(attempt, attempts)); err != nil {
			return err
		}
	}
}

// maxChanges is how often change meets others before it gives up.
const maxChanges = 100

func (b records) putState(ctx context.Context, name string, value []byte, past []string, c condition) error {
	r := record{Key: states + name, Size: int64(len(value)), Time: time.Now().UTC().Truncate(time.Second), ID: newID(), Past: past, Sums: sums(value)}
	encoded, err := r.encode(value)
	if err != nil {
		return err
	}
	return b.put(ctx, r.Key, r.ID, encoded, c)
}

// swap changes a state from old to value. The value may be the old one, so a state that has changed is
// looked at again.
func (b records) swap(ctx context.Context, name string, old, value []byte) error {
	return b.change(ctx, name, func(now []byte, there bool) ([]byte, error) {
		if there && now == nil {
			return nil, storage.ErrDamaged
		}
		if there != (old != nil) || !bytes.Equal(now, old) {
			return nil, storage.ErrConflict
		}
		return value, nil
	})
}
