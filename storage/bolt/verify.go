package bolt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/assay-proxy/assay/storage"
)

// Verify implements storage.Verifier. It checks the checksums of all records, chunks
// and states, the SHA-256 of all blobs, the references between them, and the
// pages of both files.
func (db *DB) Verify(ctx context.Context, o storage.VerifyOptions) (storage.Verified, error) {
	v := &verifier{db: db, options: o, blobs: map[uint64]error{}, lost: map[uint64]bool{}, apart: map[uint64]bool{}}
	if err := db.meta.view(v.begin); err != nil {
		return storage.Verified{}, fmt.Errorf("verify store %s: %w", db.dir, err)
	}
	if err := checkAllTrees(db.meta, db.blobs.file); errors.Is(err, errCircle) {
		v.found("", err, nil)
		return v.Verified, nil // the next step might not end
	} else if err != nil {
		return v.Verified, fmt.Errorf("verify store %s: %w", db.dir, err)
	}
	for _, step := range []func(context.Context) error{
		v.checkObjects, v.checkJournal, v.checkStates, v.checkRefs, v.checkHashes, v.checkLeaks, v.checkContents, v.checkPages,
	} {
		err := step(ctx)
		if errors.Is(err, storage.ErrDamaged) && db.meta.stuck.Load() == nil && db.blobs.file.stuck.Load() == nil {
			// Objects after it cannot be reached, and must not count as absent: from here on,
			// nothing is removed because it looks unused.
			v.found("", err, nil)
			v.unreachable = true
			err = nil
		}
		if err != nil {
			return v.Verified, fmt.Errorf("verify store %s: %w", db.dir, err)
		}
	}
	return v.Verified, nil
}

// verifier is one run of Verify.
type verifier struct {
	storage.Verified
	db      *DB
	options storage.VerifyOptions

	blobs       map[uint64]error // blob id → the error of its content, or nil
	lost        map[uint64]bool  // blobs that an object has without a reference, not repaired
	apart       map[uint64]bool  // contents apart from their records that are used
	journal     map[string]entry // what was in the journal when Verify began, and was not in the tree since
	lastApart   uint64           // later ones are not checked for being used
	unreachable bool             // a part of a file could not be walked
}

// found counts and reports a Damage, and repairs it if the options say so and repair is not nil.
func (v *verifier) found(key string, damage error, repair func() error) {
	d := storage.Damage{Key: key, Err: damage}
	if v.options.Repair && repair != nil {
		if err := repair(); err != nil {
			d.Err = fmt.Errorf("%w (and the repair failed: %w)", damage, err)
		} else {
			d.Repaired = true
			v.Repaired++
		}
	}
	v.Damaged++
	if v.options.Damage != nil {
		v.options.Damage(d)
	}
}

func (v *verifier) progress() {
	if v.options.Progress != nil {
		v.options.Progress(v.Verified)
	}
}

// verifyBatch is how many keys are checked in one transaction. Repairs follow after the
// transaction.
const verifyBatch = 500

