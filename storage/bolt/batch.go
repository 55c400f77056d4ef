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

// Apply implements storage.Store, in one transaction.
func (db *DB) Apply(ctx context.Context, b storage.Batch) error {
	if err := errors.Join(b.Check(), ctx.Err()); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	objects, size := make([]small, len(b.Create)), 0
	for i, c := range b.Create {
		objects[i] = newSmall(c)
		size += len(objects[i].value)
	}
	if b.Swap != nil {
		size += len(b.Swap.New)
	}
	created := 0
	err := db.meta.update(size, func(tx *bbolt.Tx) (err error) {
		created, err = applyBatch(tx, objects, b.Swap)
		return err
	})
	if db.metrics.noteDamage(err) != nil {
		return fmt.Errorf("apply: %w", err)
	}
	db.metrics.createdInline.Add(float64(created))
	return nil
}

// applyBatch returns how many objects it has created.
func applyBatch(tx *bbolt.Tx, objects []small, swap *storage.Swap) (created int, err error) {
	for _, o := range objects {
		isNew, err := o.create(tx)
		if err != nil {
			return 0, fmt.Errorf("create %.200q: %w", o.info.Key, err)
		}
		if isNew {
			created++
		}
	}
	if swap == nil {
		return created, nil
	}
	if err := swapState(tx, swap.Name, swap.Old, swap.New); err != nil {
		return 0, fmt.Errorf("change state %.200q: %w", swap.Name, err)
	}
	return created, nil
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

// create stores the object if the store does not have it.
func (s small) create(tx *bbolt.Tx) (isNew bool, err error) {
	held := tx.Bucket(bucketObjects).Get([]byte(s.info.Key))
	if held == nil {
		return true, putObject(tx, s.info, s.value)
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
