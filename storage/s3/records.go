package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// putRecord writes a record, with the content if it is small. The error is fs.ErrExist if the key is taken.
func (b records) putRecord(ctx context.Context, r record, content []byte, c condition) error {
	value, err := r.encode(content)
	if err != nil {
		return err
	}
	if err = b.put(ctx, r.Key, r.ID, value, c); errors.Is(err, errTaken) {
		return fs.ErrExist
	}
	return err
}

// look returns a condition that holds as long as the key has what it has now, and the record. A damaged
// record has an ETag and no ID.
func (b records) look(ctx context.Context, key string) (condition, record, error) {
	r, _, etag, err := b.record(ctx, key, firstRead, false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return condition{absent: true}, record{}, nil
	case err != nil && !errors.Is(err, storage.ErrDamaged):
		return condition{}, record{}, err
	}
	return condition{etag: etag, after: r.ID}, r, nil
}

// replaceRecord writes a record whatever the key has.
func (b records) replaceRecord(ctx context.Context, r record, content []byte) error {
	for attempt := 1; ; attempt++ {
		c, _, err := b.look(ctx, r.Key)
		if err != nil {
			return err
		}
		err = b.putRecord(ctx, r, content, c)
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, errUnknown) || attempt == maxChanges {
			return err
		}
		if err := pause(ctx, min(attempt, attempts)); err != nil {
			return err
		}
	}
}

// remove deletes a key that exists.
func (b records) remove(ctx context.Context, key string) error {
	for attempt := 1; ; attempt++ {
		c, r, err := b.look(ctx, key)
		if err != nil {
			return err
		}
		if c.absent {
			return fs.ErrNotExist
		}
		unknown, err := b.delete(ctx, key, c.etag)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // another has deleted it at the same time, or the answer to our first attempt got lost
		case !errors.Is(err, errTaken):
			return err
		case attempt == attempts:
			return errors.New("it was replaced again and again")
		case !unknown:
			continue
		}
		_, now, err := b.look(ctx, key)
		if err != nil {
			return err
		}
		if r.ID == "" || !now.from(r.ID) {
			return nil // what is there now was created after ours was deleted, or replaced it
		}
	}
}

// move names a content under another key. What it moves may be deleted or moved by another at the same
// time: then it is under the new key all the same.
func (b records) move(ctx context.Context, from, to, proof string) error {
	r, content, etag, err := b.record(ctx, objects+from, firstRead+chunkSize, true)
	if err != nil {
		return err
	}
	var began generation
	if r.Content != "" {
		if began, err = b.mayMove(ctx, r); err != nil {
			return err
		}
	}
	moved := r
	moved.Key, moved.Proof, moved.ID = objects+to, proof, newID()
	if err := b.putRecord(ctx, moved, content, condition{absent: true}); err != nil {
		return err
	}
	if r.Content != "" {
		if err := b.confirm(ctx, began.Number); err != nil {
			return errors.Join(err, b.takeBack(ctx, moved))
		}
	}
	_, err = b.delete(ctx, objects+from, etag)
	if errors.Is(err, errTaken) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// mayMove returns the generation in which the content of a record is moved. It is not moved if a
// collection may be about to delete it, having missed the record.
func (b records) mayMove(ctx context.Context, r record) (generation, error) {
	g, _, _, err := b.generation(ctx)
	if err != nil {
		return g, err
	}
	marks, err := b.marks(ctx, g)
	if err != nil {
		return g, err
	}
	now, _, _, err := b.record(ctx, r.Key, firstRead, false)
	if err != nil {
		return g, err
	}
	if slices.Contains(marks, r.Content) || now.ID != r.ID {
		return g, errCollected
	}
	return g, nil
}

func (b records) apply(ctx context.Context, batch storage.Batch) error {
	if batch.SwapFirst && batch.Swap != nil {
		if err := b.swap(ctx, batch.Swap.Name, batch.Swap.Old, batch.Swap.New); err != nil {
			return err
		}
	}
	for _, small := range batch.Create {
		if err := b.createSmall(ctx, small); err != nil {
			return fmt.Errorf("%.200q: %w", small.Info.Key, err)
		}
	}
	if batch.SwapFirst || batch.Swap == nil {
		return nil
	}
	return b.swap(ctx, batch.Swap.Name, batch.Swap.Old, batch.Swap.New)
}

// createSmall creates an object of a batch, unless it is there already.
func (b records) createSmall(ctx context.Context, small storage.Small) error {
	info := small.Info
	info.Size = int64(len(small.Content))
	r := newRecord(info, sums(small.Content))
	sum := sha256.Sum256(small.Content)
	r.SHA256 = sum[:]
	err := b.putRecord(ctx, r, small.Content, condition{absent: true})
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, content, _, readErr := b.record(ctx, objects+info.Key, firstRead+chunkSize, true)
	if readErr != nil {
		return readErr
	}
	if !small.Same(there.info()) || !bytes.Equal(content, small.Content) {
		return err
	}
	return nil
}

// state returns the record of a state, its value, and its ETag.
func (b records) state(ctx context.Context, name string) (record, []byte, string, error) {
	return b.record(ctx, states+name, maxHeader+storage.MaxState, true)
}

// maxChanges is how often a change meets others before it gives up.
const maxChanges = 100

// setState sets a state whatever it has.
func (b records) setState(ctx context.Context, name string, value []byte) error {
	for attempt := 1; ; attempt++ {
		c, now, err := b.look(ctx, states+name)
		if err != nil {
			return err
		}
		err = b.putState(ctx, name, value, now, c)
		if !errors.Is(err, errTaken) && !errors.Is(err, errUnknown) || attempt == maxChanges {
			return err
		}
		if err := pause(ctx, min(attempt, attempts)); err != nil {
			return err
		}
	}
}

// swap changes a state from old to value. The value may be the old one, so a state that has changed is
// looked at again.
func (b records) swap(ctx context.Context, name string, old, value []byte) error {
	for attempt := 1; ; attempt++ {
		r, now, etag, err := b.state(ctx, name)
		c := condition{etag: etag, after: r.ID}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			c = condition{absent: true}
		case err != nil:
			return err
		}
		if c.absent != (old == nil) || !bytes.Equal(now, old) {
			return storage.ErrConflict
		}
		err = b.putState(ctx, name, value, r, c)
		if !errors.Is(err, errTaken) || attempt == maxChanges {
			return err
		}
		if err := pause(ctx, min(attempt, attempts)); err != nil {
			return err
		}
	}
}

// putState writes a state after the record that it had.
func (b records) putState(ctx context.Context, name string, value []byte, before record, c condition) error {
	r := record{Key: states + name, Size: int64(len(value)), Time: time.Now().UTC().Truncate(time.Second), ID: newID(), Sums: sums(value)}
	if before.ID != "" {
		r.Past = before.after()
	}
	encoded, err := r.encode(value)
	if err != nil {
		return err
	}
	return b.put(ctx, r.Key, r.ID, encoded, c)
}
