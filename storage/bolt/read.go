package bolt

import (
	"context"
	"fmt"

	"github.com/assay-proxy/assay/storage"
)

// Open implements storage.Store.
func (db *DB) Open(ctx context.Context, key string) (storage.Object, error) {
	r, err := db.find(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("open %.200q: %w", key, err)
	}
	held := db.blobs.chunks.budget.HoldFor(ctx)
	if err := held.Try(openSize(r)); err != nil {
		if r.blob != nil {
			db.reaper.release(r.blob.id)
		}
		return nil, fmt.Errorf("open %.200q: %w", key, err)
	}
	if r.blob == nil {
		return newInlineObject(r, held, &db.closed), nil
	}
	return &blobObject{blobs: db.blobs, reaper: db.reaper, storeClosed: &db.closed, info: r.info, blob: *r.blob, held: held}, nil
}

// openSize returns the memory of an open object without its chunk.
func openSize(r *record) int64 {
	switch {
	case r.blob != nil:
		return pieceSize + 8*int64(len(r.blob.extents))
	case len(r.content) > smallContent:
		return int64(len(r.content))
	}
	return 0
}

// Stat implements storage.Store.
func (db *DB) Stat(ctx context.Context, key string) (storage.Info, error) {
	var r *record
	err := ctx.Err()
	if err == nil {
		r, err = db.journal.lookup(key, false)
	}
	if db.metrics.noteDamage(err) != nil {
		return storage.Info{}, fmt.Errorf("stat %.200q: %w", key, err)
	}
	return r.info, nil
}

// find returns the record of key. It verifies the content if that is inline; if the object has a
// blob, the caller must release the record.
func (db *DB) find(ctx context.Context, key string) (*record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := db.reaper.read(func() (*record, error) { return db.journal.lookup(key, true) })
	if err == nil && r.blob == nil {
		err = r.checkContent()
	}
	return r, db.metrics.noteDamage(err)
}
