package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"

	"go.etcd.io/bbolt"
)

// Delete implements storage.Store. The bytes of a large object are freed for the next
// ones soon after, when no other object has them and no open Object reads them.
func (db *DB) Delete(ctx context.Context, key string) error {
	if err := db.delete(ctx, key); err != nil {
		return fmt.Errorf("delete %.200q: %w", key, err)
	}
	return nil
}

func (db *DB) delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return db.drop(key)
}

// drop is delete for any key, one that is damaged included.
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
	db.reap(orphans)
	return nil
}

// reap has blobs freed that no object has any more.
func (db *DB) reap(orphans []uint64) {
	for _, id := range orphans {
		db.reaper.add(id)
	}
}

// deleteObject deletes the record and its reference, and returns the blobs that
// nobody has any more, with an intent for each.
func deleteObject(tx *bbolt.Tx, key string) (orphans []uint64, err error) {
	objects := tx.Bucket(bucketObjects)
	value := objects.Get([]byte(key))
	if value == nil {
		return nil, fs.ErrNotExist
	}
	r, damage := decodeRecord(key, value)
	if err := objects.Delete([]byte(key)); err != nil {
		return nil, err
	}
	if damage != nil {
		// Which blob it had, only the references know.
		if err := addTotals(tx, -1, 0); err != nil {
			return nil, err
		}
		return dropRefsOf(tx, key)
	}
	if err := addTotals(tx, -1, -r.info.Size); err != nil || r.blob == nil {
		return nil, err
	}
	return dropRef(tx, key, r.blob.id, r.blob.hash[:])
}

// refKey is the key of the reference of an object to a blob.
func refKey(id uint64, key string) []byte {
	return append(blobKey(id), key...)
}

// putRef notes that the object key has the blob, and that others may share it.
func putRef(tx *bbolt.Tx, key string, blob *blobRef) error {
	if err := tx.Bucket(bucketRefs).Put(refKey(blob.id, key), blob.hash[:]); err != nil {
		return err
	}
	return tx.Bucket(bucketHashes).Put(blob.hash[:], binary.AppendUvarint(nil, blob.id))
}

// dropRef deletes the reference of key to the blob. Nobody shares the blob from
// then on, because the reason for the deletion may be that it is damaged.
func dropRef(tx *bbolt.Tx, key string, id uint64, hash []byte) (orphans []uint64, err error) {
	hashes, refs := tx.Bucket(bucketHashes), tx.Bucket(bucketRefs)
	p := parser{rest: hashes.Get(hash)}
	if p.uvarint() == id && p.err == nil {
		if err := hashes.Delete(hash); err != nil {
			return nil, err
		}
	}
	if err := refs.Delete(refKey(id, key)); err != nil {
		return nil, err
	}
	if hasRef(tx, id) {
		return nil, nil
	}
	return []uint64{id}, tx.Bucket(bucketIntents).Put(blobKey(id), nil)
}

// hasRef reports whether an object has the blob.
func hasRef(tx *bbolt.Tx, id uint64) bool {
	k, _ := tx.Bucket(bucketRefs).Cursor().Seek(blobKey(id))
	return bytes.HasPrefix(k, blobKey(id))
}

// dropRefsOf is dropRef for an object whose record does not tell the blob. It
// walks all references, which is slow, and rare.
func dropRefsOf(tx *bbolt.Tx, key string) (orphans []uint64, err error) {
	type ref struct {
		id   uint64
		hash []byte
	}
	var found []ref
	err = tx.Bucket(bucketRefs).ForEach(func(k, hash []byte) error {
		if len(k) > 8 && string(k[8:]) == key {
			found = append(found, ref{binary.BigEndian.Uint64(k), bytes.Clone(hash)})
		}
		return nil
	})
	for _, f := range found {
		if err != nil {
			break
		}
		var ids []uint64
		ids, err = dropRef(tx, key, f.id, f.hash)
		orphans = append(orphans, ids...)
	}
	return orphans, err
}
