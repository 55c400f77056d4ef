// Package bolt is the embedded engine: a storage.Store in two files of one
// directory, meta.db for the records and the small objects, blobs.db for the large
// ones. Two files, because each has one writer at a time and small writes must not
// wait for large ones. How it works and why is in docs/design/storage.md.
package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// DB is an open store.
//
// List leaves out objects whose record is damaged; Verify finds them.
type DB struct {
	dir     string
	log     *slog.Logger
	meta    *file
	blobs   *file
	reader  *os.File // a second descriptor of blobs.db, to read chunks
	metrics *metrics
	closed  atomic.Bool

	buffers sync.Pool // of *[]byte with room for a chunk and its checksum
	chunks  chunks    // that readers are at
	writers *memory.Budget

	// vanish orders the look-up of a blob and the deletion of its bytes: who
	// holds it for reading has time to find the record and to be counted in
	// readers, before a holder of the write lock decides that a blob
	// without a record has no reader either.
	vanish sync.RWMutex

	readersMu sync.Mutex
	readers   map[uint64]int // blob id → open Objects

	reaper reaper
}

var (
	_ storage.Store    = (*DB)(nil)
	_ storage.Verifier = (*DB)(nil)
	_ storage.Sizer    = (*DB)(nil)
	_ storage.Measured = (*DB)(nil)
)

// newDB makes a DB of two open files. It closes neither if it fails.
func newDB(dir string, meta, blobs *file, o Options) (*DB, error) {
	db := &DB{dir: dir, log: o.Logger, meta: meta, blobs: blobs, readers: map[uint64]int{}}
	db.chunks, db.writers = newChunks(o.Readers), o.Writers
	db.metrics = newMetrics(db)
	meta.commits = db.metrics.commitSeconds.WithLabelValues("meta")
	blobs.commits = db.metrics.commitSeconds.WithLabelValues("blobs")

	if err := matchFiles(meta, blobs); err != nil {
		return nil, err
	}
	if err := blobs.join(); err != nil {
		db.log.Warn("blobs.db does not name its meta.db", "err", err) // a full disk is no reason not to read
	}
	last, err := blobs.lastBlob()
	if err != nil {
		return nil, err
	}
	orphans, err := openIntents(meta, last)
	if err != nil {
		return nil, err
	}
	if db.reader, err = os.Open(blobs.path); err != nil {
		return nil, err
	}
	db.reaper.start(db, orphans)
	return db, nil
}

// openIntents returns the blobs that the last process left behind, and makes
// sure that no blob gets the id of one that exists, whatever backup meta.db
// came from.
func openIntents(meta *file, last uint64) (orphans []uint64, err error) {
	var sequence uint64
	err = meta.view(func(tx *bbolt.Tx) error {
		intents := tx.Bucket(bucketIntents)
		sequence = intents.Sequence()
		return intents.ForEach(func(k, _ []byte) error {
			if len(k) != 8 {
				return fmt.Errorf("%s: intent %x: %w", meta.path, k, storage.ErrDamaged)
			}
			orphans = append(orphans, binary.BigEndian.Uint64(k))
			return nil
		})
	})
	if err != nil || sequence >= last {
		return orphans, err
	}
	return orphans, meta.update(0, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketIntents).SetSequence(last)
	})
}

// Close closes the store. Objects that are still open fail afterwards.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return fmt.Errorf("store %s: %w", db.dir, fs.ErrClosed)
	}
	db.reaper.stop()
	return errors.Join(db.reader.Close(), db.meta.close(), db.blobs.close())
}

// Stats implements storage.Sizer.
func (db *DB) Stats(ctx context.Context) (storage.Stats, error) {
	var s storage.Stats
	if err := ctx.Err(); err != nil {
		return s, err
	}
	err := db.meta.view(func(tx *bbolt.Tx) error {
		t := readTotals(tx)
		s.Objects, s.Bytes = t.objects, t.bytes
		return nil
	})
	for _, f := range []*file{db.meta, db.blobs} {
		total, free := f.size()
		s.FileBytes += total
		s.FreeBytes += free
	}
	s.Orphans = int64(db.reaper.pending())
	return s, err
}

// totals are kept beside the schema, in a page that each commit writes anyway.
type totals struct{ objects, bytes int64 }

func readTotals(tx *bbolt.Tx) totals {
	p := parser{rest: tx.Bucket(bucketSchema).Get(keyTotals)}
	return totals{objects: p.varint(), bytes: p.varint()}
}

// addTotals changes the totals by so many objects and bytes.
func addTotals(tx *bbolt.Tx, objects, bytes int64) error {
	t := readTotals(tx)
	value := binary.AppendVarint(nil, t.objects+objects)
	value = binary.AppendVarint(value, t.bytes+bytes)
	return tx.Bucket(bucketSchema).Put(keyTotals, value)
}

// buffer returns a buffer with room for a chunk and its checksum.
func (db *DB) buffer() []byte {
	if b, ok := db.buffers.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, bufferSize)
}

// putBuffers gives buffers back. None of them may be used afterwards.
func (db *DB) putBuffers(buffers [][]byte) {
	for _, b := range buffers {
		b = b[:cap(b)]
		db.buffers.Put(&b)
	}
}
