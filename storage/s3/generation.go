package s3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// generations is the key of the record that counts generations, below the prefix of the store.
const generations = "g/generations"

// generation is the value of that record. A content is in the generation in which its upload began. A
// generation is collected when two newer ones have begun, and a writer whose generation is as old takes
// its record back: so a writer that stalled cannot refer to what was collected.
type generation struct {
	Number int64     `json:"number"`
	Begun  time.Time `json:"begun"` // by the clock of the collector

	// Marks is the key of a list of contents, to which nothing referred when the generation began. They
	// are deleted when the next one begins, if that is still so. Empty: there are none.
	Marks string `json:"marks,omitempty"`
}

// contentKey returns the key of a content.
func (g generation) contentKey(id string) string {
	return fmt.Sprintf("%s%d/%s", contents, g.Number, id)
}

// of returns the generation of a content.
func of(contentKey string) (int64, bool) {
	rest, ours := strings.CutPrefix(contentKey, contents)
	number, _, found := strings.Cut(rest, "/")
	n, err := strconv.ParseInt(number, 10, 64)
	return n, ours && found && err == nil && n >= 0
}

// generation returns the current generation, and the record that has it. Before the first collection
// that is generation 0, without a record.
func (b records) generation(ctx context.Context) (g generation, r record, etag string, err error) {
	r, value, etag, err := b.record(ctx, generations, firstRead, true)
	if errors.Is(err, fs.ErrNotExist) {
		return generation{}, record{}, "", nil
	}
	if err == nil && json.Unmarshal(value, &g) != nil {
		err = fmt.Errorf("%s: %w", generations, storage.ErrDamaged)
	}
	return g, r, etag, err
}

// marks returns the contents that a generation has marked.
func (b records) marks(ctx context.Context, g generation) (all []string, err error) {
	if g.Marks == "" {
		return nil, nil
	}
	_, value, _, err := b.record(ctx, g.Marks, maxHeader+storage.MaxState, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errCollected // a newer generation has begun
	}
	if err == nil && json.Unmarshal(value, &all) != nil {
		err = fmt.Errorf("%s: %w", g.Marks, storage.ErrDamaged)
	}
	return all, err
}

// errCollected means that the content of a record may have been collected.
var errCollected = errors.New("contents were collected meanwhile, and this one may be gone; try again")

// confirm checks that no content that was named in time can have been collected: the generation is at
// most newest.
func (b records) confirm(ctx context.Context, newest int64) error {
	now, _, _, err := b.generation(ctx)
	if err == nil && now.Number > newest {
		err = errCollected
	}
	return err
}

// takeBack deletes a record that was just written, if it is still there.
func (b records) takeBack(ctx context.Context, r record) error {
	there, _, etag, err := b.record(ctx, r.Key, firstRead, false)
	if errors.Is(err, fs.ErrNotExist) || err == nil && there.ID != r.ID {
		return nil
	}
	if err == nil {
		_, err = b.delete(ctx, r.Key, etag)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errTaken) {
		return nil
	}
	return err
}
