// Package bolt is the embedded engine: a storage.Store in two files of one directory, meta.db for
// the records and the small objects, blobs.db for the large ones. There are two files because each
// has one writer at a time, and small writes must not wait for large ones. Its design and the
// reasons are in docs/design/storage.md.
package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// DB is an open store.
//
// List omits objects whose record is damaged; Verify finds them.
type DB struct {
	dir     string
	log     *slog.Logger
	meta    *file
	journal *journal
	blobs   *blobs
	writer  writer
	reaper  *reaper
	metrics *metrics
	closed  atomic.Bool
	copying turns // of Backup and Compact, of which one runs at a time
}

var (
	_ storage.Store     = (*DB)(nil)
	_ storage.Verifier  = (*DB)(nil)
	_ storage.Sizer     = (*DB)(nil)
	_ storage.Measured  = (*DB)(nil)
	_ storage.Compactor = (*DB)(nil)
	_ storage.Archiver  = (*DB)(nil)
	_ storage.Occupant  = (*DB)(nil)
)

// Options are the options of Open. Nil and zero values mean the defaults.
type Options struct {
	// Logger logs errors that cannot be returned to a caller, such as a failed cleanup. Nil
	// discards them.
	Logger *slog.Logger

	// LockTimeout is how long Open waits for another process to release the store. Zero means one
	// second.
	LockTimeout time.Duration

	// Readers is the budget for open objects: each takes about 16 KiB, and all readers of the same
	// chunk of the same content take 256 KiB together. If half of it is used for chunks, objects
	// are read in smaller pieces; if it is used up, DB.Open returns memory.ErrFull. Nil means no
	// bound.
	Readers *memory.Budget

	// Writers is the budget from which Create and Draft take memory for large objects, and wait for
	// it. With WriterMemory one object at a time is written as fast as possible; others are written
	// in smaller pieces meanwhile. Nil means no bound.
	Writers *memory.Budget

	// FileLimit bounds the size of each of the two files, in bytes: objects that need the last 64 MiB of
	// it are refused like on a full disk. It is at least LeastLimit. 0 means no limit, but 1 GiB on 32
	// bits, where it may not be more and Open refuses a larger file.
	FileLimit int64

	// ReturnSpace gives the disk space of deleted large objects back at once, by holes in the file. Open fails
	// with errors.ErrUnsupported if the file system or the operating system does not support holes.
	ReturnSpace bool

	// Journal bounds the size of the journal of small objects, in bytes, which takes up to 11 MiB of meta.db,
	// and as much again while it grows. A smaller one makes small objects write more pages. 0 means 11 MiB.
	Journal int64

	// Existing makes Open return fs.ErrNotExist instead of creating an empty store.
	Existing bool

	// ReadOnly implies Existing. Open and the store change nothing: write operations return
	// storage.ErrReadOnly. Several processes may have a store open read-only at the same time, if
	// no process has it open for writing.
	ReadOnly bool

	// KeepSchema keeps a store of an earlier schema readable for earlier programs: small objects are
	// written as they wrote them, with more bytes for each.
	KeepSchema bool

	// Outdated is called if the store has keys of an earlier version, or if their move was
	// interrupted. It must call Rekey, unless the caller's use of the store does not depend on the
	// keys. Open returns its error. If it is nil, Open returns ErrOlder.
	Outdated func(*Outdated) error
}

// Open opens the store in the directory dir, or creates an empty one. Only one process can have a
// store open, and it must not be on a network file system.
//
// The errors distinguish ErrInUse, ErrForeign, ErrNewer, ErrOlder and ErrDamaged. After any error,
// nothing in the directory has changed except for the files of an empty store.
func Open(dir string, opts *Options) (*DB, error) {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = time.Second
	}
	db, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return db, nil
}

// open opens blobs.db first: the process that holds its lock has exclusive use of both files.
func open(dir string, o Options) (*DB, error) {
	if o.Existing || o.ReadOnly {
		_, metaErr := os.Stat(filepath.Join(dir, metaName))
		_, blobsErr := os.Stat(filepath.Join(dir, blobsName))
		if errors.Is(metaErr, fs.ErrNotExist) && errors.Is(blobsErr, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is none: %w", fs.ErrNotExist)
		}
	}
	if !o.ReadOnly {
		if err := makeDir(dir); err != nil {
			return nil, err
		}
	}
	limit, err := fileLimit(o.FileLimit)
	if err != nil {
		return nil, err
	}
	if o.ReadOnly {
		limit = 0 // it refuses nothing that would be stored otherwise, so no alert may watch it
	}
	how := opening{o.LockTimeout, o.ReadOnly, limit}
	blobs, err := openFile(filepath.Join(dir, blobsName), blobsPageSize, how)
	if err != nil {
		return nil, err
	}
	meta, err := openFile(filepath.Join(dir, metaName), metaPageSize, how)
	if err != nil {
		return nil, errors.Join(err, blobs.close(false))
	}
	db, err := newDB(dir, meta, blobs, o)
	if err != nil {
		return nil, errors.Join(err, meta.close(false), blobs.close(false))
	}
	if o.ReadOnly {
		return db, nil
	}
	db.warnLarge()
	if err := removeUnfinished(dir); err != nil {
		db.log.Warn("files left by an interrupted start cannot be removed", "err", err)
	}
	return db, nil
}

