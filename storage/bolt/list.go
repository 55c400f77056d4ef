package bolt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// listBatch is how many records List reads in one transaction: some 0.3 ms,
// and 300 KB of memory.
const listBatch = 1000

// List implements storage.Store.
func (db *DB) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		from := prefix
		for {
			infos, next, err := db.listSome(ctx, prefix, from)
			for _, info := range infos {
				if !yield(info, nil) {
					return
				}
			}
			if err != nil {
				yield(storage.Info{}, fmt.Errorf("list %.200q: %w", prefix, err))
				return
			}
			if next == "" {
				return
			}
			from = next
		}
	}
}

// listSome returns the next objects with the prefix whose key is not before
// from, and where to go on, which is "" at the end.
func (db *DB) listSome(ctx context.Context, prefix, from string) (infos []storage.Info, next string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	damaged := 0
	err = db.meta.view(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketObjects).Cursor()
		last := ""
		n := 0
		for k, v := cursor.Seek([]byte(from)); k != nil && strings.HasPrefix(string(k), prefix); k, v = cursor.Next() {
			key := string(k)
			if last != "" && key <= last {
				// A damaged key could otherwise send us in circles.
				return fmt.Errorf("keys are out of order at %q: %w", key, storage.ErrDamaged)
			}
			last = key
			if n == listBatch {
				next = key
				return nil
			}
			n++
			r, err := decodeRecord(key, v)
			if errors.Is(err, storage.ErrDamaged) {
				damaged++
				continue
			}
			infos = append(infos, r.info)
		}
		return nil
	})
	if damaged > 0 {
		db.metrics.damaged.Add(float64(damaged))
		db.log.Error("damaged records omitted from a list; run assay verify", "prefix", prefix, "records", damaged)
	}
	return infos, next, err
}
