package bolt

import (
	"bytes"
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
// then written in place, without a transaction of bbolt. When it is nearly full, its objects are
// merged into the tree, see merge.go, and it begins again. Until they are in the tree they are also in
// memory.

// limits are those of the journal and of its merges.
type limits struct {
	// minSize and maxSize are the sizes of the journal in bytes. When it is nearly full, its next one is
	// four times as large, so that a store of few objects stays small. A larger one would make a merge
	// write fewer pages for each object; its objects are in memory.
	minSize, maxSize int

	// objects is the largest number of objects that are not in the tree: tiny ones would take several
	// times their frames in memory.
	objects int

	// sliceObjects and sliceBytes are the largest size of a slice. Besides the leaves of the tree, each
	// slice writes about ten pages, and what is stored behind it needs another one: smaller slices
	// would write more for each object.
	sliceObjects, sliceBytes int

	// pace is how many times its bytes are merged when a frame is stored during a merge. With 9, what is
	// stored until its end is at most an eighth of what there was at its beginning, and fits in the
	// eighth of the journal that was left.
	pace int
}

// usualLimits are those of every store but some in tests.
func usualLimits() limits {
	return limits{192 << 10, 11 << 20, 20_000, 512, 2 << 20, 9}
}

// limitsOf returns the limits of a store with a journal of at most size bytes; 0 means the usual ones.
func limitsOf(size int64) limits {
	l := usualLimits()
	if size > 0 {
		l.maxSize = min(l.maxSize, max(l.minSize, int(min(size, 1<<30))))
		l.sliceBytes = min(l.sliceBytes, l.maxSize)
	}
	return l
}

// journal has the newest small objects.
type journal struct {
	meta *file
	recent
	queue  changes
	limits limits

	// The rest is guarded by the lock of commits of meta.
	off  bool // nothing is written to it
	mark string
	end  int // of the last frame
	made int // number of the commit that made the mark, or of the newest one at the start
	lost int // damaged frames that were found at the start

	// stale is set when the frames in the file are not those of the objects that were stored: a write
	// failed, or some frames are damaged. They must not count any longer when objects change in the
	// tree, or when frames are appended.
	stale bool

	// merged has the keys of objects that are in the tree although their frames still count. Such an
	// object must not be deleted from the tree: the next start would find it in its frame.
	merged map[string]struct{}
	next   string // the first key of the next slice of the merge
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
		j.stale = j.lost > 0
		j.add(slices.DeleteFunc(entries, func(e entry) bool { // a merge was interrupted, and goes on
			inTree := tx.Bucket(bucketObjects).Get([]byte(e.key)) != nil
			if inTree {
				j.merged[e.key] = struct{}{}
			}
			return inTree
		}))
		return nil
	})
	if errors.Is(err, storage.ErrDamaged) && j.meta.stuck.Load() == nil { // its page; the tree may be intact
		j.mark, j.lost = "", 1
		return nil
	}
	return err
}

// place returns where the journal is. Like commit, it notices a file that was replaced.
func (j *journal) place() (at place, err error) {
	if err := j.meta.writable(0); err != nil {
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

// doubtful reports whether the frames in the file may not be those of the stored objects. Another
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
