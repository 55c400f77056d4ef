package bolt

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/assay-proxy/assay/storage"
)

// maxCommit bounds the bytes of one commit, because bbolt keeps them in memory
// twice and because other writers wait for it: small writes beside 20 MB in one
// transaction took 17 ms in the median, beside transactions of 4 MiB 6 ms.
const maxCommit = 4 << 20

// file is one bbolt file. It adds to bbolt that changes which wait for the disk
// at the same time share one commit, and that a damaged page is an error and
// not the end of the process.
type file struct {
	path     string
	bolt     *bbolt.DB
	raw      *os.File // bbolt's own descriptor, which holds the lock
	pageSize int
	readOnly bool
	commits  prometheus.Observer // is told how many seconds each took

	// stuck is set once a panic left bbolt inside of its locks: any further
	// use would block forever. failed is set once the disk failed below a
	// commit, or another program changed the file: any further change would build
	// on what may not be on disk.
	stuck, failed atomic.Pointer[error]

	queueMu sync.Mutex // guards queue
	queue   []*change

	commitMu sync.Mutex // held by the one who commits; guards the results in a change, and newest
	newest   int        // the number that the newest commit has in the file; 0 if that is not known
}

// errReplaced is why nothing is written any more to a file that is not as this process
// left it. bbolt remembers which pages are free, and would write over those of the backup.
var errReplaced = errors.New("another program changed the file, for example a backup was restored while the server runs; nothing new is stored until a restart")

// change is one function that wants to be part of a commit.
type change struct {
	size  int // bytes, about
	apply func(*bbolt.Tx) error
	done  bool
	err   error
}

// view runs fn in a read transaction. fn must not block on anything but the
// disk: an open read transaction keeps freed pages from being used again.
func (f *file) view(fn func(*bbolt.Tx) error) (err error) {
	if stuck := f.stuck.Load(); stuck != nil {
		return *stuck
	}
	begun := false
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

// update makes fn part of a commit and returns when that is on disk. size is
// about how many bytes fn writes. fn may run more than once.
//
// The caller that gets the lock takes along the whole queue, so the number of
// commits a disk can do in a second does not bound the number of changes.
func (f *file) update(size int, fn func(*bbolt.Tx) error) error {
	c := &change{size: size, apply: fn}
	f.queueMu.Lock()
	f.queue = append(f.queue, c)
	f.queueMu.Unlock()

	f.commitMu.Lock()
	defer f.commitMu.Unlock()
	for !c.done {
		f.commitBatch(f.takeQueue())
	}
	return c.err
}

// takeQueue returns the changes that wait, oldest first, up to maxCommit bytes
// but at least one.
func (f *file) takeQueue() []*change {
	f.queueMu.Lock()
	defer f.queueMu.Unlock()
	n, size := 0, 0
	for n < len(f.queue) && (n == 0 || size+f.queue[n].size <= maxCommit) {
		size += f.queue[n].size
		n++
	}
	batch := f.queue[:n:n]
	f.queue = f.queue[n:]
	return batch
}

// commitBatch commits the batch together. If that fails, for instance because
// one finds its key taken, each is committed alone: no caller gets the error of a
// neighbour, nor one because of a neighbour that was then not committed.
func (f *file) commitBatch(batch []*change) {
	err := f.commit(func(tx *bbolt.Tx) error {
		for _, c := range batch {
			if err := c.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range batch {
		if err != nil && len(batch) > 1 {
			c.err = f.commit(c.apply)
		} else {
			c.err = err
		}
		c.done = true
	}
}

// commit runs fn in a transaction of its own.
func (f *file) commit(fn func(*bbolt.Tx) error) (err error) {
	if f.readOnly {
		return fmt.Errorf("write %s: %w", f.path, storage.ErrReadOnly)
	}
	if err := cmp.Or(f.stuck.Load(), f.failed.Load()); err != nil {
		return *err
	}
	var tx *bbolt.Tx
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			// bbolt rolls back when it panics. Only if that did not come to
			// an end either, its locks are still held.
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
			f.newest = 0 // it may have taken effect all the same
		}
		f.commits.Observe(time.Since(start).Seconds())
		return f.commitError(err)
	}
	if err == errReplaced {
		err = fmt.Errorf("write %s: %w", f.path, err)
		f.failed.Store(&err)
		return err
	}
	return f.explain(err)
}

// discard runs each fn in a write transaction that is not committed: nothing else
// changes the file from the first to the last. If the file is open for reading only,
// they are read transactions.
func (f *file) discard(fns ...func(*bbolt.Tx) error) error {
	f.commitMu.Lock()
	defer f.commitMu.Unlock()
	ended := errors.New("discarded")
	for _, fn := range fns {
		if f.readOnly {
			if err := f.view(fn); err != nil {
				return err
			}
			continue
		}
		if err := f.commit(func(tx *bbolt.Tx) error { return cmp.Or(fn(tx), ended) }); err != ended {
			return err
		}
	}
	return nil
}

// commitError adds the next step to an error of the disk below a commit.
func (f *file) commitError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("write %s: %w; free some space; stored objects stay readable", f.path, err)
	case errors.Is(err, syscall.EIO):
		// After a failed fsync it is unknown what is on disk (see
		// lwn.net/Articles/752063), so nothing is built on top of it.
		err = fmt.Errorf("write %s: %w; check the disk, then restart", f.path, err)
		f.failed.Store(&err)
		return err
	case err != nil:
		return fmt.Errorf("write %s: %w", f.path, f.explain(err))
	}
	return nil
}

// damaged turns a panic of bbolt into an error. If bbolt did not let go of its
// locks, the file is of no use for the rest of the process.
func (f *file) damaged(panicked any, released bool) error {
	err := fmt.Errorf("%s: %s: %w", f.path, panicText(panicked), storage.ErrDamaged)
	if !released {
		err = fmt.Errorf("%w; restore meta.db and blobs.db from a backup, or move both away and start with an empty store", err)
		f.stuck.Store(&err)
	}
	return err
}

// panicText says what a panic of bbolt means. Its own words are kept; those of the Go
// runtime are about the memory of this program, which is not what the reader can mend.
func panicText(panicked any) string {
	if _, ok := panicked.(runtime.Error); ok {
		return "a page of the file cannot be read, or refers to one that is not there"
	}
	return fmt.Sprint(panicked)
}

// explain translates the errors of bbolt that a caller of this package decides
// on.
func (f *file) explain(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return fmt.Errorf("store %s: %w", f.path, fs.ErrClosed)
	}
	return err
}

// close closes the file. One that is stuck is only let go of: bbolt would wait
// for a lock that is never released.
func (f *file) close() error {
	if f.stuck.Load() != nil {
		return f.raw.Close()
	}
	return f.bolt.Close()
}

// size returns the size of the file in bytes, and how many of them are free
// for the next objects.
func (f *file) size() (total, free int64) {
	if info, err := f.raw.Stat(); err == nil {
		total = info.Size()
	}
	stats := f.bolt.Stats()
	pages := int64(stats.FreePageN + stats.PendingPageN)
	return total, pages * int64(f.pageSize)
}
