package bolt

import (
	"context"
	"fmt"
	"os"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// badPages makes bbolt check that each page of a file is either used once or free, and returns the
// contradictions. It needs about 50 bytes for each page. The caller ensures that unreadable pages
// are errors, and that nothing is written meanwhile: a free page could become a used one during the
// check.
func badPages(ctx context.Context, tx *bbolt.Tx, file *os.File) (bad []error, err error) {
	if err := checkTrees(tx, file, true); err != nil {
		return nil, err
	}
	if err := touchPages(ctx, tx); err != nil {
		return nil, err
	}
	for err := range tx.Check() {
		bad = append(bad, fmt.Errorf("%s: %w: %w", tx.DB().Path(), err, storage.ErrDamaged))
	}
	return bad, ctx.Err()
}

// touchPages walks all buckets, so that our own goroutine finds an unreadable page, and not one of
// bbolt, which has no protection against faults.
func touchPages(ctx context.Context, tx *bbolt.Tx) error {
	var walk func(b *bbolt.Bucket) error
	walk = func(b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				if child := b.Bucket(k); child != nil {
					return walk(child)
				}
			}
			return ctx.Err()
		})
	}
	return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return walk(b) })
}

// freePages calls visit for each run of free pages, with its offset and its length in bytes. The
// transaction must be a write transaction, and no reader may use pages that were freed.
func freePages(ctx context.Context, tx *bbolt.Tx, visit func(offset, length int64) error) error {
	pageSize := int64(tx.DB().Info().PageSize)
	pages := int(tx.Size() / pageSize)
	first := -1 // of the run
	for id := 2; id <= pages; {
		free, next := false, id+1
		if id < pages {
			info, err := tx.Page(id)
			if err != nil {
				return err
			}
			free = info.Type == "free"
			if !free {
				next += info.OverflowCount
			}
		}
		switch {
		case free && first < 0:
			first = id
			if err := ctx.Err(); err != nil {
				return err
			}
		case !free && first >= 0:
			if err := visit(int64(first)*pageSize, int64(id-first)*pageSize); err != nil {
				return err
			}
			first = -1
		}
		id = next
	}
	return nil
}
