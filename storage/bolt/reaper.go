package bolt

import (
	"errors"
	"io/fs"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// reapAgain is how long the reaper waits after it could not delete a blob, for
// instance because the disk is full. Nobody waits for it.
const reapAgain = time.Minute

// reaper deletes, one after the other, the blobs that intents name and nobody
// reads. It is the only one who deletes blobs.
type reaper struct {
	db *DB

	mu    sync.Mutex
	queue []uint64            // to be deleted now
	held  map[uint64]struct{} // to be deleted when the last reader closes, or after a failure

	wake chan struct{}
	quit chan struct{}
	done chan struct{}
}

// start starts the reaper with the blobs that an earlier process left behind.
func (r *reaper) start(db *DB, orphans []uint64) {
	r.db = db
	r.queue = orphans
	r.held = map[uint64]struct{}{}
	r.wake = make(chan struct{}, 1)
	r.quit = make(chan struct{})
	r.done = make(chan struct{})
	go r.run()
}

// stop lets the reaper finish its transaction. What is left, the intents keep
// for the next process.
func (r *reaper) stop() {
	close(r.quit)
	<-r.done
}

// add has the blob deleted. An intent must name it and no record may.
func (r *reaper) add(id uint64) {
	r.mu.Lock()
	delete(r.held, id)
	r.queue = append(r.queue, id)
	r.mu.Unlock()
	r.signal()
}

// released is told when the last reader of a blob has closed.
func (r *reaper) released(id uint64) {
	r.mu.Lock()
	_, waits := r.held[id]
	r.mu.Unlock()
	if waits {
		r.add(id)
	}
}

// pending returns how many blobs wait to be deleted.
func (r *reaper) pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) + len(r.held)
}

func (r *reaper) signal() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (r *reaper) run() {
	defer close(r.done)
	for {
		select {
		case <-r.quit:
			return
		default:
		}
		if id, ok := r.next(); ok {
			r.reap(id)
			continue
		}
		select {
		case <-r.wake:
		case <-r.quit:
			return
		}
	}
}

// next takes the first blob of the queue that nobody reads.
func (r *reaper) next() (id uint64, ok bool) {
	r.db.vanish.Lock() // see there
	defer r.db.vanish.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 {
		id, r.queue = r.queue[0], r.queue[1:]
		if r.db.readerCount(id) == 0 {
			return id, true
		}
		r.held[id] = struct{}{}
	}
	return 0, false
}

// reap deletes one blob, and then its intent. If an object has the blob it
// deletes only the intent: a commit that failed took effect all the same, as
// one whose last fsync fails does.
func (r *reaper) reap(id uint64) {
	used := false
	err := r.db.meta.view(func(tx *bbolt.Tx) error {
		used = hasRef(tx, id)
		return nil
	})
	if err == nil && !used {
		err = deleteBlob(r.db.blobs, id)
	}
	if err == nil {
		err = r.db.meta.update(0, func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketIntents).Delete(blobKey(id))
		})
	}
	if err == nil || errors.Is(err, fs.ErrClosed) {
		return
	}
	r.db.log.Warn("deleting an unreferenced blob failed", "blob", id, "err", err)
	if errors.Is(err, storage.ErrDamaged) {
		return // the next process may try again
	}
	r.mu.Lock()
	r.held[id] = struct{}{}
	r.mu.Unlock()
	time.AfterFunc(reapAgain, func() { r.released(id) })
}
