package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// Backup implements storage.Archiver.
//
// The snapshots of both files begin at the same moment, when neither has a running commit. Together
// they are the state that a kill at that moment leaves: Open deletes the blobs that were being
// written. Two snapshots one after the other would not suffice. If meta.db came first, the content
// of an object that is deleted in between would be missing in blobs.db; if blobs.db came first, the
// content of one that is created in between.
//
// The space of data that is deleted while a file is copied is free only after the copy, so the file
// may grow. The snapshot of meta.db, which has the most commits, ends first. Where address space is
// scarce (Windows, 32 bits, ulimit -v), a write that makes a file outgrow its map waits for the end
// of the copy, and readers wait with it.
func (db *DB) Backup(ctx context.Context, write func(storage.BackupFile) error) error {
	if err := db.backup(ctx, write); err != nil {
		return fmt.Errorf("back up store %s: %w", db.dir, err)
	}
	return nil
}

func (db *DB) backup(ctx context.Context, write func(storage.BackupFile) error) error {
	if err := db.copying.lock(ctx); err != nil {
		return err
	}
	defer db.copying.unlock()
	snapshots, err := db.beginAll()
	if err != nil {
		return err
	}
	for i, name := range []string{metaName, blobsName} {
		if err == nil {
			err = write(storage.BackupFile{Name: name, Size: snapshots[i].Size(), Content: &snapshot{ctx, &db.closed, snapshots[i]}})
		}
		err = errors.Join(err, snapshots[i].Rollback())
	}
	return err
}

// beginAll begins a read transaction of each file while none has a running commit. The caller ends the
// transactions.
func (db *DB) beginAll() (all []*bbolt.Tx, err error) {
	_ = db.journal.settle() // in slices, while others write; what is left then is settled below
	files := []*file{db.meta, db.blobs.file}
	for _, f := range files {
		f.commitMu.Lock()
		defer f.commitMu.Unlock()
	}
	_ = db.journal.settleLocked() // an error leaves the objects in the journal, which is copied, too
	for _, f := range files {
		if stuck := f.stuck.Load(); stuck != nil {
			err = *stuck
			break
		}
		tx, beginErr := f.bolt.Begin(false)
		if beginErr != nil {
			err = f.explain(beginErr)
			break
		}
		all = append(all, tx)
	}
	if err != nil {
		for _, tx := range all {
			err = errors.Join(err, tx.Rollback())
		}
		return nil, err
	}
	db.journal.freeze() // what is written into it from now on is not part of the copy
	return all, nil
}

// snapshot is a file as tx sees it. Its copy ends early with ctx, or when the store is closed.
type snapshot struct {
	ctx    context.Context
	closed *atomic.Bool
	tx     *bbolt.Tx
}

// WriteTo writes the whole file to w.
func (s *snapshot) WriteTo(w io.Writer) (int64, error) {
	guarded := &guardedWriter{snapshot: s, to: w}
	n, err := s.tx.WriteTo(guarded)
	if guarded.err != nil {
		err = guarded.err // bbolt wraps only its text
	}
	return n, err
}

// guardedWriter writes to another writer as long as its snapshot may be copied.
type guardedWriter struct {
	snapshot *snapshot
	to       io.Writer
	err      error // the first one
}

func (g *guardedWriter) Write(b []byte) (n int, err error) {
	switch err = g.snapshot.ctx.Err(); {
	case err != nil:
	case g.snapshot.closed.Load():
		err = fs.ErrClosed
	default:
		n, err = g.to.Write(b)
	}
	g.err = err
	return n, err
}
