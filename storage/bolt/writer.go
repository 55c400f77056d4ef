package bolt

import (
	"errors"
	"io/fs"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// inlineMax is the largest size of an object that is stored in meta.db, beside its record: one
// commit to write it and one lookup to read it, instead of three and a second file. Above this
// size, bbolt's rewriting of the neighbours of a value costs more than the two commits.
const inlineMax = 32 << 10

// claim makes the key of an object free, in the transaction that stores it. It returns the blobs
// that no object uses any longer. A nil claim is for a key that must be free: then the error is
// fs.ErrExist if it is taken.
type claim func(tx *bbolt.Tx, key string) (orphans []uint64, err error)

// expectFree is the nil claim in a transaction that has the key in its tree.
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
	journal *journal
	blobs   *blobs
	reaper  *reaper
	metrics *metrics
	drafts  *drafts
}

// putInline stores an object whose content is in meta.db.
func (w *writer) putInline(info storage.Info, content []byte, claim claim) error {
	info.Time = timeOf(info)
	e := entry{info.Key, info.Size, (&record{info: info, content: content}).encode()}
	var orphans []uint64
	var err error
	if claim == nil {
		err = w.journal.create(len(e.value), func(held func(string) []byte) ([]entry, error) {
			if held(e.key) != nil {
				return nil, fs.ErrExist
			}
			return []entry{e}, nil
		})
	} else if err = w.meta.writable(len(e.value)); err == nil {
		err = w.journal.update(len(e.value), func(tx *bbolt.Tx) (err error) {
			if orphans, err = claim(tx, e.key); err != nil {
				return err
			}
			return putEntries(tx, []entry{e})
		}, e.key)
	}
	if err != nil {
		return err
	}
	w.metrics.createdInline.Inc()
	w.reaper.add(orphans...)
	return nil
}

// timeOf returns the time of creation of a new object.
func timeOf(info storage.Info) time.Time {
	if info.Time.IsZero() {
		return time.Now()
	}
	return info.Time
}

// The write order of a large object. A crash after any step leaves at most a blob that an intent
// names, never a record without its bytes:
//
//	the intent to write the blob → its segments → the record, with the
//	reference to the blob and without the intent
//
// The blob has its own number, so no other writer ever writes to it or deletes it. Whether the
// object shares the blob of another one with the same content is decided in the last step, in one
// transaction with the references that a deletion checks.

// intend is the first step: it returns the number of a blob that is about to be written.
func (w *writer) intend() (id uint64, err error) {
	err = w.meta.update(0, func(tx *bbolt.Tx) (err error) {
		id, err = putIntent(tx)
		return err
	})
	return id, err
}

// putBlob is the last step: it stores an object with the content that is in the blob, and reports
// whether the object has this blob, and not another one with the same content.
func (w *writer) putBlob(info storage.Info, own *blobRef, claim claim) (adopted bool, err error) {
	info.Time = timeOf(info)
	if claim == nil {
		claim = expectFree
	}
	if err := w.meta.writable(len(own.extents) * 8); err != nil {
		return false, err
	}
	var orphans []uint64
	err = w.journal.update(len(own.extents)*8, func(tx *bbolt.Tx) (err error) {
		adopted = false
		if orphans, err = claim(tx, info.Key); err != nil {
			return err
		}
		blob := own
		if shared, ok := w.findShared(tx, own.hash, info.Size); ok {
			blob = shared
		}
		if err := putRef(tx, info.Key, blob); err != nil {
			return err
		}
		if blob.id == own.id {
			adopted = true
			if err := tx.Bucket(bucketIntents).Delete(blobKey(own.id)); err != nil {
				return err
			}
		}
		return putObject(tx, info, (&record{info: info, blob: blob}).encode())
	}, info.Key)
	if err != nil {
		return false, err
	}
	w.metrics.createdBlob.Inc()
	w.reaper.add(orphans...)
	return adopted, nil
}

// findShared returns the blob with the same content. A blob whose chunks cannot be found is not
// shared any longer.
func (w *writer) findShared(tx *bbolt.Tx, hash [32]byte, size int64) (*blobRef, bool) {
	p := parser{rest: tx.Bucket(bucketHashes).Get(hash[:])}
	id := p.uvarint()
	if p.err != nil {
		return nil, false
	}
	e, err := locate(w.blobs.file, wholeBlob(id, size))
	if err != nil {
		return nil, false
	}
	return &blobRef{id: id, hash: hash, extents: e}, true
}
