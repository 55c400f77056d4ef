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
func (b *bucket) putRecord(ctx context.Context, r record, content []byte, c condition) error {
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
func (b *bucket) remove(ctx context.Context, key string) error {
	for attempt := 1; ; attempt++ {
		etag, err := b.head(ctx, key)
		if err != nil {
			return err
		}
		err = b.delete(ctx, key, etag)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the answer to the first attempt got lost, or another has deleted it at the same time
		}
		if !errors.Is(err, errTaken) || attempt == attempts {
			return err
		}
	}
}

func (b *bucket) move(ctx context.Context, from, to, proof string) error {
	r, content, etag, err := b.record(ctx, objects+from, firstRead+chunkSize)
	if err != nil {
		return err
	}
	r.Key, r.Proof, r.ID = objects+to, proof, newID()
	if err := b.putRecord(ctx, r, content, condition{absent: true}); err != nil {
		return err
	}
	err = b.delete(ctx, objects+from, etag)
	if errors.Is(err, errTaken) || errors.Is(err, fs.ErrNotExist) {
		return nil // what was moved is no longer there
	}
	return err
}

func (b *bucket) apply(ctx context.Context, batch storage.Batch) error {
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
func (b *bucket) createSmall(ctx context.Context, small storage.Small) error {
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
func (b *bucket) state(ctx context.Context, name string) (record, []byte, string, error) {
	r, value, etag, err := b.record(ctx, states+name, maxHeader+storage.MaxState)
	if err == nil {
		value, err = r.open(value)
	}
	return r, value, etag, err
}

func (b *bucket) putState(ctx context.Context, name string, value []byte, past []string, c condition) error {
	r := record{Key: states + name, Size: int64(len(value)), Time: time.Now().UTC().Truncate(time.Second), ID: newID(), Past: past, Sums: sums(value)}
	encoded, err := r.encode(value)
	if err != nil {
		return err
	}
	return b.put(ctx, r.Key, r.ID, encoded, c)
}

// swap reads the state again if it has changed: the new value may be the old one.
func (b *bucket) swap(ctx context.Context, name string, old, value []byte) error {
	for {
		var c condition
		var past []string
		r, now, etag, err := b.state(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && old == nil:
			c.absent = true
		case errors.Is(err, fs.ErrNotExist):
			return storage.ErrConflict
		case err != nil:
			return err
		case old == nil || !bytes.Equal(now, old):
			return storage.ErrConflict
		case etag == "":
			return errors.New("the bucket gives no ETag, without which a state cannot be changed safely")
		default:
			c.etag, c.after, past = etag, r.ID, r.after()
		}
		if err := b.putState(ctx, name, value, past, c); !errors.Is(err, errTaken) {
			return err
		}
	}
}
