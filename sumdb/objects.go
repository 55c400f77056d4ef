package sumdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"

	"github.com/assay-proxy/assay/storage"
)

// objects stores the objects of one database. All of them are proved before they are stored.
type objects struct {
	name  string // of the database
	store storage.Store
	log   *slog.Logger
}

// key returns the key of the file at path in the store.
func (o *objects) key(path string) string { return storage.Key("sumdb/" + o.name + "/" + path) }

// read returns the object at path. It removes a damaged one and returns fs.ErrNotExist, so that it
// is fetched and proved again.
func (o *objects) read(ctx context.Context, path string) ([]byte, error) {
	data, err := o.readKey(ctx, o.key(path))
	if errors.Is(err, storage.ErrDamaged) {
		o.log.Error("stored object is damaged; it will be fetched again", "key", o.key(path), "err", err)
		return nil, o.remove(ctx, path)
	}
	return data, err
}

func (o *objects) readKey(ctx context.Context, key string) ([]byte, error) {
	object, err := o.store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	data := make([]byte, object.Info().Size) // ours are small
	if _, err := io.ReadFull(object, data); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return data, nil
}

// remove removes the object at path and returns fs.ErrNotExist.
func (o *objects) remove(ctx context.Context, path string) error {
	err := o.store.Delete(ctx, o.key(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove damaged %s: %w", path, err)
	}
	return fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

// object returns the object with data at path.
func (o *objects) object(path string, data []byte) storage.Small {
	return storage.Small{Info: storage.Info{Key: o.key(path), Size: int64(len(data)), Proof: o.name}, Content: data}
}

// blocked reports whether err, of a batch, is no failure of the store: stored bytes that are wrong
// are in the way of an object, the state is damaged, or it is too much for a batch. It is done step
// by step then.
func blocked(err error) bool {
	return errors.Is(err, fs.ErrExist) || errors.Is(err, storage.ErrDamaged) || errors.Is(err, errNoBatch)
}

// errNoBatch says that objects are too large for one batch.
var errNoBatch = errors.New("no batch")

// apply stores a batch.
func (o *objects) apply(ctx context.Context, b storage.Batch) error {
	if err := b.Check(); err != nil {
		return fmt.Errorf("%w: %w", errNoBatch, err)
	}
	return o.store.Apply(ctx, b)
}

// create stores data at path. The error is fs.ErrExist if there is an object already.
func (o *objects) create(ctx context.Context, path string, data []byte) error {
	return o.store.Create(ctx, o.object(path, data).Info, bytes.NewReader(data))
}

// put stores data, which is proved, at path. If the stored object has other bytes, they are wrong,
// and put replaces them.
func (o *objects) put(ctx context.Context, path string, data []byte) error {
	const attempts = 3 // another process may do the same
	var err error
	for range attempts {
		if err = o.create(ctx, path, data); !errors.Is(err, fs.ErrExist) {
			break
		}
		stored, err := o.read(ctx, path)
		if err == nil && bytes.Equal(stored, data) {
			return nil
		}
		if err == nil {
			o.log.Error("stored object differs from its proved record; it will be replaced", "key", o.key(path))
			err = o.remove(ctx, path)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("store %s: %w", path, err)
		}
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	return nil
}
