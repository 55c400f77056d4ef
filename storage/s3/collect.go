package s3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"

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
	if age := time.Since(g.Begun); age < wait {
		return fmt.Errorf("the collection before began %v ago, which is less than %v", age.Round(time.Second), wait)
	}
	garbage, err := c.unreferenced(ctx, g.Number)
	if err != nil {
		return err
	}
	next := generation{Number: g.Number + 1, Begun: time.Now().UTC()}
	var old []string
	for _, key := range g.Garbage {
		if garbage[key] {
			old = append(old, key)
			delete(garbage, key)
		}
	}
	next.Garbage = slices.Sorted(maps.Keys(garbage))
	next.Garbage = next.Garbage[:min(len(next.Garbage), maxGarbage)]
	// First the deletion: if it does not end, the next collection begins as this one did.
	for _, key := range old {
		if _, err := c.delete(ctx, key, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		c.done.Deleted++
	}
	if err := c.abort(ctx, g.Number); err != nil {
		return err
	}
	c.done.Marked = int64(len(next.Garbage))
	return c.begin(ctx, next, r, etag)
}

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
	for key, err := range c.keys(ctx, objects) {
		if err != nil {
			return nil, err
		}
		r, _, _, err := c.record(ctx, key, firstRead)
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		case errors.Is(err, storage.ErrDamaged):
			return nil, fmt.Errorf("%w; what it refers to is not known: delete the object first", err)
		case err != nil:
			return nil, err
		default:
			c.done.Records++
			delete(found, r.Content)
		}
	}
	return found, nil
}

// abort ends the uploads of the generations before the last. A store that cannot list them has them
// ended by a rule of the bucket.
func (c *collection) abort(ctx context.Context, current int64) error {
	in := &sdk.ListMultipartUploadsInput{Bucket: &c.name, Prefix: c.key(contents)}
	for range maxEmptyPages {
		var out *sdk.ListMultipartUploadsOutput
		err := c.try(ctx, maxList, func(ctx context.Context) (err error) {
			out, err = c.client.ListMultipartUploads(ctx, in)
			return err
		})
		if status(err) == http.StatusNotImplemented {
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
	next := record{Key: generations, Size: int64(len(value)), Time: g.Begun.Truncate(time.Second), ID: newID(), Sums: sums(value)}
	condition := condition{absent: true}
	if r.ID != "" {
		condition.absent, condition.etag, condition.after = false, etag, r.ID
		next.Past = r.after()
	}
	encoded, err := next.encode(value)
	if err != nil {
		return err
	}
	if err = c.put(ctx, next.Key, next.ID, encoded, condition); errors.Is(err, errTaken) {
		return fmt.Errorf("another collection began: %w", storage.ErrConflict)
	}
	return err
}
