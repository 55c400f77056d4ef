package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// openIntents returns the blobs that the last process left behind, and makes sure that no new blob
// gets the id of an existing one, whatever backup meta.db is from.
func openIntents(meta *file, last uint64) (orphans []uint64, err error) {
	var sequence uint64
	err = meta.view(func(tx *bbolt.Tx) error {
		intents := tx.Bucket(bucketIntents)
		sequence = intents.Sequence()
		return intents.ForEach(func(k, _ []byte) error {
			if len(k) != 8 {
				return fmt.Errorf("%s: intent %x: %w", meta.path, k, storage.ErrDamaged)
			}
			orphans = append(orphans, binary.BigEndian.Uint64(k))
			return nil
		})
	})
	if err != nil || sequence >= last {
		return orphans, err
	}
	return orphans, meta.update(0, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketIntents).SetSequence(last)
	})
}

// totals are stored with the schema, in a page that each commit writes anyway.
type totals struct{ objects, bytes int64 }

func readTotals(tx *bbolt.Tx) totals {
	p := parser{rest: tx.Bucket(bucketSchema).Get(keyTotals)}
	return totals{objects: p.varint(), bytes: p.varint()}
}

// addTotals adds to the totals.
func addTotals(tx *bbolt.Tx, objects, bytes int64) error {
	t := readTotals(tx)
	value := binary.AppendVarint(nil, t.objects+objects)
	value = binary.AppendVarint(value, t.bytes+bytes)
	return tx.Bucket(bucketSchema).Put(keyTotals, value)
}

func putObject(tx *bbolt.Tx, info storage.Info, value []byte) error {
	if err := tx.Bucket(bucketObjects).Put([]byte(info.Key), value); err != nil {
		return err
	}
	return addTotals(tx, 1, info.Size)
}

// putIntent records that a blob is about to be written and returns its id.
func putIntent(tx *bbolt.Tx) (id uint64, err error) {
	intents := tx.Bucket(bucketIntents)
	if id, err = intents.NextSequence(); err != nil {
		return 0, err
	}
	return id, intents.Put(blobKey(id), nil)
}

// deleteObject deletes the record and its reference, and returns the blobs that no object uses any
// longer, with an intent for each.
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
		// Only the references show which blob it had.
		if err := addTotals(tx, -1, 0); err != nil {
			return nil, err
		}
		return dropRefsOf(tx, key)
	}
	if err := addTotals(tx, -1, -r.info.Size); err != nil || r.blob == nil {
		return nil, errors.Join(err, deleteApart(tx, r.apart))
	}
	return dropRef(tx, key, r.blob.id, r.blob.hash[:])
}

// refKey returns the key of the reference of an object to a blob.
func refKey(id uint64, key string) []byte {
	return append(blobKey(id), key...)
}

// putRef records that the object key uses the blob, and that others may share it.
func putRef(tx *bbolt.Tx, key string, blob *blobRef) error {
	if err := tx.Bucket(bucketRefs).Put(refKey(blob.id, key), blob.hash[:]); err != nil {
		return err
	}
	return tx.Bucket(bucketHashes).Put(blob.hash[:], binary.AppendUvarint(nil, blob.id))
}

// dropRef deletes the reference of key to the blob. No new object shares the blob from then on,
// because the reason for the deletion may be that it is damaged.
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

// hasRef reports whether an object uses the blob.
func hasRef(tx *bbolt.Tx, id uint64) bool {
	k, _ := tx.Bucket(bucketRefs).Cursor().Seek(blobKey(id))
	return bytes.HasPrefix(k, blobKey(id))
}

// dropRefsOf is dropRef for an object whose record does not show its blob. It reads all references,
// which is slow, and rare.
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
