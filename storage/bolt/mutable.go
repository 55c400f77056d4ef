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

// keyValue is the one key in the bucket of a mutable record. Each record has its own bucket,
// because bbolt rewrites the neighbours of a value: a small record that changes often must not have
// one of 16 MiB beside it. Small buckets cost nothing, because bbolt keeps them in the page of
// their parent.
var keyValue = []byte("value")

// Record implements storage.Store.
func (db *DB) Record(ctx context.Context, name string) (value []byte, err error) {
	if err = ctx.Err(); err == nil {
		err = db.meta.view(func(tx *bbolt.Tx) error {
			stored, err := getRecord(tx, name)
			value = bytes.Clone(stored)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("record %.200q: %w", name, err)
	}
	return value, nil
}

// SetRecord implements storage.Store.
func (db *DB) SetRecord(ctx context.Context, name string, value []byte) error {
	return db.changeRecord(ctx, name, value, func(tx *bbolt.Tx) error {
		return putRecord(tx, name, value)
	})
}

// SwapRecord implements storage.Store.
func (db *DB) SwapRecord(ctx context.Context, name string, old, value []byte) error {
	return db.changeRecord(ctx, name, value, func(tx *bbolt.Tx) error {
		return swapRecord(tx, name, old, value)
	})
}

func swapRecord(tx *bbolt.Tx, name string, old, value []byte) error {
	stored, err := getRecord(tx, name)
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
	return putRecord(tx, name, value)
}

// DeleteRecord implements storage.Store.
func (db *DB) DeleteRecord(ctx context.Context, name string) error {
	return db.changeRecord(ctx, name, nil, func(tx *bbolt.Tx) error {
		records := tx.Bucket(bucketRecords)
		if records.Bucket([]byte(name)) == nil {
			return fs.ErrNotExist
		}
		return records.DeleteBucket([]byte(name))
	})
}

func (db *DB) changeRecord(ctx context.Context, name string, value []byte, change func(*bbolt.Tx) error) error {
	err := errors.Join(storage.CheckRecord(name, value), ctx.Err())
	if err == nil {
		err = db.meta.update(len(value), change)
	}
	if err != nil {
		return fmt.Errorf("change record %.200q: %w", name, err)
	}
	return nil
}

// getRecord returns the verified value of a mutable record, valid within the transaction and never
// nil without an error.
func getRecord(tx *bbolt.Tx, name string) ([]byte, error) {
	bucket := tx.Bucket(bucketRecords).Bucket([]byte(name))
	if bucket == nil {
		return nil, fs.ErrNotExist
	}
	stored := bucket.Get(keyValue)
	if len(stored) < sumSize || binary.LittleEndian.Uint32(stored) != recordSum(name, stored[sumSize:]) {
		return nil, fmt.Errorf("checksum mismatch: %w", storage.ErrDamaged)
	}
	return stored[sumSize:], nil
}

func putRecord(tx *bbolt.Tx, name string, value []byte) error {
	bucket, err := tx.Bucket(bucketRecords).CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return err
	}
	stored := make([]byte, sumSize, sumSize+len(value))
	binary.LittleEndian.PutUint32(stored, recordSum(name, value))
	return bucket.Put(keyValue, append(stored, value...))
}

// recordSum returns the checksum of a mutable record, which covers its name.
func recordSum(name string, value []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(name), castagnoli), castagnoli, value)
}
