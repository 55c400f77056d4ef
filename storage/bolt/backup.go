package bolt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/internal/durable"
)

// notYet follows the name of a directory while a backup is written to it.
const notYet = ".unfinished"

// Backup implements storage.Archiver. Until the copy is whole it is in dir.unfinished,
// where an interrupted backup leaves it, and the next one to dir removes it.
//
// The snapshots of both files begin at the same moment, when neither has a commit under
// way, so together they are what a kill at that moment leaves: Open deletes the blobs
// that were being written. Two snapshots one after the other would not do. With that of
// meta.db first, the content of an object that is deleted in between is gone from
// blobs.db; with that of blobs.db first, the content of one that is created in between
// is not there yet.
//
// The space of what is deleted while a file is copied is free only after that, so the file
// may grow. Where address space is scarce (Windows, 32 bits, ulimit -v) a
// write that makes a file outgrow its map waits for the end, and readers with it.
func (db *DB) Backup(ctx context.Context, dir string) error {
	db.copying.Lock()
	defer db.copying.Unlock()
	err := makeWhole(filepath.Clean(dir), func(unfinished string) error { return db.copyTo(ctx, unfinished) })
	if err != nil {
		return fmt.Errorf("back up store %s: %w", db.dir, err)
	}
	return nil
}

// makeWhole makes a directory that has its name only when all that fill puts into it, and
// syncs, is there.
func makeWhole(dir string, fill func(unfinished string) error) error {
	_, err := os.Lstat(dir)
	if err == nil {
		return fmt.Errorf("%s: %w; name a directory that does not exist yet", dir, fs.ErrExist)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unfinished := dir + notYet
	if err := errors.Join(os.RemoveAll(unfinished), makeDir(unfinished)); err != nil {
		return err
	}
	if err := fill(unfinished); err != nil {
		return errors.Join(explainOpen(dir, err), os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// copyTo copies both files to a directory. That of meta.db, which has the most commits,
// ends its snapshot first.
func (db *DB) copyTo(ctx context.Context, dir string) error {
	snapshots, err := begin(db.meta, db.blobs.file)
	if err != nil {
		return err
	}
	for i, name := range []string{metaName, blobsName} {
		if err == nil {
			err = copySnapshot(ctx, snapshots[i], filepath.Join(dir, name), &db.closed)
		}
		err = errors.Join(err, snapshots[i].Rollback())
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// begin begins a read transaction of each file while none has a commit under way. The
// caller ends them.
func begin(files ...*file) (all []*bbolt.Tx, err error) {
	for _, f := range files {
		f.commitMu.Lock()
		defer f.commitMu.Unlock()
	}
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
	return all, nil
}

// copySnapshot writes the file as tx sees it to a new file. closed ends it.
func copySnapshot(ctx context.Context, tx *bbolt.Tx, name string, closed *atomic.Bool) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // again, after an error
	w := bufio.NewWriterSize(&copier{ctx: ctx, closed: closed, to: f}, copySize)
	_, err = tx.WriteTo(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Truncate(tx.Size()) // it may end with a hole
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

const (
	copySize = 1 << 20  // how much of a file is read and written at once
	holeSize = 16 << 10 // how many zeros in a row are not written
)

// copier writes to a new file, and leaves holes for zeros.
type copier struct {
	ctx    context.Context
	closed *atomic.Bool
	to     *os.File
	offset int64
	zeros  [holeSize]byte
}

func (c *copier) Write(b []byte) (n int, err error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, fs.ErrClosed
	}
	from := 0 // of what is not zero and not written
	for at := 0; at < len(b) && err == nil; at += holeSize {
		end := min(at+holeSize, len(b))
		if bytes.Equal(b[at:end], c.zeros[:end-at]) {
			_, err = c.to.WriteAt(b[from:at], c.offset+int64(from))
			from = end
		}
	}
	if err == nil {
		_, err = c.to.WriteAt(b[from:], c.offset+int64(from))
	}
	if err != nil {
		return 0, err
	}
	c.offset += int64(len(b))
	return len(b), nil
}
