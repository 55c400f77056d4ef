package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	bolt "go.etcd.io/bbolt"
)

// inlineMax is the size up to which an object is kept in meta.db, beside its
// record: one commit to write it and one look-up to read it, instead of three
// and a second file. Above it the price of bbolt, which writes the neighbours of
// a value again with it, is higher than that of the two commits.
const inlineMax = 32 << 10

// Create implements Store. It needs at most some 16 MiB of memory, whatever the
// size of the object.
func (db *DB) Create(ctx context.Context, info Info, r io.Reader) error {
	if err := db.create(ctx, info, r); err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	return nil
}

func (db *DB) create(ctx context.Context, info Info, r io.Reader) error {
	if err := checkInfo(info); err != nil {
		return err
	}
	if info.Time.IsZero() {
		info.Time = time.Now()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := db.meta.view(func(tx *bolt.Tx) error { return expectFree(tx, info.Key) })
	if err != nil {
		return err
	}
	if info.Size <= inlineMax {
		return db.createInline(ctx, info, r)
	}
	return db.createBlob(ctx, info, r)
}

// expectFree checks that no object has the key.
func expectFree(tx *bolt.Tx, key string) error {
	if tx.Bucket(bucketObjects).Get([]byte(key)) != nil {
		return fs.ErrExist
	}
	return nil
}

func (db *DB) createInline(ctx context.Context, info Info, r io.Reader) error {
	content := make([]byte, info.Size)
	if err := readFull(r, content); err != nil {
		return err
	}
	if err := errors.Join(expectEnd(r), ctx.Err()); err != nil {
		return err
	}
	value := (&record{info: info, content: content}).encode()
	err := db.meta.update(len(value), func(tx *bolt.Tx) error {
		if err := expectFree(tx, info.Key); err != nil {
			return err
		}
		return putObject(tx, info, value)
	})
	if err == nil {
		db.metrics.createdInline.Inc()
	}
	return err
}

func putObject(tx *bolt.Tx, info Info, value []byte) error {
	if err := tx.Bucket(bucketObjects).Put([]byte(info.Key), value); err != nil {
		return err
	}
	return addTotals(tx, 1, info.Size)
}

// createBlob is the write order. A crash after any step leaves at most a blob
// that an intent names, never a record without its bytes:
//
//	the intent to write the blob → its segments → the record, with the
//	reference to the blob and without the intent
//
// The blob has a number of its own, so nobody else ever writes to it or deletes
// it. Which blob the object shares, if another has the same content, is decided
// in the last step, in one transaction with the references that a deletion
// looks at.
func (db *DB) createBlob(ctx context.Context, info Info, r io.Reader) error {
	var id uint64
	err := db.meta.update(0, func(tx *bolt.Tx) (err error) {
		id, err = putIntent(tx)
		return err
	})
	if err != nil {
		return err
	}
	adopted := false // the object has our blob
	defer func() {
		if !adopted {
			db.reaper.add(id)
		}
	}()

	hash, err := db.writeBlob(ctx, id, info.Size, r)
	if err != nil {
		return err
	}
	own, err := locate(db.blobs, id, info.Size)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = db.meta.update(len(own)*8, func(tx *bolt.Tx) error {
		adopted = false
		if err := expectFree(tx, info.Key); err != nil {
			return err
		}
		blob := &blobRef{id: id, hash: hash, extents: own}
		if shared, ok := db.findShared(tx, hash, info.Size); ok {
			blob = shared
		}
		if err := putRef(tx, info.Key, blob); err != nil {
			return err
		}
		if blob.id == id {
			adopted = true
			if err := tx.Bucket(bucketIntents).Delete(blobKey(id)); err != nil {
				return err
			}
		}
		return putObject(tx, info, (&record{info: info, blob: blob}).encode())
	})
	if err != nil {
		adopted = false
		return err
	}
	db.metrics.createdBlob.Inc()
	return nil
}

// putIntent notes that a blob is about to be written and returns its id.
func putIntent(tx *bolt.Tx) (id uint64, err error) {
	intents := tx.Bucket(bucketIntents)
	if id, err = intents.NextSequence(); err != nil {
		return 0, err
	}
	return id, intents.Put(blobKey(id), nil)
}

// findShared returns the blob that already has the content. One whose chunks
// cannot be found is not shared any further.
func (db *DB) findShared(tx *bolt.Tx, hash [32]byte, size int64) (*blobRef, bool) {
	p := parser{rest: tx.Bucket(bucketHashes).Get(hash[:])}
	id := p.uvarint()
	if p.err != nil {
		return nil, false
	}
	e, err := locate(db.blobs, id, size)
	if err != nil {
		return nil, false
	}
	return &blobRef{id: id, hash: hash, extents: e}, true
}
