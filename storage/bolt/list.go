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

// listBatch is how many records List reads in one transaction: about 0.3 ms, and 300 KB of memory.
const listBatch = 1000

// List implements storage.Store.
func (db *DB) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		for page := (listPage{next: prefix}); ; {
			err := page.turn(ctx, db.journal, prefix)
			if page.damaged > 0 {
				db.metrics.damaged.Add(float64(page.damaged))
				db.log.Error("damaged records omitted from a list; run assay verify", "prefix", prefix, "records", page.damaged)
			}
			for _, info := range page.infos {
				if !yield(info, nil) {
					return
				}
			}
			if err != nil {
				yield(storage.Info{}, fmt.Errorf("list %.200q: %w", prefix, err))
			}
			if err != nil || page.next == "" {
				return
			}
		}
	}
}

// Keys implements storage.Store.
func (db *DB) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for info, err := range db.List(ctx, prefix) {
			if !yield(info.Key, err) {
				return
			}
		}
	}
}

// States implements storage.Enumerator.
func (db *DB) States(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for from := prefix; ; {
			var names []string
			err := ctx.Err()
			if err == nil {
				err = db.meta.view(func(tx *bbolt.Tx) error {
					names = stateNames(tx, from, prefix)
					return nil
				})
			}
			if err != nil {
				yield("", fmt.Errorf("list the states %q: %w", prefix, err))
				return
			}
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
			}
			if len(names) < listBatch {
				return
			}
			from = names[len(names)-1] + "\x00"
		}
	}
}

// stateNames returns the names of at most listBatch states from a name on that begin with prefix.
func stateNames(tx *bbolt.Tx, from, prefix string) (names []string) {
	cursor := tx.Bucket(bucketStates).Cursor()
	for name, _ := cursor.Seek([]byte(from)); name != nil && len(names) < listBatch; name, _ = cursor.Next() {
		if !strings.HasPrefix(string(name), prefix) {
			break
		}
		names = append(names, string(name))
	}
	return names
}

// listPage is a part of a list.
type listPage struct {
	infos   []storage.Info
	damaged int    // number of omitted records
	next    string // first key of the next page, "" after the last page
}

// turn makes p the next page.
func (p *listPage) turn(ctx context.Context, j *journal, prefix string) error {
	from := p.next
	*p = listPage{infos: p.infos[:0]}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Before the transaction begins: what leaves the journal afterwards is in the tree.
	recent := j.from(from, prefix, listBatch+1)
	return j.meta.view(func(tx *bbolt.Tx) error { return p.read(tx, recent, prefix, from) })
}

// read reads the page from the tree and from the objects of the journal, which may be the same.
func (p *listPage) read(tx *bbolt.Tx, recent []entry, prefix, from string) error {
	last := ""
	cursor := tx.Bucket(bucketObjects).Cursor()
	k, v := cursor.Seek([]byte(from))
	for {
		key, value := string(k), v
		inTree := k != nil && strings.HasPrefix(key, prefix)
		switch {
		case len(recent) > 0 && (!inTree || recent[0].key <= key):
			if inTree && recent[0].key == key {
				k, v = cursor.Next()
			}
			key, value, recent = recent[0].key, recent[0].value, recent[1:]
		case inTree:
			k, v = cursor.Next()
		default:
			return nil
		}
		if last != "" && key <= last {
			// A damaged key could otherwise cause an endless loop.
			return fmt.Errorf("keys are out of order at %q: %w", key, storage.ErrDamaged)
		}
		last = key
		if len(p.infos)+p.damaged == listBatch {
			p.next = key
			return nil
		}
		r, err := decodeRecord(key, value)
		if errors.Is(err, storage.ErrDamaged) {
			p.damaged++
			continue
		}
		p.infos = append(p.infos, r.info)
	}
}
