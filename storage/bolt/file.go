package bolt

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/assay-proxy/assay/storage"
)

// maxCommit bounds the bytes of one commit, because bbolt keeps them in memory twice and other
// writers wait for it: small writes beside 20 MB in one transaction took 17 ms in the median,
// beside transactions of 4 MiB 6 ms.
const maxCommit = 4 << 20

// file is one bbolt file. In addition to bbolt, concurrent changes share one commit, and a damaged
// page is an error and does not end the process.
type file struct {
	path     string
	bolt     *bbolt.DB
	raw      *os.File // bbolt's own descriptor, which holds the lock
	pageSize int
	opening
	commits prometheus.Observer // observes how many seconds each commit took

	// stuck is set when a panic left bbolt with its locks held: any further use would block
	// forever. failed is set when a commit failed on disk, or another program changed the file: any
	// further change would build on data that may not be on disk.
	stuck, failed atomic.Pointer[error]

	readers readers
	queue   changes

	commitMu sync.Mutex // held during a commit; guards the results in a change, and newest
	newest   int        // the number of the newest commit in the file; 0 if it is not known
}

// opening has the options with which a file is opened.
type opening struct {
	lockTimeout time.Duration
	readOnly    bool
	limit       int64 // of the size of the file, in bytes; 0: none
}

// errReplaced is the reason why nothing is written to a file that another program has changed.
// bbolt remembers which pages were free, and would overwrite used pages of the backup.
var errReplaced = errors.New("another program changed the file, for example a backup was restored while the server runs; nothing new is stored until a restart")

// changes are the changes that wait for a commit, oldest first.
type changes struct {
	mu      sync.Mutex
	waiting []*change
}

// admit returns the small objects that are to be stored. held returns the record of an object that the
// store has, and nil if it has none.
type admit func(held func(key string) []byte) ([]entry, error)

// change is one function that is to be part of a commit.
type change struct {
	size  int // bytes, approximately
	apply func(*bbolt.Tx) error
	admit admit // of small objects, in place of apply
	done  bool
	err   error
}

// view runs fn in a read transaction. fn must block on nothing but the disk: freed pages cannot be
// reused during a read transaction.
func (f *file) view(fn func(*bbolt.Tx) error) (err error) {
	if stuck := f.stuck.Load(); stuck != nil {
		return *stuck
	}
	begun := false
	round := f.readers.begin()
	defer f.readers.end(round)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = f.damaged(r, begun)
		}
	}()
	return f.explain(f.bolt.View(func(tx *bbolt.Tx) error {
		begun = true
		return fn(tx)
	}))
}

// update makes fn part of a commit and returns when that is on disk. size is about how many bytes
// fn writes. fn may run more than once.
//
// The caller that gets the lock commits the whole queue, so the number of commits that a disk can
// do in a second does not bound the number of changes.
func (f *file) update(size int, fn func(*bbolt.Tx) error) error {
	c := &change{size: size, apply: fn}
	f.queue.add(c)

	f.commitMu.Lock()
	defer f.commitMu.Unlock()
	for !c.done {
		f.commitBatch(f.queue.take())
	}
	return c.err
}

func (q *changes) add(c *change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, c)
}

// take returns waiting changes, up to maxCommit bytes but at least one.
func (q *changes) take() []*change {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && (n == 0 || size+q.waiting[n].size <= maxCommit) {
		size += q.waiting[n].size
		n++
	}
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return batch
}

// commitBatch commits the batch together. A change that fails in it, for example because a key is
// taken, is done again alone, after the others; and if the commit fails, each is: no caller gets the
// error of another change, nor an error that depends on a change that was not committed.
func (f *file) commitBatch(batch []*change) {
	var alone []*change
	for len(batch) > 0 {
		failed := -1 // the change that is being applied
		err := f.commit(func(tx *bbolt.Tx) error {
			for i, c := range batch {
				failed = i
				if err := c.apply(tx); err != nil {
					return err
				}
			}
			failed = -1
			return nil
		})
		if err == nil || len(batch)+len(alone) == 1 {
			end(batch, err)
			break
		}
		if failed < 0 { // the disk, or the file
			alone, batch = append(alone, batch...), nil
			break
		}
		alone = append(alone, batch[failed])
		batch = slices.Delete(batch, failed, failed+1)
	}
	for _, c := range alone {
		end([]*change{c}, f.commit(c.apply))
	}
}

// end gives changes their result.
func end(changes []*change, err error) {
	for _, c := range changes {
		c.done, c.err = true, err
	}
}

// commit runs fn in a transaction of its own.
func (f *file) commit(fn func(*bbolt.Tx) error) (err error) {
	if err := f.writable(0); err != nil {
		return err
	}
	var tx *bbolt.Tx
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			// bbolt rolls back when it panics. Its locks are still held only if the rollback did
			// not finish either.
			err = f.damaged(r, tx != nil && tx.DB() == nil)
		}
	}()
	start := time.Now()
	applied, number := false, 0
	err = f.bolt.Update(func(t *bbolt.Tx) error {
		tx, number = t, t.ID()
		if f.newest != 0 && number != f.newest+1 {
			return errReplaced
		}
		err := fn(t)
		applied = err == nil
		return err
	})
	if applied {
		f.newest = number
		if err != nil {
			f.newest = 0 // unless it has not written its meta page, it may have taken effect on disk, too
			_ = f.view(func(t *bbolt.Tx) error {
				if t.ID() < number {
					f.newest = t.ID()
				}
				return nil
			})
		}
		f.commits.Observe(time.Since(start).Seconds())
		return f.commitError(err)
	}
	if err == errReplaced {
		return f.replaced()
	}
	return f.explain(err)
}

