package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// Create implements storage.Store.
func (db *DB) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	err := errors.Join(db.check(ctx), info.Check())
	if err == nil {
		switch _, err = db.bucket.head(ctx, objects+info.Key); {
		case err == nil:
			err = fs.ErrExist
		case errors.Is(err, fs.ErrNotExist):
			err = db.write(ctx, info, r, condition{absent: true})
		}
	}
	if err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	return nil
}

// Replace implements storage.Store.
func (db *DB) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	err := errors.Join(db.check(ctx), info.Check())
	if err == nil {
		err = db.write(ctx, info, r, condition{})
	}
	if err != nil {
		return fmt.Errorf("replace %.200q: %w", info.Key, err)
	}
	return nil
}

// write stores the content of r, which must end after info.Size bytes.
func (db *DB) write(ctx context.Context, info storage.Info, r io.Reader, c condition) error {
	d, err := db.draft(ctx, info.Size)
	if err != nil {
		return err
	}
	defer d.Close()
	if n, err := io.Copy(onlyWriter{d}, r); err != nil {
		return err
	} else if n < info.Size {
		return fmt.Errorf("%d of %d bytes: %w", n, info.Size, io.ErrUnexpectedEOF)
	}
	return d.commit(ctx, info, c)
}

// onlyWriter keeps io.Copy from asking a reader to write all of its bytes at once.
type onlyWriter struct{ io.Writer }

// put writes a record, with the content if it is small. The error is fs.ErrExist if the key is taken.
func (db *DB) put(ctx context.Context, r record, content []byte, c condition) error {
	value, err := r.encode(content)
	if err != nil {
		return err
	}
	if err = db.bucket.put(ctx, r.Key, r.ID, value, c); errors.Is(err, errTaken) {
		return fs.ErrExist
	}
	return err
}

// Delete implements storage.Store. The content of a large object stays for those who read it, until
// Collect.
func (db *DB) Delete(ctx context.Context, key string) error {
	err := errors.Join(db.check(ctx), storage.CheckKey(key))
	if err == nil {
		err = db.bucket.remove(ctx, objects+key)
	}
	if err != nil {
		return fmt.Errorf("delete %.200q: %w", key, err)
	}
	return nil
}

// remove deletes a key that exists.
func (b *bucket) remove(ctx context.Context, key string) error {
	for attempt := 1; ; attempt++ {
		etag, err := b.head(ctx, key)
		if err != nil {
			return err
		}
		err = b.delete(ctx, key, etag)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the answer to the first attempt got lost, or another has deleted it at the same time
		}
		if !errors.Is(err, errTaken) || attempt == attempts {
			return err
		}
	}
}

// Move implements storage.Store.
func (db *DB) Move(ctx context.Context, from, to, proof string) error {
	if err := db.move(ctx, from, to, proof); err != nil {
		return fmt.Errorf("move %.200q to %.200q: %w", from, to, err)
	}
	return nil
}

func (db *DB) move(ctx context.Context, from, to, proof string) error {
	target := storage.Info{Key: to, Proof: proof}
	if err := errors.Join(db.check(ctx), storage.CheckKey(from), target.Check()); err != nil {
		return err
	}
	r, content, etag, err := db.bucket.record(ctx, objects+from, firstRead+chunkSize)
	if err != nil {
		return err
	}
	r.Key, r.Proof, r.ID = objects+to, proof, newID()
	if err := db.put(ctx, r, content, condition{absent: true}); err != nil {
		return err
	}
	err = db.bucket.delete(ctx, objects+from, etag)
	if errors.Is(err, errTaken) || errors.Is(err, fs.ErrNotExist) {
		return nil // what was moved is no longer there
	}
	return err
}

