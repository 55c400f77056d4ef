package bolt

import (
	"context"
	"errors"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// DiskUse implements storage.Occupant.
func (db *DB) DiskUse() (use storage.DiskUse, err error) {
	arriving := db.writer.drafts.arriving.Load() // first: what is written meanwhile counts twice, and not never
	meta, metaFree, err := occupied(db.meta.raw, db.meta)
	blobs, blobsFree, err2 := occupied(db.blobs.file.raw, db.blobs.file)
	use = storage.DiskUse{
		Files: []string{db.meta.path, db.blobs.file.path}, Allocated: meta + blobs, Large: blobs, Reusable: metaFree, Dead: blobsFree,
		Arriving: arriving,
	}
	return use, errors.Join(err, err2)
}

// occupied returns how many bytes a file takes on disk, and how many of them are free pages.
func occupied(raw *os.File, f *file) (taken, free int64, err error) {
	if taken, err = allocated(raw); err != nil {
		return 0, 0, err
	}
	err = f.view(func(tx *bbolt.Tx) error {
		stats := f.bolt.Stats()
		used := tx.Size() - int64(stats.FreePageN+stats.PendingPageN)*int64(f.pageSize)
		free = max(taken-used, 0)
		return nil
	})
	return taken, free, err
}

// settleAgain is how long Deleted waits before it looks again.
const settleAgain = 2 * time.Millisecond

// Deleted implements storage.Occupant.
func (db *DB) Deleted(ctx context.Context) error {
	for db.reaper.due() > 0 && !db.closed.Load() {
		select {
		case <-time.After(settleAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