// walk calls visit for the keys of a bucket, in transactions of verifyBatch keys, and after each
// transaction calls the functions that visit returned. Keys in wrong order are ErrDamaged, because
// the keys after them cannot be found.
func (v *verifier) walk(ctx context.Context, f *file, bucket []byte, visit func(tx *bbolt.Tx, key, value []byte) (after func() error)) error {
	var last []byte
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var afters []func() error
		err := f.view(func(tx *bbolt.Tx) error {
			cursor := tx.Bucket(bucket).Cursor()
			key, value := cursor.Seek(append(last, 0))
			if last == nil {
				key, value = cursor.First()
			}
			for n := 0; n < verifyBatch; n++ {
				if key == nil {
					done = true
					return nil
				}
				if last != nil && bytes.Compare(key, last) <= 0 {
					return fmt.Errorf("%s: keys are out of order at %.200q: %w", f.path, key, storage.ErrDamaged)
				}
				last = bytes.Clone(key)
				if after := visit(tx, key, value); after != nil {
					afters = append(afters, after)
				}
				key, value = cursor.Next()
			}
			return nil
		})
		// Also if the walk ends early: the results before the end are valid.
		for _, after := range afters {
			if err := errors.Join(ctx.Err(), after()); err != nil {
				return err
			}
		}
		v.progress()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkJournal checks the objects that were not in the tree yet.
func (v *verifier) checkJournal(ctx context.Context) error {
	for range v.db.journal.lost {
		v.found("", fmt.Errorf("a commit in the journal, and its objects: %w", storage.ErrDamaged), nil)
	}
	for _, e := range v.journal {
		r, err := decodeRecord(e.key, e.value)
		if err == nil {
			err = r.checkContent()
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		v.Objects++
		v.Bytes += e.size
	}
	return nil
}

// checkObjects checks the record and the content of each object.
func (v *verifier) checkObjects(ctx context.Context) error {
	return v.walk(ctx, v.db.meta, bucketObjects, func(tx *bbolt.Tx, k, value []byte) func() error {
		key := string(k)
		delete(v.journal, key)
		r, err := decodeRecord(key, value)
		if err == nil && r.blob == nil {
			v.apart[r.apart] = true
			if err = fetchApart(tx, r); err == nil {
				err = r.checkContent()
			}
		}
		v.Objects++
		if err != nil {
			damaged := bytes.Clone(value)
			return func() error {
				v.found(key, err, func() error {
					return v.drop(key, func(value []byte) bool { return bytes.Equal(value, damaged) })
				})
				return nil
			}
		}
		v.Bytes += int64(len(r.content))
		if r.blob == nil {
			return nil
		}
		blob := *r.blob
		referred := tx.Bucket(bucketRefs).Get(refKey(blob.id, key)) != nil
		return func() error { return v.checkBlob(ctx, key, blob, referred) }
	})
}

// checkBlob verifies the content of a large object, and that the blob has a reference, because one
// without a reference may be deleted.
func (v *verifier) checkBlob(ctx context.Context, key string, blob blobRef, referred bool) error {
	damage, known := v.blobs[blob.id]
	if !known {
		var err error
		damage, err = v.readBlob(ctx, key, blob)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted or replaced meanwhile
		}
		if err != nil {
			return err
		}
		v.blobs[blob.id] = damage
	}
	switch {
	case damage != nil:
		v.found(key, damage, func() error {
			return v.drop(key, func(value []byte) bool { return hasBlob(key, value, blob.id) })
		})
	case !referred:
		v.lost[blob.id] = true
		v.found(key, fmt.Errorf("the reference to its content is missing: %w", storage.ErrDamaged), func() error {
			delete(v.lost, blob.id)
			return v.db.meta.update(0, func(tx *bbolt.Tx) error {
				if !hasBlob(key, tx.Bucket(bucketObjects).Get([]byte(key)), blob.id) {
					return nil // deleted or replaced meanwhile
				}
				return tx.Bucket(bucketRefs).Put(refKey(blob.id, key), blob.hash[:])
			})
		})
	}
	return nil
}

// drop deletes an object whose record is damaged, but not one that has replaced it meanwhile.
func (v *verifier) drop(key string, damaged func(value []byte) bool) error {
	return v.db.drop(key, func(tx *bbolt.Tx) bool { return damaged(tx.Bucket(bucketObjects).Get([]byte(key))) })
}

// readBlob reads the content of a large object. The error is fs.ErrNotExist if the object no longer
// has that blob.
func (v *verifier) readBlob(ctx context.Context, key string, blob blobRef) (damage, err error) {
	o, err := v.db.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if now, ok := o.(*blobObject); !ok || now.blob.id != blob.id {
		return nil, fs.ErrNotExist
	}
	hash := sha256.New()
	n, err := o.WriteTo(checkedWriter{ctx, hash})
	v.Bytes += n
	switch {
	case errors.Is(err, storage.ErrDamaged):
		return err, nil
	case err != nil:
		return nil, err
	case !bytes.Equal(hash.Sum(nil), blob.hash[:]):
		return fmt.Errorf("read %.200q: SHA-256 mismatch: %w", key, storage.ErrDamaged), nil
	}
	return nil, nil
}

// checkedWriter writes until its context ends.
type checkedWriter struct {
	ctx context.Context
	to  io.Writer
}

func (w checkedWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.to.Write(b)
}

// checkStates checks the states.
func (v *verifier) checkStates(ctx context.Context) error {
	return v.walk(ctx, v.db.meta, bucketStates, func(tx *bbolt.Tx, key, _ []byte) func() error {
		name := string(key)
		_, err := getState(tx, name)
		v.States++
		if err == nil {
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = storage.ErrDamaged // the key is not a bucket
		}
		return func() error {
			v.found("state "+name, err, func() error {
				return v.db.meta.update(0, func(tx *bbolt.Tx) error { return dropState(tx, name) })
			})
			return nil
		}
	})
}

// dropState deletes a state that is damaged, but not one that was written or deleted
// meanwhile.
func dropState(tx *bbolt.Tx, name string) error {
	if _, err := getState(tx, name); err == nil {
		return nil
	}
	err := tx.Bucket(bucketStates).DeleteBucket([]byte(name))
	if errors.Is(err, bolterrors.ErrBucketNotFound) {
		return nil
	}
	return err
}

// checkRefs finds references of objects that do not exist, which prevent the deletion of a blob.
func (v *verifier) checkRefs(ctx context.Context) error {
	return v.walk(ctx, v.db.meta, bucketRefs, func(tx *bbolt.Tx, k, hash []byte) func() error {
		if len(k) > 8 {
			id, key := binary.BigEndian.Uint64(k), string(k[8:])
			value := tx.Bucket(bucketObjects).Get([]byte(key))
			if _, err := decodeRecord(key, value); value != nil && err != nil || hasBlob(key, value, id) {
				return nil // an error of the record was reported before
			}
		}
		ref, hash := bytes.Clone(k), bytes.Clone(hash)
		return func() error {
			v.foundUnused(fmt.Errorf("reference %.200q is of no object: %w", ref, storage.ErrDamaged), func() error {
				return v.dropRef(ref, hash)
			})
			return nil
		}
	})
}

// foundUnused is found for data that looks unused and is repaired by removing it. That is correct
// only if the walk saw everything that might use it.
func (v *verifier) foundUnused(damage error, repair func() error) {
	if v.unreachable {
		repair = nil
	}
	v.found("", damage, repair)
}

// dropRef deletes a reference, and the blob if that was the last one.
func (v *verifier) dropRef(ref, hash []byte) error {
	if len(ref) <= 8 {
		return v.db.meta.update(0, func(tx *bbolt.Tx) error { return tx.Bucket(bucketRefs).Delete(ref) })
	}
	id := binary.BigEndian.Uint64(ref)
	if v.lost[id] {
		return errors.New("an object without a reference has its blob")
	}
	var orphans []uint64
	err := v.db.meta.update(0, func(tx *bbolt.Tx) (err error) {
		if hasBlob(string(ref[8:]), tx.Bucket(bucketObjects).Get(ref[8:]), id) {
			return nil // created meanwhile
		}
		orphans, err = dropRef(tx, string(ref[8:]), id, hash)
		return err
	})
	if err != nil {
		return err
	}
	v.db.reaper.add(orphans...)
	return nil
}

// checkHashes finds blobs that new objects would share although no object has them, so that they
// may be deleted at any time.
func (v *verifier) checkHashes(ctx context.Context) error {
	return v.walk(ctx, v.db.meta, bucketHashes, func(tx *bbolt.Tx, k, value []byte) func() error {
		unused := func(tx *bbolt.Tx, value []byte) bool {
			p := parser{rest: value}
			id := p.uvarint()
			return p.err != nil || !hasRef(tx, id) && !v.lost[id]
		}
		if !unused(tx, value) {
			return nil
		}
		hash := bytes.Clone(k)
		return func() error {
			v.found("", fmt.Errorf("shared content %x is not referenced: %w", hash, storage.ErrDamaged), func() error {
				return v.db.meta.update(0, func(tx *bbolt.Tx) error {
					hashes := tx.Bucket(bucketHashes)
					if !unused(tx, hashes.Get(hash)) {
						return nil // used again meanwhile
					}
					return hashes.Delete(hash)
				})
			})
			return nil
		}
	})
}

// checkLeaks finds blobs that are neither referenced nor scheduled for deletion.
func (v *verifier) checkLeaks(ctx context.Context) error {
	var last uint64
	return v.walk(ctx, v.db.blobs.file, bucketBlobs, func(_ *bbolt.Tx, k, _ []byte) func() error {
		if len(k) != 12 {
			key := bytes.Clone(k)
			return func() error {
				v.found("", fmt.Errorf("segment %x is of no blob: %w", key, storage.ErrDamaged), nil)
				return nil
			}
		}
		id := binary.BigEndian.Uint64(k)
		if id == last {
			return nil
		}
		last = id
		return func() error { return v.checkLeak(id) }
	})
}

func (v *verifier) checkLeak(id uint64) error {
	wanted := false
	err := v.db.meta.view(func(tx *bbolt.Tx) error {
		// Not Get: on some paths, bbolt returns nil for an empty value, too.
		k, _ := tx.Bucket(bucketIntents).Cursor().Seek(blobKey(id))
		wanted = hasRef(tx, id) || bytes.Equal(k, blobKey(id)) || v.lost[id]
		return nil
	})
	if err != nil || wanted {
		return err
	}
	// It may have been deleted since the walk. Ids are not reused, so a blob that still exists was
	// not.
	exists := false
	err = v.db.blobs.file.view(func(tx *bbolt.Tx) error {
		exists = len(segmentKeys(tx, id)) > 0
		return nil
	})
	if err != nil || !exists {
		return err
	}
	v.foundUnused(fmt.Errorf("blob %d is not referenced: %w", id, storage.ErrDamaged), func() error {
		err := v.db.meta.update(0, func(tx *bbolt.Tx) error { return tx.Bucket(bucketIntents).Put(blobKey(id), nil) })
		if err == nil {
			v.db.reaper.add(id)
		}
		return err
	})
	return nil
}

// begin notes which small objects and contents there are when Verify begins.
func (v *verifier) begin(tx *bbolt.Tx) error {
	v.journal = v.db.journal.all()
	if contents := tx.Bucket(bucketContents); contents != nil {
		v.lastApart = contents.Sequence()
	}
	return notRekeying(tx)
}

// checkContents finds contents of small objects that no record names.
func (v *verifier) checkContents(ctx context.Context) error {
	if v.lastApart == 0 {
		return nil
	}
	return v.walk(ctx, v.db.meta, bucketContents, func(_ *bbolt.Tx, k, _ []byte) func() error {
		if len(k) != 10 {
			key := bytes.Clone(k)
			return func() error {
				v.found("", fmt.Errorf("content %x is of no object: %w", key, storage.ErrDamaged), nil)
				return nil
			}
		}
		id := binary.BigEndian.Uint64(k)
		if id > v.lastApart || v.apart[id] {
			return nil
		}
		v.apart[id] = true // once
		return func() error { return v.checkContentLeak(id) }
	})
}

// checkContentLeak finds a content that no record had during the walk, unless it was deleted since, or
// its object moved meanwhile.
func (v *verifier) checkContentLeak(id uint64) error {
	leaked := false
	err := v.db.meta.view(func(tx *bbolt.Tx) error { leaked = leakedApart(tx, id); return nil })
	if err != nil || !leaked {
		return err
	}
	v.foundUnused(fmt.Errorf("content %d is not used: %w", id, storage.ErrDamaged), func() error {
		return v.db.meta.update(0, func(tx *bbolt.Tx) error { return dropLeaked(tx, id) })
	})
	return nil
}

// checkPages checks the pages of both files. It does not run on a file whose walk failed: it would
// follow the same broken pointers. Writers wait for it.
func (v *verifier) checkPages(ctx context.Context) error {
	if v.unreachable {
		return nil
	}
	for _, f := range []*file{v.db.meta, v.db.blobs.file} {
		var bad []error
		err := f.discard(func(tx *bbolt.Tx) (err error) {
			bad, err = badPages(ctx, tx, f.raw)
			return err
		})
		if err != nil {
			return err
		}
		for _, err := range bad {
			v.found("", err, nil)
		}
	}
	return nil
}
