package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// keyValue is the one key in the bucket of a state. Each state has its own bucket,
// because bbolt rewrites the neighbours of a value: a small state that changes often must not have
// one of 16 MiB beside it. Small buckets cost nothing, because bbolt keeps them in the page of
// their parent.
var keyValue = []byte("value")

// State implements storage.Store.
func (db *DB) State(ctx context.Context, name string) (value []byte, err error) {
	if err = ctx.Err(); err == nil {
		err = db.meta.view(func(tx *bbolt.Tx) error {
			stored, err := getState(tx, name)
			value = bytes.Clone(stored)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("state %.200q: %w", name, err)
	}
	return value, nil
}

// SetState implements storage.Store.
func (db *DB) SetState(ctx context.Context, name string, value []byte) error {
	return db.changeState(ctx, name, value, func(tx *bbolt.Tx) error {
		return putState(tx, name, value)
	})
}

// SwapState implements storage.Store.
func (db *DB) SwapState(ctx context.Context, name string, old, value []byte) error {
	return db.changeState(ctx, name, value, func(tx *bbolt.Tx) error {
		return swapState(tx, name, old, value)
	})
}

func swapState(tx *bbolt.Tx, name string, old, value []byte) error {
	stored, err := getState(tx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if old != nil {
			return storage.ErrConflict
		}
	case err != nil:
		return err
	case old == nil || !bytes.Equal(old, stored):
		return storage.ErrConflict
	}
	return putState(tx, name, value)
}

// DeleteState implements storage.Store.
func (db *DB) DeleteState(ctx context.Context, name string) error {
	return db.changeState(ctx, name, nil, func(tx *bbolt.Tx) error {
		states := tx.Bucket(bucketStates)
		if states.Bucket([]byte(name)) == nil {
			return fs.ErrNotExist
		}
		return states.DeleteBucket([]byte(name))
	})
}

func (db *DB) changeState(ctx context.Context, name string, value []byte, change func(*bbolt.Tx) error) error {
	err := errors.Join(storage.CheckState(name, value), ctx.Err())
	if err == nil {
		err = db.meta.update(len(value), change)
	}
	if err != nil {
		return fmt.Errorf("change state %.200q: %w", name, err)
	}
	return nil
}

// getState returns the verified value of a state, valid within the transaction and never
// nil without an error.
func getState(tx *bbolt.Tx, name string) ([]byte, error) {
	bucket := tx.Bucket(bucketStates).Bucket([]byte(name))
	if bucket == nil {
		return nil, fs.ErrNotExist
	}
	stored := bucket.Get(keyValue)
	if len(stored) < sumSize || binary.LittleEndian.Uint32(stored) != stateSum(name, stored[sumSize:]) {
		return nil, fmt.Errorf("checksum mismatch: %w", storage.ErrDamaged)
	}
	return stored[sumSize:], nil
}

func putState(tx *bbolt.Tx, name string, value []byte) error {
	bucket, err := tx.Bucket(bucketStates).CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return err
	}
	stored := make([]byte, sumSize, sumSize+len(value))
	binary.LittleEndian.PutUint32(stored, stateSum(name, value))
	return bucket.Put(keyValue, append(stored, value...))
}

// stateSum returns the checksum of a state, which covers its name.
func stateSum(name string, value []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(name), castagnoli), castagnoli, value)
}
