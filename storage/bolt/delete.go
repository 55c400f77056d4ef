package bolt

import (
	"context"
	"fmt"

	"go.etcd.io/bbolt"
)

// Delete implements storage.Store. The space of a large object is freed soon after, when no other
// object shares its content and no open Object reads it.
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
