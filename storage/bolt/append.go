package bolt

import (
	"cmp"
	"errors"

	"go.etcd.io/bbolt"
)

// held returns the record of an object, from the journal or from the tree, and nil if there is none.
func (j *journal) held(tx *bbolt.Tx, key string) []byte {
	if value := j.get(key); value != nil {
		return value
	}
	return whole(tx, key, tx.Bucket(bucketObjects).Get([]byte(key)))
}

// errInJournal ends a transaction that needs the objects of the journal in the tree.
var errInJournal = errors.New("an object is in the journal")

// update is file.update for a change of objects with these keys, which are in the tree when fn runs.
func (j *journal) update(size int, fn func(*bbolt.Tx) error, keys ...string) error {
	for {
		err := j.meta.update(size, func(tx *bbolt.Tx) error {
			for _, key := range keys {
				if j.counts(key) {
					return errInJournal
				}
			}
			return fn(tx)
		})
		if err == errInJournal {
			err = j.settle()
			if err == nil {
				continue
			}
		}
		return err
	}
}

// counts reports whether a frame in the file may have an object of this key. commitMu is held.
func (j *journal) counts(key string) bool {
	_, merged := j.merged[key]
	return merged || j.doubtful() || j.get(key) != nil
}

// create makes the small objects that fn returns part of a commit, and returns when that is on disk.
// fn may run more than once. As in file.update, the caller that gets the lock commits the whole queue.
func (j *journal) create(size int, fn admit) error {
	c := &change{size: size, admit: fn}
	j.queue.add(c)

	j.meta.commitMu.Lock()
	defer j.meta.commitMu.Unlock()
	for !c.done {
		j.storeBatch(j.queue.take())
	}
	return c.err
}

// storeBatch stores the small objects of the batch together. If that fails, it does so for each
// change alone, like file.commitBatch.
func (j *journal) storeBatch(batch []*change) {
	err := j.storeAdmitted(batch)
	for _, c := range batch {
		if err != nil && len(batch) > 1 {
			c.err = nil
			err := j.storeAdmitted([]*change{c})
			c.err = cmp.Or(c.err, err)
		} else {
			c.err = cmp.Or(c.err, err)
		}
		c.done = true
	}
}

// storeAdmitted stores the objects that the changes of the batch return. The error of one change is
// its own and is not returned.
func (j *journal) storeAdmitted(batch []*change) error {
	if err := j.meta.writable(0); err != nil {
		return err
	}
	var all []entry
	err := j.meta.view(func(tx *bbolt.Tx) error {
		together := map[string][]byte{}
		held := func(key string) []byte {
			if value := together[key]; value != nil {
				return value
			}
			return j.held(tx, key)
		}
		for _, c := range batch {
			entries, err := c.admit(held)
			if c.err = err; err != nil {
				continue
			}
			for _, e := range entries {
				together[e.key] = e.value
			}
			all = append(all, entries...)
		}
		return nil
	})
	if err != nil || len(all) == 0 {
		return err
	}
	return j.store(all)
}

// store stores objects that the caller has checked, in one commit. commitMu is held.
func (j *journal) store(entries []entry) error {
	if j.doubtful() && !j.off {
		if err := j.settleLocked(); err != nil {
			return err
		}
	}
	frame := newFrame(j.mark, entries)
	if err := j.meta.writable(len(frame)); err != nil {
		return err
	}
	if j.off || len(frame) > j.limits.maxSize/8 {
		return j.meta.commit(func(tx *bbolt.Tx) error { return putEntries(tx, entries) })
	}
	at, err := j.makeRoom(len(entries), len(frame))
	if err != nil {
		return err
	}
	frame = newFrame(j.mark, entries) // a merge that ended made another mark
	if at.commit == j.made {
		// If the newest meta page is damaged later, bbolt uses the other one. Its state must not be the
		// one whose frames are overwritten now.
		if err := j.meta.commit(func(*bbolt.Tx) error { return nil }); err != nil {
			return err
		}
	}
	if err := j.writeFrame(at, frame); err != nil {
		return err
	}
	j.end += len(frame)
	j.add(entries)
	return nil
}
