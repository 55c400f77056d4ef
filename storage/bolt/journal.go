package bolt

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// A commit of bbolt writes at least both kinds of its own pages and the path to each changed leaf,
// about ten pages, however small an object is. So small objects are first written one after the
// other into the journal: a value in meta.db whose pages are allocated once, and whose bytes are
// then written in place, without a transaction of bbolt. When it is full, its objects are merged
// into the tree, sorted by key, and it begins again. Meanwhile they are also in memory.

const (
	// minJournal and maxJournal are the sizes of the journal. It doubles when it is full, so that a
	// store of few objects stays small. A larger one would make a merge write fewer pages for each
	// object; its objects are in memory, and other writers wait for a merge.
	minJournal = 256 << 10
	maxJournal = 8 << 20

	// maxRecent is the largest number of its objects: tiny ones would take several times their
	// frames in memory.
	maxRecent = 16 << 10
)

// journal has the newest small objects.
type journal struct {
	meta *file
	recent
	queue changes

	// The rest is guarded by the lock of commits of meta.
	off  bool // nothing is written to it
	mark string
	end  int // of the last frame
	made int // number of the commit that made the mark, or of the newest one at the start
	lost int // damaged frames that were found at the start

	// stale is set when the frames in the file are not those of the objects in memory: some of the
	// objects are in the tree already, a write failed, or some frames are damaged. They must not count
	// any longer when the objects change in the tree, or when frames are appended.
	stale bool

	frames, written int64 // since the start: frames, and their bytes
}

// lookup returns the record of an object, with a copy of its content if that is small and content is
// set.
func (j *journal) lookup(key string, content bool) (r *record, err error) {
	// Before the transaction begins: what leaves the journal afterwards is in the tree.
	if value := j.get(key); value != nil {
		return decodeRecord(key, value)
	}
	err = j.meta.view(func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucketObjects).Get([]byte(key))
		if value == nil {
			return fs.ErrNotExist
		}
		found, err := decodeRecord(key, value)
		if err != nil {
			return err
		}
		switch {
		case !content:
			found.content = nil
		case found.apart != 0:
			if err := fetchApart(tx, found); err != nil {
				return err
			}
		default:
			found.content = bytes.Clone(found.content)
		}
		r = found
		return nil
	})
	return r, err
}

