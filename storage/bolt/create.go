package bolt

import (
	"context"
	"fmt"
	"io"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// Create implements storage.Store. It takes the memory for an object of more than 32 KiB from
// Options.Writers, and waits for it until ctx ends.
func (db *DB) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	free := func(tx *bbolt.Tx) error { _, err := expectFree(tx, info.Key); return err }
	err := info.Check()
	if err == nil {
		err = db.meta.view(free) // before r is read
	}
	if err == nil {
		err = db.writer.create(ctx, info, r, expectFree)
	}
	if err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	return nil
}

// Replace implements storage.Store.
func (db *DB) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := db.writer.create(ctx, info, r, vacate); err != nil {
		return fmt.Errorf("replace %.200q: %w", info.Key, err)
	}
	return nil
}
