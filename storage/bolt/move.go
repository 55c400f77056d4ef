package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// Move implements storage.Store, in one transaction. A blob and its readers are not affected.
func (db *DB) Move(ctx context.Context, from, to, proof string) error {
	err := errors.Join(storage.Info{Key: to, Proof: proof}.Check(), ctx.Err())
	if err == nil {
		err = db.journal.update(0, func(tx *bbolt.Tx) error { return moveObject(tx, from, to, proof) }, from, to)
	}
	if db.metrics.noteDamage(err) != nil {
		return fmt.Errorf("move %.200q to %.200q: %w", from, to, err)
	}
	return nil
}

func moveObject(tx *bbolt.Tx, from, to, proof string) error {
	objects := tx.Bucket(bucketObjects)
	value := objects.Get([]byte(from))
	if value == nil {
		return fs.ErrNotExist
	}
	if objects.Get([]byte(to)) != nil {
		return fs.ErrExist
	}
	r, err := decodeRecord(from, value)
	if err != nil {
		return err
	}
	if r.blob == nil { // the record gets a new checksum, which must not cover damaged bytes
		if err = fetchApart(tx, r); err == nil {
			err = r.checkContent()
		}
	} else {
		err = moveRef(tx, from, to, r.blob)
	}
	if err != nil {
		return err
	}
	r.info.Key, r.info.Proof = to, proof
	moved := r.encode() // before the page of value changes
	return errors.Join(objects.Delete([]byte(from)), objects.Put([]byte(to), moved))
}

// moveRef makes the object to refer to the blob in place of from.
func moveRef(tx *bbolt.Tx, from, to string, blob *blobRef) error {
	refs := tx.Bucket(bucketRefs)
	return errors.Join(refs.Delete(refKey(blob.id, from)), refs.Put(refKey(blob.id, to), blob.hash[:]))
}