// held returns the record of an object, from the journal or from the tree, and nil if there is none.
// During a merge both have it.
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
				if j.doubtful() || j.get(key) != nil {
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
	if err := j.meta.writable(); err != nil {
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

// place is where the journal is in the file, and what the schema says about it.
type place struct {
	offset int64
	size   int // 0 if there is none
	mark   string
	commit int // number of the last commit
}

// findJournal returns the place of the journal. It reads nothing of its frames.
func findJournal(tx *bbolt.Tx) (p place, err error) {
	p.commit = tx.ID()
	p.mark = string(tx.Bucket(bucketSchema).Get(keyMark))
	if bucket := tx.Bucket(bucketJournal); bucket != nil {
		if frames := bucket.Get(keyFrames); len(frames) > 0 {
			p.size = len(frames)
			p.offset, err = offsetOf(tx, frames)
		}
	}
	return p, err
}

// readFrames returns the bytes of the journal. In the map of bbolt they would be read page by page.
func (j *journal) readFrames(at place) ([]byte, error) {
	frames := make([]byte, at.size)
	if _, err := j.meta.raw.ReadAt(frames, at.offset); err != nil {
		return nil, fmt.Errorf("read the journal in %s: %w: %w", j.meta.path, storage.ErrDamaged, err)
	}
	return frames, nil
}

// load reads the journal that the last process has left behind.
func (j *journal) load() error {
	// The process may have been killed before its last fsync. What is visible now must be on disk.
	if !j.meta.readOnly {
		if err := j.meta.commitError(j.meta.bolt.Sync()); err != nil {
			return err
		}
	}
	err := j.meta.view(func(tx *bbolt.Tx) error {
		at, err := findJournal(tx)
		if err != nil {
			return err
		}
		frames, err := j.readFrames(at)
		if err != nil {
			return err
		}
		var entries []entry
		j.off, j.mark, j.made = true, at.mark, at.commit
		entries, j.end, j.lost = readJournal(frames, at.mark)
		count := len(entries)
		entries = slices.DeleteFunc(entries, func(e entry) bool { // a merge was interrupted
			return tx.Bucket(bucketObjects).Get([]byte(e.key)) != nil
		})
		j.stale = j.lost > 0 || len(entries) < count
		j.add(entries)
		return nil
	})
	if errors.Is(err, storage.ErrDamaged) && j.meta.stuck.Load() == nil { // its page; the tree may be intact
		j.mark, j.lost = "", 1
		return nil
	}
	return err
}

// store stores objects that the caller has checked, in one commit. commitMu is held.
func (j *journal) store(entries []entry) error {
	if j.doubtful() && !j.off {
		if err := j.settleLocked(); err != nil {
			return err
		}
	}
	frame := newFrame(j.mark, entries)
	if j.off || len(frame) > maxJournal/4 {
		return j.meta.commit(func(tx *bbolt.Tx) error { return putEntries(tx, entries) })
	}
	at, err := j.place()
	full := j.end+len(frame) > at.size
	if err == nil && (full || len(j.keys)+len(entries) > maxRecent) {
		size := 0 // as large as it is
		if full {
			size = min(maxJournal, max(minJournal, 2*at.size, 4*len(frame)))
		}
		if err = j.merge(size); err == nil {
			at, err = j.place()
		}
		frame = newFrame(j.mark, entries)
	}
	if err != nil {
		return err
	}
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
	j.frames++
	j.written += int64(len(frame))
	j.add(entries)
	return nil
}

// place returns where the journal is. Like commit, it notices a file that was replaced.
func (j *journal) place() (at place, err error) {
	if err := j.meta.writable(); err != nil {
		return at, err
	}
	err = j.meta.view(func(tx *bbolt.Tx) (err error) {
		at, err = findJournal(tx)
		return err
	})
	if err == nil && (at.mark != j.mark || j.meta.newest != 0 && at.commit != j.meta.newest) {
		return at, j.meta.replaced()
	}
	return at, err
}

// writeFrame writes a frame durably after the last one.
func (j *journal) writeFrame(at place, frame []byte) error {
	start := time.Now()
	_, err := j.meta.raw.WriteAt(frame, at.offset+int64(j.end))
	if err == nil {
		err = j.meta.bolt.Sync()
	}
	j.stale = err != nil // it may be in the file
	j.meta.commits.Observe(time.Since(start).Seconds())
	return j.meta.commitError(err)
}

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

// merge puts the objects of the journal into the tree, and makes the journal one of at least size
// bytes. commitMu is held.
func (j *journal) merge(size int) error {
	keys := j.keys // only a holder of commitMu changes them
	next := rand.Text()
	for done := false; !done; {
		var part []entry
		bytes := 0
		for len(keys) > 0 && bytes < maxCommit/2 { // the pages of a random order are larger than the objects
			e := j.byKey[keys[0]]
			part, keys = append(part, e), keys[1:]
			bytes += len(e.value)
		}
		done = len(keys) == 0
		err := j.meta.commit(func(tx *bbolt.Tx) error {
			err := putEntries(tx, part)
			if err == nil && done {
				err = beginJournal(tx, next, size)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	j.reset()
	j.mark, j.end, j.made, j.stale = next, 0, j.meta.newest, false
	return nil
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

// freeze makes the journal in the file one that nothing will be written to: the next objects
// have another mark, which a snapshot of before does not have. commitMu is held, and the journal has
// no objects, or nothing can be written.
func (j *journal) freeze() {
	if j.meta.readOnly || j.mark == "" {
		return
	}
	if len(j.keys) > 0 || j.doubtful() || j.merge(0) != nil {
		j.off = true // on a full disk, small objects cost more bytes until a restart
	}
}

// settle puts the objects of the journal into the tree, so that the tree has all of the store.
func (j *journal) settle() error {
	j.meta.commitMu.Lock()
	defer j.meta.commitMu.Unlock()
	return j.settleLocked()
}

func (j *journal) settleLocked() error {
	if len(j.keys) == 0 && !j.doubtful() || j.meta.readOnly {
		return nil
	}
	if err := j.merge(minJournal); err != nil {
		return fmt.Errorf("put the objects of the journal into the tree: %w", err)
	}
	return nil
}

// doubtful reports whether the frames in the file may not be those of the objects in memory. Another
// reason than stale is a commit that failed on disk: it may have been the end of a merge, and have
// taken effect. commitMu is held.
func (j *journal) doubtful() bool {
	return j.stale || j.meta.newest == 0 && !j.off
}

// allow lets small objects be written to the journal if the schema is that of this program, or
// may be raised to it. raises reports whether the first small object will raise it.
func (j *journal) allow(keep bool) (raises bool, err error) {
	old, err := outdated(j.meta)
	if err != nil {
		return false, err
	}
	err = j.meta.view(func(tx *bbolt.Tx) error {
		version, _ := binary.Uvarint(tx.Bucket(bucketSchema).Get(keyVersion))
		unreadable := j.lost > 0 && j.mark == ""
		j.off = old || unreadable || keep && version < schemaVersion
		raises = !j.off && !j.meta.readOnly && version < schemaVersion
		return nil
	})
	return raises, err
}