// Apply implements storage.Store, one step after the other.
func (db *DB) Apply(ctx context.Context, b storage.Batch) error {
	if err := db.apply(ctx, b); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

func (db *DB) apply(ctx context.Context, b storage.Batch) error {
	if err := errors.Join(db.check(ctx), b.Check()); err != nil {
		return err
	}
	if b.SwapFirst && b.Swap != nil {
		if err := db.swap(ctx, b.Swap.Name, b.Swap.Old, b.Swap.New); err != nil {
			return err
		}
	}
	for _, small := range b.Create {
		if err := db.createSmall(ctx, small); err != nil {
			return fmt.Errorf("%.200q: %w", small.Info.Key, err)
		}
	}
	if b.SwapFirst || b.Swap == nil {
		return nil
	}
	return db.swap(ctx, b.Swap.Name, b.Swap.Old, b.Swap.New)
}

// createSmall creates an object of a batch, unless it is there already.
func (db *DB) createSmall(ctx context.Context, small storage.Small) error {
	info := small.Info
	info.Size = int64(len(small.Content))
	r := newRecord(info, sums(small.Content))
	sum := sha256.Sum256(small.Content)
	r.SHA256 = sum[:]
	err := db.put(ctx, r, small.Content, condition{absent: true})
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, content, _, readErr := db.bucket.record(ctx, objects+info.Key, firstRead+chunkSize)
	if readErr == nil && there.Content == "" {
		content, readErr = there.open(content)
	}
	if readErr != nil {
		return readErr
	}
	if !small.Same(there.info()) || !bytes.Equal(content, small.Content) {
		return err
	}
	return nil
}

// listAhead is how many records List reads at a time.
const listAhead = 16

// List implements storage.Store. It sends a request for each object.
func (db *DB) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		left := make(chan struct{})
		defer close(left)
		queue := make(chan chan listedInfo, listAhead)
		go func() {
			defer close(queue)
			for key, err := range db.Keys(ctx, prefix) {
				next := make(chan listedInfo, 1)
				select {
				case queue <- next:
				case <-left:
					return
				}
				if err != nil {
					next <- listedInfo{err: err}
					return
				}
				go func() {
					info, err := db.Stat(ctx, key)
					next <- listedInfo{info, err}
				}()
			}
		}()
		for next := range queue {
			l := <-next
			switch {
			case errors.Is(l.err, fs.ErrNotExist): // deleted meanwhile
				continue
			case errors.Is(l.err, storage.ErrDamaged):
				db.log.Error("damaged record omitted from a list", "err", l.err)
				continue
			}
			if !yield(l.info, l.err) || l.err != nil {
				return
			}
		}
	}
}

type listedInfo struct {
	info storage.Info
	err  error
}

// Keys implements storage.Store. It sends a request for 1,000 objects.
func (db *DB) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := db.check(ctx); err != nil {
			yield("", fmt.Errorf("list %.200q: %w", prefix, err))
			return
		}
		for key, err := range db.bucket.keys(ctx, objects+prefix) {
			if err != nil {
				yield("", fmt.Errorf("list %.200q: %w", prefix, err))
				return
			}
			if !yield(key[len(objects):], nil) {
				return
			}
		}
	}
}

// State implements storage.Store.
func (db *DB) State(ctx context.Context, name string) ([]byte, error) {
	err := errors.Join(db.check(ctx), storage.CheckKey(name))
	if err == nil {
		var value []byte
		if _, value, _, err = db.state(ctx, name); err == nil {
			return value, nil
		}
	}
	return nil, fmt.Errorf("state %.200q: %w", name, err)
}

// state returns the record of a state, its value, and its ETag.
func (db *DB) state(ctx context.Context, name string) (record, []byte, string, error) {
	r, value, etag, err := db.bucket.record(ctx, states+name, maxHeader+storage.MaxState)
	if err == nil {
		value, err = r.open(value)
	}
	return r, value, etag, err
}

// SetState implements storage.Store.
func (db *DB) SetState(ctx context.Context, name string, value []byte) error {
	err := errors.Join(db.check(ctx), storage.CheckState(name, value))
	if err == nil {
		err = db.putState(ctx, name, value, nil, condition{})
	}
	if err != nil {
		return fmt.Errorf("set state %.200q: %w", name, err)
	}
	return nil
}

func (db *DB) putState(ctx context.Context, name string, value []byte, past []string, c condition) error {
	r := record{Key: states + name, Size: int64(len(value)), Time: time.Now().UTC().Truncate(time.Second), ID: newID(), Past: past, Sums: sums(value)}
	encoded, err := r.encode(value)
	if err != nil {
		return err
	}
	return db.bucket.put(ctx, r.Key, r.ID, encoded, c)
}

// SwapState implements storage.Store.
func (db *DB) SwapState(ctx context.Context, name string, old, value []byte) error {
	err := errors.Join(db.check(ctx), storage.CheckState(name, value))
	if err == nil {
		err = db.swap(ctx, name, old, value)
	}
	if err != nil {
		return fmt.Errorf("swap state %.200q: %w", name, err)
	}
	return nil
}

// swap reads the state again if it has changed: the new value may be the old one.
func (db *DB) swap(ctx context.Context, name string, old, value []byte) error {
	for {
		var c condition
		var past []string
		r, now, etag, err := db.state(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && old == nil:
			c.absent = true
		case errors.Is(err, fs.ErrNotExist):
			return storage.ErrConflict
		case err != nil:
			return err
		case old == nil || !bytes.Equal(now, old):
			return storage.ErrConflict
		case etag == "":
			return errors.New("the bucket gives no ETag, without which a state cannot be changed safely")
		default:
			c.etag, c.after, past = etag, r.ID, r.after()
		}
		if err := db.putState(ctx, name, value, past, c); !errors.Is(err, errTaken) {
			return err
		}
	}
}

// DeleteState implements storage.Store.
func (db *DB) DeleteState(ctx context.Context, name string) error {
	err := errors.Join(db.check(ctx), storage.CheckKey(name))
	if err == nil {
		err = db.bucket.remove(ctx, states+name)
	}
	if err != nil {
		return fmt.Errorf("delete state %.200q: %w", name, err)
	}
	return nil
}
