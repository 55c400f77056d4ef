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
		err = db.drop(key, func(*bbolt.Tx) bool { return true })
	}
	if err != nil {
		return fmt.Errorf("delete %.200q: %w", key, err)
	}
	return nil
}

// drop deletes an object, a damaged one too, if the same transaction says so.
func (db *DB) drop(key string, still func(*bbolt.Tx) bool) error {
	var orphans []uint64
	dropped := false
	err := db.journal.update(0, func(tx *bbolt.Tx) (err error) {
		if dropped = still(tx); dropped {
			orphans, err = deleteObject(tx, key)
		}
		return err
	}, key)
	if err != nil || !dropped {
		return err
	}
	db.metrics.deleted.Inc()
	db.reaper.add(orphans...)
	return nil
}
