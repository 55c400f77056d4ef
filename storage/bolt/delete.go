package bolt

import (
	"context"
	"fmt"

	"go.etcd.io/bbolt"
)

// Delete implements storage.Store. The bytes of a large object are freed for the next
// ones soon after, when no other object has them and no open Object reads them.
func (db *DB) Delete(ctx context.Context, key string) error {
	err := ctx.Err()
	if err == nil {
		err = db.drop(key)
	}
	if err != nil {
		return fmt.Errorf("delete %.200q: %w", key, err)
	}
	return nil
}

// drop deletes an object, a damaged one too.
func (db *DB) drop(key string) error {
	var orphans []uint64
	err := db.meta.update(0, func(tx *bbolt.Tx) (err error) {
		orphans, err = deleteObject(tx, key)
		return err
	})
	if err != nil {
		return err
	}
	db.metrics.deleted.Inc()
	db.reaper.add(orphans...)
	return nil
}
