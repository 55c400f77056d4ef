package s3

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/storage"
)

// Collected is what a collection has done.
type Collected struct {
	Records  int64 // that were read
	Contents int64 // that are there
	Marked   int64 // to which nothing refers, and which the next collection may delete
	Deleted  int64
	Uploads  int64 // in parts, which a writer had left
}

// marksDir is where the lists of marked contents are, below the prefix of the store.
const marksDir = "g/marks/"

// maxGarbage is how many contents one collection marks; the next one marks more.
const maxGarbage = 100_000

// Collect deletes the contents that the collection before it marked and to which still nothing
// refers, and marks those to which nothing refers now. It reads each record. A collection less than
// wait after the one before changes nothing, and is an error: wait must be longer than any request of a
// client, because an object that is open when its key is deleted is read on.
//
// Two collections at the same time are safe; one of them fails with storage.ErrConflict.
func (db *DB) Collect(ctx context.Context, wait time.Duration) (Collected, error) {
	if err := db.check(ctx); err != nil {
		return Collected{}, fmt.Errorf("collect: %w", err)
	}
	c := collection{records: db.records}
	if err := c.run(ctx, wait); err != nil {
		return c.done, fmt.Errorf("collect: %w", err)
	}
	return c.done, nil
}

type collection struct {
	records
	done Collected
}

func (c *collection) run(ctx context.Context, wait time.Duration) error {
	g, r, etag, err := c.generation(ctx)
	if err != nil {
		return err
	}
	if age := max(time.Since(g.Begun), 0); age < wait {
		return fmt.Errorf("the collection before began %v ago, which is less than %v; run it again in %v", age.Round(time.Second), wait, (wait - age).Round(time.Second))
	}
	marks, err := c.marks(ctx, g)
	if err != nil {
		return err
	}
	garbage, err := c.unreferenced(ctx, g.Number)
	if err != nil {
		return err
	}
	// While this one stalled another may have begun a generation, in which writers and movers rely on a
	// later scan than ours.
	if now, _, _, err := c.generation(ctx); err != nil {
		return err
	} else if now.Number != g.Number {
		return fmt.Errorf("another collection began: %w", storage.ErrConflict)
	}
	// First the deletion: if it does not end, the next collection begins as this one did.
	for _, key := range marks {
		if !garbage[key] {
			continue
		}
		delete(garbage, key)
		if _, err := c.delete(ctx, key, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		c.done.Deleted++
	}
	if err := c.abort(ctx, g.Number); err != nil {
		return err
	}
	next := generation{Number: g.Number + 1, Begun: time.Now().UTC()}
	if next.Marks, err = c.mark(ctx, garbage); err != nil {
		return err
	}
	if err := c.begin(ctx, next, r, etag); err != nil {
		return err
	}
	if g.Marks != "" {
		_, _ = c.delete(ctx, g.Marks, "") // what stays is small, and means nothing
	}
	return nil
}

// mark writes the contents that the next collection may delete, and returns the key of the list.
func (c *collection) mark(ctx context.Context, garbage map[string]bool) (string, error) {
	if len(garbage) == 0 {
		return "", nil
	}
	marked := slices.Sorted(maps.Keys(garbage))
	marked = marked[:min(len(marked), maxGarbage)]
	c.done.Marked = int64(len(marked))
	value, err := json.Marshal(marked)
	if err != nil {
		return "", err
	}
	r := c.valueRecord(marksDir+newID(), value)
	return r.Key, c.putRecord(ctx, r, value, condition{absent: true})
}

// valueRecord returns a record of a value of this package.
func (c *collection) valueRecord(key string, value []byte) record {
	return record{Key: key, Size: int64(len(value)), Time: time.Now().UTC().Truncate(time.Second), ID: newID(), Sums: sums(value)}
}

// scanAhead is how many records a collection reads at a time.
const scanAhead = 16

// unreferenced returns the contents of the generations before the last that no record names.
func (c *collection) unreferenced(ctx context.Context, current int64) (map[string]bool, error) {
	found := map[string]bool{}
	// The contents first: one that is created meanwhile is not among them.
	for key, err := range c.keys(ctx, contents) {
		if err != nil {
			return nil, err
		}
		c.done.Contents++
		if n, ok := of(key); ok && n < current {
			found[key] = true
		}
	}
	var mu sync.Mutex // guards found and done
	group, scan := errgroup.WithContext(ctx)
	group.SetLimit(scanAhead)
	for key, err := range c.keys(scan, objects) {
		if err != nil {
			return nil, cmp.Or(group.Wait(), err)
		}
		if storage.CheckKey(key[len(objects):]) != nil {
			continue // none of ours, see Keys
		}
		group.Go(func() error {
			r, _, _, err := c.record(scan, key, firstRead, false)
			switch {
			case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
				return nil
			case errors.Is(err, storage.ErrDamaged):
				return fmt.Errorf("%w; what it refers to is not known: delete the object first", err)
			case err != nil:
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			c.done.Records++
			delete(found, r.Content)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return found, nil
}

// abort ends the uploads of the generations before the last. Where they cannot be listed, or the right to
// do so is missing, a rule of the bucket must end them.
func (c *collection) abort(ctx context.Context, current int64) error {
	in := &sdk.ListMultipartUploadsInput{Bucket: &c.name, Prefix: c.key(contents)}
	for range maxEmptyPages {
		var out *sdk.ListMultipartUploadsOutput
		err := c.try(ctx, maxList, func(ctx context.Context) (err error) {
			out, err = c.client.ListMultipartUploads(ctx, in)
			return err
		})
		if s := status(err); s == http.StatusNotImplemented || s == http.StatusForbidden {
			return nil
		}
		if err != nil {
			return c.explain(err)
		}
		for _, u := range out.Uploads {
			key, ours := strings.CutPrefix(aws.ToString(u.Key), c.prefix)
			if n, ok := of(key); !ours || !ok || n >= current {
				continue
			}
			_, err := c.client.AbortMultipartUpload(ctx, &sdk.AbortMultipartUploadInput{Bucket: &c.name, Key: u.Key, UploadId: u.UploadId})
			if err != nil && status(err) != http.StatusNotFound {
				return c.explain(err)
			}
			c.done.Uploads++
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
	return nil // the next collection goes on
}

// begin makes g the current generation, if the record of the last one is still r.
func (c *collection) begin(ctx context.Context, g generation, r record, etag string) error {
	value, err := json.Marshal(g)
	if err != nil {
		return err
	}
	next := c.valueRecord(generations, value)
	condition := condition{absent: true}
	if r.ID != "" {
		condition.absent, condition.etag, condition.after = false, etag, r.ID
		next.Past = r.after()
	}
	if err = c.putRecord(ctx, next, value, condition); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("another collection began: %w", storage.ErrConflict)
	}
	return err
}
