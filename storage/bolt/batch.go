package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// Apply implements storage.Store, in one commit.
func (db *DB) Apply(ctx context.Context, b storage.Batch) error {
	if err := errors.Join(b.Check(), ctx.Err()); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	objects, keys, size := make([]small, len(b.Create)), make([]string, len(b.Create)), 0
	for i, c := range b.Create {
		objects[i], keys[i] = newSmall(c), c.Info.Key
		size += len(objects[i].value)
	}
	created := 0
	admit := func(held func(key string) []byte) (entries []entry, err error) {
		entries, err = admitBatch(held, objects)
		created = len(entries)
		return entries, err
	}
	var err error
	if b.Swap == nil {
		err = db.journal.create(size, admit)
	} else if err = db.meta.writable(size); err == nil {
		err = db.journal.update(size+len(b.Swap.New), func(tx *bbolt.Tx) error { return applyBatch(tx, admit, b) }, keys...)
	}
	if db.metrics.noteDamage(err) != nil {
		return fmt.Errorf("apply: %w", err)
	}
	db.metrics.createdInline.Add(float64(created))
	return nil
}

// admitBatch returns the objects of a batch that the store does not have.
func admitBatch(held func(key string) []byte, objects []small) (entries []entry, err error) {
	for _, o := range objects {
		isNew, err := o.admit(held(o.info.Key))
		if err != nil {
			return nil, fmt.Errorf("create %.200q: %w", o.info.Key, err)
		}
		if isNew {
			entries = append(entries, entry{o.info.Key, o.info.Size, o.value})
		}
	}
	return entries, nil
}

// applyBatch applies a batch with a swap in a transaction, because the swap must not be visible
// without the objects.
func applyBatch(tx *bbolt.Tx, admit admit, b storage.Batch) error {
	swap := func() error {
		if err := swapState(tx, b.Swap.Name, b.Swap.Old, b.Swap.New); err != nil {
			return fmt.Errorf("change state %.200q: %w", b.Swap.Name, err)
		}
		return nil
	}
	if b.SwapFirst {
		if err := swap(); err != nil {
			return err
		}
	}
	entries, err := admit(func(key string) []byte { return whole(tx, key, tx.Bucket(bucketObjects).Get([]byte(key))) })
	if err == nil {
		err = putEntries(tx, entries)
	}
	if err != nil || b.SwapFirst {
		return err
	}
	return swap()
}

// small is an object of a batch.
type small struct {
	storage.Small
	info  storage.Info
	value []byte // the object record
}

func newSmall(c storage.Small) small {
	info := c.Info
	info.Size = int64(len(c.Content))
	if info.Time.IsZero() {
		info.Time = time.Now()
	}
	return small{c, info, (&record{info: info, content: c.Content}).encode()}
}

// admit reports whether the object is to be stored. held is the record that the store has at its
// key, or nil.
func (s small) admit(held []byte) (isNew bool, err error) {
	if held == nil {
		return true, nil
	}
	r, err := decodeRecord(s.info.Key, held)
	switch {
	case err != nil:
		return false, err
	case !s.Same(r.info) || !bytes.Equal(r.content, s.Content):
		return false, fs.ErrExist
	}
	return false, r.checkContent()
}
