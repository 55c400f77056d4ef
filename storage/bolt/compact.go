package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// errPinned means that a reader uses pages that were freed since it began.
var errPinned = errors.New("readers hold freed pages")

// compactAgain is how long Compact waits for readers that use freed pages. Readers that serve
// clients use them for less than a millisecond.
const compactAgain = 10 * time.Millisecond

// Compact implements storage.Compactor. It moves no data: the free pages of both files become holes
// in them. The files keep their length, their order and all references to positions in them, so a
// process that is killed meanwhile leaves an intact store, and no additional disk space is needed.
// The pages of each file are checked first, because a damaged list of free pages may contain used
// ones.
//
// Nothing is written while Compact runs. The error is errors.ErrUnsupported if the file system or
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
	for {
		err = f.discard(
			func(*bbolt.Tx) error { return nil }, // makes bbolt release the pages that no reader uses, and count the others
			func(tx *bbolt.Tx) error {
				if f.bolt.Stats().PendingPageN > 0 {
					return errPinned
				}
				return punchFree(ctx, tx, f.raw)
			})
		if err != errPinned {
			break
		}
		select {
		case <-time.After(compactAgain):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	after, err2 := allocated(f.raw)
	return max(before-after, 0), errors.Join(err, err2)
}

// punchFree makes holes of the free pages of the file, and of the space after its last page.
func punchFree(ctx context.Context, tx *bbolt.Tx, raw *os.File) error {
	bad, err := badPages(ctx, tx)
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
