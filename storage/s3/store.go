package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/assay-proxy/assay/storage"
)

// Create implements storage.Store.
func (db *DB) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	err := errors.Join(db.check(ctx), info.Check())
	if err == nil {
		var there bool
		switch there, err = db.records.exists(ctx, objects+info.Key); {
		case there:
			err = fs.ErrExist
		case err == nil:
			err = db.write(ctx, info, r, (*draft).create)
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
		err = db.write(ctx, info, r, (*draft).replace)
	}
	if err != nil {
		return fmt.Errorf("replace %.200q: %w", info.Key, err)
	}
	return nil
}

// write stores the content of r, which must end after info.Size bytes.
func (db *DB) write(ctx context.Context, info storage.Info, r io.Reader, commit func(*draft, context.Context, storage.Info) error) error {
	d, err := db.draft(ctx, info.Size)
	if err != nil {
		return err
	}
	defer d.Close()
	if n, err := io.Copy(d, r); err != nil {
		return err
	} else if n < info.Size {
		return fmt.Errorf("%d of %d bytes: %w", n, info.Size, io.ErrUnexpectedEOF)
	}
	return commit(d, ctx, info)
}

// Delete implements storage.Store. The content of a large object stays for those who read it, until
// Collect.
func (db *DB) Delete(ctx context.Context, key string) error {
	err := errors.Join(db.check(ctx), storage.CheckKey(key))
	if err == nil {
		err = db.records.remove(ctx, objects+key)
	}
	if err != nil {
		return fmt.Errorf("delete %.200q: %w", key, err)
	}
	return nil
}

// Move implements storage.Store.
func (db *DB) Move(ctx context.Context, from, to, proof string) error {
	target := storage.Info{Key: to, Proof: proof}
	err := errors.Join(db.check(ctx), storage.CheckKey(from), target.Check())
	if err == nil {
		err = db.records.move(ctx, from, to, proof)
	}
	if err != nil {
		return fmt.Errorf("move %.200q to %.200q: %w", from, to, err)
	}
	return nil
}

// Apply implements storage.Store, one step after the other.
func (db *DB) Apply(ctx context.Context, b storage.Batch) error {
	err := errors.Join(db.check(ctx), b.Check())
	if err == nil {
		err = db.records.apply(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("apply: %w", err)
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
				go func() { next <- db.listed(ctx, key) }()
			}
		}()
		for next := range queue {
			l := <-next
			if l.omit {
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
	omit bool
	err  error
}

func (db *DB) listed(ctx context.Context, key string) listedInfo {
	info, err := db.Stat(ctx, key)
	switch {
	case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		return listedInfo{omit: true}
	case errors.Is(err, storage.ErrDamaged):
		db.log.Error("damaged record omitted from a list", "err", err)
		return listedInfo{omit: true}
	}
	return listedInfo{info: info, err: err}
}

// Keys implements storage.Store. It sends a request for 1,000 objects.
func (db *DB) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := db.check(ctx); err != nil {
			yield("", fmt.Errorf("list %.200q: %w", prefix, err))
			return
		}
		for key, err := range db.records.keys(ctx, objects+prefix) {
			if err != nil {
				yield("", fmt.Errorf("list %.200q: %w", prefix, err))
				return
			}
			key = key[len(objects):]
			if storage.CheckKey(key) != nil {
				db.log.Error("a key in the bucket is none of ours, and is omitted from a list", "key", key)
				continue
			}
			if !yield(key, nil) {
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
		if _, value, _, err = db.records.state(ctx, name); err == nil {
			return value, nil
		}
	}
	return nil, fmt.Errorf("state %.200q: %w", name, err)
}

// SetState implements storage.Store.
func (db *DB) SetState(ctx context.Context, name string, value []byte) error {
	err := errors.Join(db.check(ctx), storage.CheckState(name, value))
	if err == nil {
		err = db.records.setState(ctx, name, value)
	}
	if err != nil {
		return fmt.Errorf("set state %.200q: %w", name, err)
	}
	return nil
}

// SwapState implements storage.Store.
func (db *DB) SwapState(ctx context.Context, name string, old, value []byte) error {
	err := errors.Join(db.check(ctx), storage.CheckState(name, value))
	if err == nil {
		err = db.records.swap(ctx, name, old, value)
	}
	if err != nil {
		return fmt.Errorf("swap state %.200q: %w", name, err)
	}
	return nil
}

// DeleteState implements storage.Store.
func (db *DB) DeleteState(ctx context.Context, name string) error {
	err := errors.Join(db.check(ctx), storage.CheckKey(name))
	if err == nil {
		err = db.records.remove(ctx, states+name)
	}
	if err != nil {
		return fmt.Errorf("delete state %.200q: %w", name, err)
	}
	return nil
}
