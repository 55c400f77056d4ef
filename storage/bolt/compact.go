package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// Compact implements storage.Compactor. It moves no data: the free pages of both files become holes
// in them. The files keep their length, their order and all references to positions in them, so a
// process that is killed meanwhile leaves an intact store, and no additional disk space is needed.
// The pages of each file are checked first, because a damaged list of free pages may contain used
// ones.
//
// Nothing is written while a file is compacted. The error is errors.ErrUnsupported if the file system or
// the operating system does not support holes.
func (db *DB) Compact(ctx context.Context) (freed int64, err error) {
	if err := db.copying.lock(ctx); err != nil {
		return 0, fmt.Errorf("compact store %s: %w", db.dir, err)
	}
	defer db.copying.unlock()
	for _, f := range []*file{db.meta, db.blobs.file} {
		n, err := compactFile(ctx, f)
		freed += n
		if err != nil {
			return freed, fmt.Errorf("compact store %s: %w", db.dir, err)
		}
	}
	return freed, nil
}

func compactFile(ctx context.Context, f *file) (freed int64, err error) {
	if f.readOnly {
		return 0, storage.ErrReadOnly
	}
	before, err := allocated(f.raw)
	if err != nil {
		return 0, err
	}
	err = f.discard(func(tx *bbolt.Tx) error {
		// A page that is free now may be in use in the state that an earlier reader sees. Later readers
		// see the state of now, because nothing is committed meanwhile.
		if err := f.readers.waitForEarlier(ctx); err != nil {
			return err
		}
		return punchFree(ctx, tx, f.raw)
	})
	if err == nil {
		// If the newest meta page is damaged later, bbolt uses the other one. Its state must not be the
		// one of before, some of whose pages are holes now.
		err = f.update(0, func(*bbolt.Tx) error { return nil })
	}
	after, err2 := allocated(f.raw)
	return max(before-after, 0), errors.Join(err, err2)
}

// punchFree makes holes of the free pages of the file, and of the space after its last page.
func punchFree(ctx context.Context, tx *bbolt.Tx, raw *os.File) error {
	bad, err := badPages(ctx, tx, raw)
	if err != nil || bad != nil {
		return errors.Join(append(bad, err)...)
	}
	info, err := raw.Stat()
	if err != nil {
		return err
	}
	if rest := info.Size() - tx.Size(); rest > 0 {
		if err := punch(raw, tx.Size(), rest); err != nil {
			return err
		}
	}
	return freePages(ctx, tx, func(offset, length int64) error { return punch(raw, offset, length) })
}
