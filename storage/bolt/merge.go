package bolt

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// A merge puts the objects of the journal into the tree in slices, each of which is a transaction of
// some milliseconds, because other writers wait for it. The slices are sorted by key, so that most pages
// of the tree are written once in a merge. A merge begins when an eighth of the journal is left, and
// each frame that is stored then comes with its part of the merge, so it ends before the journal is full,
// whatever the load is. What is stored meanwhile becomes part of the merge: the slices go round until
// the tree has all objects of the journal. With the last slice it gets another mark, which makes all of
// its frames void.
//
// Between two slices some objects are in the tree, and all are in frames that count. A kill then leaves
// the same state, with which the next start goes on.

// putEntries stores objects in the tree, except for those that are there.
func putEntries(tx *bbolt.Tx, entries []entry) error {
	objects, t := tx.Bucket(bucketObjects), totals{}
	objects.FillPercent = 0.8 // most of the objects of a merge are beside each other
	for _, e := range entries {
		if objects.Get([]byte(e.key)) != nil {
			continue
		}
		value, err := setApart(tx, e.key, e.value)
		if err == nil {
			err = objects.Put([]byte(e.key), value)
		}
		if err != nil {
			return err
		}
		t.objects++
		t.bytes += e.size
	}
	return addTotals(tx, t.objects, t.bytes)
}

// makeRoom makes room for a frame of so many objects and bytes, with the part of a merge that is its
// own, and returns where the journal is then. commitMu is held.
func (j *journal) makeRoom(objects, bytes int) (at place, err error) {
	if at, err = j.place(); err != nil {
		return at, err
	}
	nearlyFull := j.end+bytes > at.size-at.size/8
	tooMany := len(j.keys)+objects > j.limits.objects
	if !nearlyFull && !tooMany && len(j.merged) == 0 {
		return at, nil
	}
	size := 0 // as large as it is
	if nearlyFull {
		size = min(j.limits.maxSize, max(j.limits.minSize, 4*at.size, 8*bytes))
	}
	last := false
	for part := j.limits.pace * bytes; !last && (part > 0 || tooMany || j.end+bytes > at.size); {
		var merged int
		if merged, last, err = j.mergeSlice(size); err != nil {
			return at, err
		}
		part -= merged
		tooMany = len(j.keys)+objects > j.limits.objects
	}
	return j.place()
}

// nextSlice returns the next objects to put into the tree.
func (j *journal) nextSlice() []entry {
	return j.around(j.next, j.limits.sliceObjects, j.limits.sliceBytes)
}

// mergeSlice puts the next objects of the journal into the tree, and returns the bytes of their
// records. With the last ones the journal begins again, with at least size bytes. commitMu is held.
func (j *journal) mergeSlice(size int) (bytes int, last bool, err error) {
	slice := j.nextSlice()
	last = len(slice) == len(j.keys) // only a holder of commitMu changes them
	mark := rand.Text()
	err = j.meta.commit(func(tx *bbolt.Tx) error {
		err := putEntries(tx, slice)
		if err == nil && last {
			err = beginJournal(tx, mark, size)
		}
		return err
	})
	if err != nil {
		return 0, false, err
	}
	for _, e := range slice {
		j.merged[e.key] = struct{}{}
		j.next = e.key // from which there is nothing now
		bytes += len(e.key) + len(e.value)
	}
	j.remove(slice)
	if last {
		j.mark, j.end, j.made, j.stale = mark, 0, j.meta.newest, false
		j.merged, j.next = map[string]struct{}{}, ""
	}
	return bytes, last, nil
}

// beginJournal makes all frames with another mark void. A store with a journal has schema 3.
func beginJournal(tx *bbolt.Tx, mark string, size int) error {
	schema := tx.Bucket(bucketSchema)
	if err := schema.Put(keyMark, []byte(mark)); err != nil {
		return err
	}
	bucket, err := tx.CreateBucketIfNotExists(bucketJournal)
	if err != nil || len(bucket.Get(keyFrames)) >= size {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(bucketContents); err != nil {
		return err
	}
	if version, _ := binary.Uvarint(schema.Get(keyVersion)); version < schemaVersion {
		if err := schema.Put(keyVersion, binary.AppendUvarint(nil, schemaVersion)); err != nil {
			return err
		}
	}
	return bucket.Put(keyFrames, make([]byte, size))
}

// settle puts the objects that are in the journal into the tree, so that the tree has all of the store.
// Other writers go on between the slices.
func (j *journal) settle() error {
	objects, _ := j.totals()
	for objects > 0 {
		n, err := j.settleSlice()
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		objects -= n
	}
	j.meta.commitMu.Lock()
	defer j.meta.commitMu.Unlock()
	return j.settleLocked() // what was stored meanwhile
}

// settleSlice merges a slice unless it would be the last one, and returns the number of its objects.
func (j *journal) settleSlice() (objects int64, err error) {
	j.meta.commitMu.Lock()
	defer j.meta.commitMu.Unlock()
	before := len(j.keys)
	if j.doubtful() || j.meta.readOnly || len(j.nextSlice()) == before {
		return 0, nil
	}
	if _, _, err := j.mergeSlice(j.limits.minSize); err != nil {
		return 0, settleError(err)
	}
	return int64(before - len(j.keys)), nil
}

// settleLocked is settle while the caller holds commitMu.
func (j *journal) settleLocked() error {
	if len(j.keys)+len(j.merged) == 0 && !j.doubtful() || j.meta.readOnly {
		return nil
	}
	for last := false; !last; {
		var err error
		if _, last, err = j.mergeSlice(j.limits.minSize); err != nil {
			return settleError(err)
		}
	}
	return nil
}

func settleError(err error) error {
	return fmt.Errorf("put the objects of the journal into the tree: %w", err)
}

// freeze makes the journal in the file one that nothing will be written to: the next objects
// have another mark, which a snapshot of before does not have. commitMu is held, and the journal has
// no objects, or nothing can be written.
func (j *journal) freeze() {
	if j.meta.readOnly || j.mark == "" {
		return
	}
	if len(j.keys) == 0 && !j.doubtful() {
		if _, _, err := j.mergeSlice(0); err == nil {
			return
		}
	}
	j.off = true // on a full disk, small objects cost more bytes until a restart
}
