package bolt

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// inlineMax is the largest size of an object that is stored in meta.db, beside its record: one
// commit to write it and one lookup to read it, instead of three and a second file. Above this
// size, bbolt's rewriting of the neighbours of a value costs more than the two commits.
const inlineMax = 32 << 10

// WriterMemory is the maximum memory that Create takes for a large object: a segment, and the pages
// into which bbolt copies it during the commit.
const WriterMemory = 2 * (segmentChunks + 1) * bufferSize

// claim makes the key of an object free, in the transaction that stores it. It returns the blobs
// that no object uses any longer.
type claim func(tx *bbolt.Tx, key string) (orphans []uint64, err error)

// expectFree is the claim of Create: it fails with fs.ErrExist if the key is taken.
func expectFree(tx *bbolt.Tx, key string) ([]uint64, error) {
	if tx.Bucket(bucketObjects).Get([]byte(key)) != nil {
		return nil, fs.ErrExist
	}
	return nil, nil
}

// vacate is the claim of Replace: it deletes the object at the key.
func vacate(tx *bbolt.Tx, key string) ([]uint64, error) {
	orphans, err := deleteObject(tx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return orphans, err
}

// writer creates objects.
type writer struct {
	meta    *file
	blobs   *blobs
	reaper  *reaper
	metrics *metrics
	budget  *memory.Budget // of large objects
}

// create stores an object under a key that claim makes free.
func (w *writer) create(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	if err := info.Check(); err != nil {
		return err
	}
	if w.meta.readOnly {
		return storage.ErrReadOnly // before reading r
	}
	if info.Time.IsZero() {
		info.Time = time.Now()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if info.Size <= inlineMax {
		return w.createInline(ctx, info, r, claim)
	}
	// A writer that has this memory waits only for the disk, so the memory is given back.
	need := min(WriterMemory, 2*int64(chunkCount(info.Size))*bufferSize)
	held := w.budget.HoldFor(ctx)
	if err := held.Grow(ctx, need); err != nil {
		return err
	}
	defer held.Free()
	return w.createBlob(ctx, info, r, claim)
}

func (w *writer) createInline(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	content := make([]byte, info.Size)
	if err := readFull(r, content); err != nil {
		return err
	}
	if err := errors.Join(expectEnd(r), ctx.Err()); err != nil {
		return err
	}
	value := (&record{info: info, content: content}).encode()
	var orphans []uint64
	err := w.meta.update(len(value), func(tx *bbolt.Tx) (err error) {
		if orphans, err = claim(tx, info.Key); err != nil {
			return err
		}
		return putObject(tx, info, value)
	})
	if err != nil {
		return err
	}
	w.metrics.createdInline.Inc()
	w.reaper.add(orphans...)
	return nil
}

// createBlob is the write order. A crash after any step leaves at most a blob that an intent names,
// never a record without its bytes:
//
//	the intent to write the blob → its segments → the record, with the
//	reference to the blob and without the intent
//
// The blob has its own number, so no other writer ever writes to it or deletes it. Whether the
// object shares the blob of another one with the same content is decided in the last step, in one
// transaction with the references that a deletion checks.
func (w *writer) createBlob(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	var id uint64
	err := w.meta.update(0, func(tx *bbolt.Tx) (err error) {
		id, err = putIntent(tx)
		return err
	})
	if err != nil {
		return err
	}
	adopted := false // the object uses our blob
	defer func() {
		if !adopted {
			w.reaper.add(id)
		}
	}()

	hash, err := w.blobs.write(ctx, id, info.Size, r)
	if err != nil {
		return err
	}
	own, err := locate(w.blobs.file, id, info.Size)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var orphans []uint64
	err = w.meta.update(len(own)*8, func(tx *bbolt.Tx) (err error) {
		adopted = false
		if orphans, err = claim(tx, info.Key); err != nil {
			return err
		}
		blob := &blobRef{id: id, hash: hash, extents: own}
		if shared, ok := w.findShared(tx, hash, info.Size); ok {
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
	w.metrics.createdBlob.Inc()
	w.reaper.add(orphans...)
	return nil
}

// findShared returns the blob with the same content. A blob whose chunks cannot be found is not
// shared any longer.
func (w *writer) findShared(tx *bbolt.Tx, hash [32]byte, size int64) (*blobRef, bool) {
	p := parser{rest: tx.Bucket(bucketHashes).Get(hash[:])}
	id := p.uvarint()
	if p.err != nil {
		return nil, false
	}
	e, err := locate(w.blobs.file, id, size)
	if err != nil {
		return nil, false
	}
	return &blobRef{id: id, hash: hash, extents: e}, true
}
