package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// inlineMax is the size up to which an object is kept in meta.db, beside its
// record: one commit to write it and one look-up to read it, instead of three
// and a second file. Above it the price of bbolt, which writes the neighbours of
// a value again with it, is higher than that of the two commits.
const inlineMax = 32 << 10

// WriterMemory is how many bytes Create takes for a large object, at most: a segment,
// and the pages that bbolt makes of it when it is committed.
const WriterMemory = 2 * (segmentChunks + 1) * bufferSize

// Create implements storage.Store. The memory for an object of more than 32 KiB is taken from
// Options.Writers; Create waits for it until ctx ends.
func (db *DB) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	free := func(tx *bbolt.Tx) error { _, err := expectFree(tx, info.Key); return err }
	err := info.Check()
	if err == nil {
		err = db.meta.view(free) // before r is read
	}
	if err == nil {
		err = db.create(ctx, info, r, expectFree)
	}
	if err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	return nil
}

// Replace implements storage.Store.
func (db *DB) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := db.create(ctx, info, r, vacate); err != nil {
		return fmt.Errorf("replace %.200q: %w", info.Key, err)
	}
	return nil
}

// claim makes sure, in the transaction that stores an object, that its key is free. It
// returns the blobs that no object has any more.
type claim func(tx *bbolt.Tx, key string) (orphans []uint64, err error)

// expectFree is the claim of Create: it fails with fs.ErrExist if the key is taken.
func expectFree(tx *bbolt.Tx, key string) ([]uint64, error) {
	if tx.Bucket(bucketObjects).Get([]byte(key)) != nil {
		return nil, fs.ErrExist
	}
	return nil, nil
}

// vacate is the claim of Replace: the object at the key goes.
func vacate(tx *bbolt.Tx, key string) ([]uint64, error) {
	orphans, err := deleteObject(tx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return orphans, err
}

// create stores an object under a key that claim makes free.
func (db *DB) create(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	if err := info.Check(); err != nil {
		return err
	}
	if info.Time.IsZero() {
		info.Time = time.Now()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if info.Size <= inlineMax {
		return db.createInline(ctx, info, r, claim)
	}
	// A writer that has it waits for the disk alone, so it is given back.
	need := min(WriterMemory, 2*int64(chunkCount(info.Size))*bufferSize)
	held := db.writers.HoldFor(ctx)
	if err := held.Grow(ctx, need); err != nil {
		return err
	}
	defer held.Free()
	return db.createBlob(ctx, info, r, claim)
}

func (db *DB) createInline(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	content := make([]byte, info.Size)
	if err := readFull(r, content); err != nil {
		return err
	}
	if err := errors.Join(expectEnd(r), ctx.Err()); err != nil {
		return err
	}
	value := (&record{info: info, content: content}).encode()
	var orphans []uint64
	err := db.meta.update(len(value), func(tx *bbolt.Tx) (err error) {
		if orphans, err = claim(tx, info.Key); err != nil {
			return err
		}
		return putObject(tx, info, value)
	})
	if err != nil {
		return err
	}
	db.metrics.createdInline.Inc()
	db.reap(orphans)
	return nil
}

func putObject(tx *bbolt.Tx, info storage.Info, value []byte) error {
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
func (db *DB) createBlob(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	var id uint64
	err := db.meta.update(0, func(tx *bbolt.Tx) (err error) {
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
	var orphans []uint64
	err = db.meta.update(len(own)*8, func(tx *bbolt.Tx) (err error) {
		adopted = false
		if orphans, err = claim(tx, info.Key); err != nil {
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
	db.reap(orphans)
	return nil
}

// putIntent notes that a blob is about to be written and returns its id.
func putIntent(tx *bbolt.Tx) (id uint64, err error) {
	intents := tx.Bucket(bucketIntents)
	if id, err = intents.NextSequence(); err != nil {
		return 0, err
	}
	return id, intents.Put(blobKey(id), nil)
}

// findShared returns the blob that already has the content. One whose chunks
// cannot be found is not shared any further.
func (db *DB) findShared(tx *bbolt.Tx, hash [32]byte, size int64) (*blobRef, bool) {
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
