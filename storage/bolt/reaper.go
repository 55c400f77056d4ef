package bolt

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// reapAgain is how long the reaper waits after it could not delete a blob, for example because the
// disk is full. No caller waits for it.
const reapAgain = time.Minute

// reaper deletes, one after the other, the blobs that intents name and that no open Object reads,
// and counts the Objects of each. Nothing else deletes blobs.
type reaper struct {
	meta  *file
	blobs *file
	log   *slog.Logger
	holes *holes // nil: the pages of deleted blobs stay allocated

	// lookups orders the lookup of a blob and the deletion of its bytes: a reader holds it until it
	// has found the record and the blob is counted as read; only then does run decide that a blob
	// without a record has no reader either.
	lookups sync.RWMutex

	mu      sync.Mutex
	readers map[uint64]int      // blob id → open Objects, and its draft
	queue   []uint64            // to be deleted now; the first one is being deleted
	held    map[uint64]struct{} // to be deleted when the last reader closes, or after a failure

	wake chan struct{}
	quit chan struct{}
	done chan struct{}
}

// newReaper returns a reaper with the blobs that an earlier process left behind. Nothing is deleted
// before start.
func newReaper(meta, blobs *file, log *slog.Logger, holes *holes, orphans []uint64) *reaper {
	r := &reaper{
		meta: meta, blobs: blobs, log: log, holes: holes, queue: orphans,
		readers: map[uint64]int{}, held: map[uint64]struct{}{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	return r
}

func (r *reaper) start() { go r.run() }

// stop lets the reaper finish its transaction. The intents keep the remaining blobs for the next
// process.
func (r *reaper) stop() {
	close(r.quit)
	<-r.done
}

// add schedules blobs for deletion. Intents must name them and no record may.
func (r *reaper) add(ids ...uint64) {
	if len(ids) == 0 {
		return
	}
	r.mu.Lock()
	for _, id := range ids {
		delete(r.held, id)
	}
	r.queue = append(r.queue, ids...)
	r.mu.Unlock()
	r.signal()
}

// read finds the record of an object. If it has a blob, read counts it among the readers of the
// blob, until release.
func (r *reaper) read(find func() (*record, error)) (*record, error) {
	r.lookups.RLock()
	defer r.lookups.RUnlock()
	found, err := find()
	if err == nil && found.blob != nil {
		r.mu.Lock()
		r.readers[found.blob.id]++
		r.mu.Unlock()
	}
	return found, err
}

// hold counts a reader of a blob, until release. The caller is one already, or has just made the
// blob.
func (r *reaper) hold(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readers[id]++
}

// release ends a read.
func (r *reaper) release(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readers[id]--; r.readers[id] == 0 {
		delete(r.readers, id)
		r.resume(id)
	}
}

// resume schedules the deletion of a blob that was held back. The caller holds mu.
func (r *reaper) resume(id uint64) {
	if _, waits := r.held[id]; waits {
		delete(r.held, id)
		r.queue = append(r.queue, id)
		r.signal()
	}
}

// open returns the number of open large objects and drafts.
func (r *reaper) open() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, count := range r.readers {
		n += int64(count)
	}
	return n
}

// pending returns the number of blobs that wait to be deleted.
func (r *reaper) pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) + len(r.held)
}

// due returns the number of blobs that are being deleted, or will be without waiting for a reader.
func (r *reaper) due() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue)
}

func (r *reaper) signal() {
	select {
	case r.wake <- struct{}{}:
	default: // run is notified already
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
			r.drop()
			continue
		}
		select {
		case <-r.wake:
		case <-r.quit:
			return
		}
	}
}

// next returns the first blob of the queue without a reader, which stays in the queue until drop.
func (r *reaper) next() (id uint64, ok bool) {
	r.lookups.Lock() // see lookups
	defer r.lookups.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 {
		id = r.queue[0]
		if r.readers[id] == 0 {
			return id, true
		}
		r.queue = r.queue[1:]
		r.held[id] = struct{}{}
	}
	return 0, false
}

// drop removes the first blob from the queue.
func (r *reaper) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = r.queue[1:]
}

// reap deletes one blob, and then its intent. If an object has the blob it deletes only the intent:
// a failed commit may have taken effect all the same, for example if its last fsync failed.
func (r *reaper) reap(id uint64) {
	used := false
	err := r.meta.view(func(tx *bbolt.Tx) error {
		used = hasRef(tx, id)
		return nil
	})
	if err == nil && !used {
		err = r.holes.deleteBlob(r.blobs, id)
	}
	if err == nil {
		err = r.meta.update(0, func(tx *bbolt.Tx) error {
			if used && !hasRef(tx, id) {
				return nil // the object was deleted meanwhile, and the intent is that of its deletion
			}
			return tx.Bucket(bucketIntents).Delete(blobKey(id))
		})
	}
	if err == nil || errors.Is(err, fs.ErrClosed) {
		return
	}
	r.log.Warn("deleting an unreferenced blob failed", "blob", id, "err", err)
	if errors.Is(err, storage.ErrDamaged) {
		return // the next process may try again
	}
	r.mu.Lock()
	r.held[id] = struct{}{}
	r.mu.Unlock()
	time.AfterFunc(reapAgain, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.resume(id)
	})
}