// warnLarge logs if a file is larger than the limit: objects are stored as long as it has free pages.
func (db *DB) warnLarge() {
	for _, f := range []*file{db.meta, db.blobs.file} {
		if size, _ := f.size(); f.limit > 0 && size > f.limit {
			db.log.Warn("a file of the store is larger than its limit: new objects are stored only in the space of deleted ones",
				"file", filepath.Base(f.path), "bytes", size, "limit", f.limit)
		}
	}
}

// removeUnfinished removes the files that createFile left behind when its process was killed. It
// runs while this process holds both files: another process that is creating such a file has lost
// the race for the store, and finds our file in place of its own.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		for _, name := range []string{metaName, blobsName} {
			if left, _ := filepath.Match(name+unfinished, e.Name()); left {
				err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
			}
		}
	}
	return err
}

// newDB creates a DB of two open files. It closes neither if it fails.
func newDB(dir string, meta, content *file, o Options) (*DB, error) {
	m := newMetrics()
	meta.commits = m.commitSeconds.WithLabelValues("meta")
	content.commits = m.commitSeconds.WithLabelValues("blobs")

	if err := matchFiles(meta, content); err != nil {
		return nil, err
	}
	old, err := outdated(meta)
	if err != nil {
		return nil, err
	}
	journal := &journal{meta: meta, limits: limitsOf(o.Journal), merged: map[string]struct{}{}}
	if err := journal.load(); err != nil {
		return nil, err
	}
	if lost := journal.lost; lost > 0 {
		m.damaged.Add(float64(lost))
		o.Logger.Error("commits in the journal are damaged, and their small objects lost", "commits", lost)
	}
	if old && o.Outdated == nil {
		return nil, fmt.Errorf("%w; start assay serve once on it, which moves them", storage.ErrOlder)
	}
	var orphans []uint64
	if !o.ReadOnly {
		if err := content.join(); err != nil {
			o.Logger.Warn("blobs.db does not name its meta.db", "err", err) // a full disk must not prevent reading
		}
		last, err := content.lastBlob()
		if err != nil {
			return nil, err
		}
		if orphans, err = openIntents(meta, last); err != nil {
			return nil, err
		}
	}
	blobs, err := openBlobs(content, o.Readers, m.damaged)
	if err != nil {
		return nil, err
	}
	copying := make(turns, 1)
	holes, err := newHoles(dir, o.ReturnSpace && !o.ReadOnly, copying)
	if err != nil {
		return nil, errors.Join(err, blobs.reader.Close())
	}
	reaper := newReaper(meta, content, o.Logger, holes, orphans)
	db := &DB{
		dir: dir, log: o.Logger, meta: meta, journal: journal, blobs: blobs, reaper: reaper, metrics: m,
		copying: copying,
	}
	db.writer = writer{meta, journal, blobs, reaper, m, newDrafts(o.Writers, &db.closed)}
	if old {
		if err := o.Outdated(&Outdated{meta, db}); err != nil {
			return nil, err
		}
	}
	raises, err := journal.allow(o.KeepSchema)
	if err != nil {
		return nil, err
	}
	if raises {
		o.Logger.Info("the first small object that is stored changes the layout of the store; then earlier versions cannot open it any more")
	}
	reaper.start()
	return db, nil
}

// Close closes the store. Operations on objects that are still open fail afterwards.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return fmt.Errorf("store %s: %w", db.dir, fs.ErrClosed)
	}
	db.reaper.stop()
	_ = db.journal.settle() // an error leaves the objects in the journal, where the next start finds them
	return errors.Join(db.meta.close(true), db.blobs.close())
}

// Stats implements storage.Sizer.
func (db *DB) Stats(ctx context.Context) (storage.Stats, error) {
	var s storage.Stats
	if err := ctx.Err(); err != nil {
		return s, err
	}
	// Before the transaction begins: what leaves the journal afterwards is in the tree, and counts twice.
	objects, bytes := db.journal.totals()
	err := db.meta.view(func(tx *bbolt.Tx) error {
		t := readTotals(tx)
		s.Objects, s.Bytes = t.objects+objects, t.bytes+bytes
		return nil
	})
	for _, f := range []*file{db.meta, db.blobs.file} {
		total, free := f.size()
		s.FileBytes += total
		s.FreeBytes += free
	}
	s.Orphans = int64(db.reaper.pending())
	return s, err
}
