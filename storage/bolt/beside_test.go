package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// Beside merges, whose slices go on all the time, each acknowledged object is read at every moment and is once
// in every list, and what was replaced is not read again.
func TestReadsBesideMerge(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	db.SmallLimits()
	put(t, db, "replaced", []byte{0})
	ctx, stop := context.WithCancel(t.Context())
	var writers, readers sync.WaitGroup
	var created [3]atomic.Int64
	var replaced atomic.Int64
	for w := range created {
		writers.Go(func() {
			for n := range int64(150) {
				key := fmt.Sprintf("%d/%d", w, (n*37)%1000)
				if err := db.Create(ctx, storage.Info{Key: key, Size: int64(len(key))}, strings.NewReader(key)); err != nil {
					t.Error(err)
					return
				}
				created[w].Store(n + 1)
			}
		})
	}
	writers.Go(func() {
		for n := range byte(30) {
			if err := db.Replace(ctx, storage.Info{Key: "replaced", Size: 1}, bytes.NewReader([]byte{n})); err != nil {
				t.Error(err)
				return
			}
			replaced.Store(int64(n))
		}
	})
	for w := range created {
		readers.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				before := created[w].Load()
				if err := expectBeside(db, w, before); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Go(func() {
		for ctx.Err() == nil && !t.Failed() {
			least := replaced.Load()
			content, err := read(db, "replaced")
			if err != nil || len(content) != 1 || int64(content[0]) < least {
				t.Errorf("read %v, %v, after it was replaced by %d", content, err, least)
			}
		}
	})
	writers.Wait()
	stop()
	readers.Wait()
}

func read(db *bolt.DB, key string) ([]byte, error) {
	o, err := db.Open(context.Background(), key)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(o)
	return content, errors.Join(err, o.Close())
}

// expectBeside checks that the store has the first n objects of a writer, each once.
func expectBeside(db *bolt.DB, writer int, n int64) error {
	for i := range n {
		key := fmt.Sprintf("%d/%d", writer, (i*37)%1000)
		if content, err := read(db, key); err != nil || string(content) != key {
			return fmt.Errorf("%s: %q, %w", key, content, err)
		}
	}
	listed := map[string]bool{}
	for info, err := range db.List(context.Background(), fmt.Sprint(writer, "/")) {
		if err != nil || listed[info.Key] {
			return fmt.Errorf("%s is listed twice, or %w", info.Key, err)
		}
		listed[info.Key] = true
	}
	for i := range n {
		if key := fmt.Sprintf("%d/%d", writer, (i*37)%1000); !listed[key] {
			return fmt.Errorf("%s is not listed", key)
		}
	}
	return nil
}