// writable returns the reason why nothing can be written, or why n bytes of new objects cannot be: they
// would take the reserve of a limited file. n is 0 for a change that stores no object.
func (f *file) writable(n int) error {
	if f.readOnly {
		return fmt.Errorf("write %s: %w", f.path, storage.ErrReadOnly)
	}
	if err := cmp.Or(f.stuck.Load(), f.failed.Load()); err != nil {
		return *err
	}
	if n == 0 || f.limit == 0 {
		return nil
	}
	return f.view(func(tx *bbolt.Tx) error {
		stats := f.bolt.Stats()
		free := int64(stats.FreePageN+stats.PendingPageN) * int64(f.pageSize)
		if tx.Size()-free+int64(n) > room(f.limit) {
			return limitError(f.path, n)
		}
		return nil
	})
}

// replaced makes the file accept no more changes, because another program has changed it.
func (f *file) replaced() error {
	err := fmt.Errorf("write %s: %w", f.path, errReplaced)
	f.failed.Store(&err)
	return err
}

// discard runs fn in a write transaction that is not committed: nothing else changes the file
// meanwhile. If the file is open read-only, it is a read transaction.
func (f *file) discard(fn func(*bbolt.Tx) error) error {
	f.commitMu.Lock()
	defer f.commitMu.Unlock()
	if f.readOnly {
		return f.view(fn)
	}
	ended := errors.New("discarded")
	if err := f.commit(func(tx *bbolt.Tx) error { return cmp.Or(fn(tx), ended) }); err != ended {
		return err
	}
	return nil
}

// commitError adds the next step for the administrator to a disk error of a commit.
func (f *file) commitError(err error) error {
	var named *fs.PathError // the prefix names the file, too
	if errors.As(err, &named) {
		err = named.Err
	}
	switch {
	case errors.Is(err, bolterrors.ErrMaxSizeReached):
		return limitError(f.path, 0)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return unwritable{fmt.Errorf("write %s: %w; free some space; stored objects stay readable", f.path, err), storage.ErrUnwritable}
	case errors.Is(err, syscall.EROFS):
		return unwritable{fmt.Errorf("write %s: %w; mount the file system for writing; stored objects stay readable", f.path, err), storage.ErrUnwritable}
	case errors.Is(err, syscall.EIO):
		// After a failed fsync the content of the disk is unknown (see lwn.net/Articles/752063), so
		// nothing is built on top of it.
		err = fmt.Errorf("write %s: %w; check the disk, then restart", f.path, err)
		f.failed.Store(&err)
		return err
	case err != nil:
		return fmt.Errorf("write %s: %w", f.path, f.explain(err))
	}
	return nil
}

// damaged turns a panic of bbolt into an error. If bbolt did not release its locks, the file cannot
// be used for the rest of the process.
func (f *file) damaged(panicked any, released bool) error {
	err := fmt.Errorf("%s: %s: %w", f.path, panicText(panicked), storage.ErrDamaged)
	if !released {
		err = fmt.Errorf("%w; restore meta.db and blobs.db from a backup, or move both away and start with an empty store", err)
		f.stuck.Store(&err)
	}
	return err
}

// panicText explains a panic of bbolt. It keeps bbolt's own text; a text of the Go runtime is about
// the memory of this program, which does not help an administrator.
func panicText(panicked any) string {
	if _, ok := panicked.(runtime.Error); ok {
		return "a page of the file cannot be read, or refers to one that is not there"
	}
	return fmt.Sprint(panicked)
}

// explain translates errors of bbolt that callers of this package distinguish.
func (f *file) explain(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return fmt.Errorf("store %s: %w", f.path, fs.ErrClosed)
	}
	return err
}

// close closes the file when no commit runs: one of the journal would sync a closed descriptor, whose
// number may be that of another file. used says that the store was in use: bbolt writes the two meta
// pages in turn, and uses the other one if one is damaged, so both are to be of the newest state. A stuck
// file is not closed: bbolt would wait for a lock that is never released.
func (f *file) close(used bool) error {
	f.commitMu.Lock()
	defer f.commitMu.Unlock()
	if used {
		_ = f.commit(func(*bbolt.Tx) error { return nil }) // an error leaves the newest state with one meta page
	}
	if f.stuck.Load() != nil {
		return f.raw.Close()
	}
	return f.bolt.Close()
}

// size returns the size of the file in bytes, and how many of them are free for new objects.
func (f *file) size() (total, free int64) {
	if info, err := f.raw.Stat(); err == nil {
		total = info.Size()
	}
	stats := f.bolt.Stats()
	pages := int64(stats.FreePageN + stats.PendingPageN)
	return total, pages * int64(f.pageSize)
}
