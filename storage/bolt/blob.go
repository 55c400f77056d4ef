package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/assay-proxy/assay/storage"
)

// putSegment returns the change that writes one segment.
func putSegment(id uint64, segment, first int, values [][]byte) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		bucket, err := tx.Bucket(bucketBlobs).CreateBucket(segmentKey(id, segment))
		if err != nil {
			return err
		}
		bucket.FillPercent = 1 // keys are only ever appended
		for i, value := range values {
			if err := bucket.Put(chunkKey(first+i), value); err != nil {
				return err
			}
		}
		if len(values) == 1 && len(values[0]) < padSize {
			return bucket.Put(padKey, make([]byte, padSize))
		}
		return nil
	}
}

var (
	errShort = fmt.Errorf("content is shorter than its size: %w", io.ErrUnexpectedEOF)
	errLong  = errors.New("content is longer than its size")
)

// readFull fills b from r. If r ends before, the error is not io.EOF or io.ErrUnexpectedEOF.
func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errShort
	}
	return err
}

// expectEnd returns an error if r is not at its end.
func expectEnd(r io.Reader) error {
	var b [1]byte
	n, err := io.ReadFull(r, b[:])
	if n > 0 {
		return errLong
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// span is a number of chunks of a blob.
type span struct {
	n    int
	each func(tx *bbolt.Tx, visit func(chunk int, value []byte) error) error
}

// wholeBlob returns the chunks of a blob of size bytes.
func wholeBlob(id uint64, size int64) span {
	return span{chunkCount(size), func(tx *bbolt.Tx, visit func(int, []byte) error) error { return eachChunk(tx, id, size, visit) }}
}

// oneSegment returns the n chunks of a segment, from first on.
func oneSegment(id uint64, segment, first, n int) span {
	return span{n, func(tx *bbolt.Tx, visit func(int, []byte) error) error {
		_, err := eachChunkOf(tx, id, segment, first, first+n, visit)
		return err
	}}
}

// eachChunk calls visit for the chunks of a blob, in order. The value is valid within the
// transaction.
func eachChunk(tx *bbolt.Tx, id uint64, size int64, visit func(chunk int, value []byte) error) (err error) {
	next := 0
	for segment := 0; next < chunkCount(size) && err == nil; segment++ {
		next, err = eachChunkOf(tx, id, segment, next, chunkCount(size), func(chunk int, value []byte) error {
			if len(value) != sumSize+chunkLen(size, chunk) {
				return fmt.Errorf("chunk %d of blob %d has another length: %w", chunk, id, storage.ErrDamaged)
			}
			return visit(chunk, value)
		})
	}
	return err
}

// eachChunkOf is eachChunk for one segment, which begins with the chunk next, and for chunks before
// end. It returns the number of the chunk after the segment. It reads no keys: each is in a page
// beside a value, which the kernel would read and map. Whether a chunk is the right one is in its
// checksum.
func eachChunkOf(tx *bbolt.Tx, id uint64, segment, next, end int, visit func(chunk int, value []byte) error) (int, error) {
	bucket := tx.Bucket(bucketBlobs).Bucket(segmentKey(id, segment))
	if bucket == nil {
		return next, fmt.Errorf("segment %d of blob %d is missing: %w", segment, id, storage.ErrDamaged)
	}
	cursor := bucket.Cursor()
	key, value := cursor.First()
	if key == nil {
		return next, fmt.Errorf("segment %d of blob %d is empty: %w", segment, id, storage.ErrDamaged)
	}
	for ; key != nil && next < end; key, value = cursor.Next() {
		if err := visit(next, value); err != nil {
			return next, err
		}
		next++
	}
	return next, nil
}

// deleteBlob deletes all existing segments of a blob, in bounded transactions, each by remove.
func deleteBlob(blobs *file, id uint64, remove func(segments [][]byte, f *file) error) error {
	for {
		var keys [][]byte
		err := blobs.view(func(tx *bbolt.Tx) error {
			keys = segmentKeys(tx, id)
			return nil
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		if err := remove(keys, blobs); err != nil {
			return err
		}
	}
}

// removeSegments returns the change that deletes segments.
func removeSegments(keys [][]byte) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		for _, key := range keys {
			if err := tx.Bucket(bucketBlobs).DeleteBucket(key); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
				return err
			}
		}
		return nil
	}
}

// segmentKeys returns the keys of the first existing segments of a blob.
func segmentKeys(tx *bbolt.Tx, id uint64) [][]byte {
	var keys [][]byte
	prefix := blobKey(id)
	cursor := tx.Bucket(bucketBlobs).Cursor()
	for k, _ := cursor.Seek(prefix); bytes.HasPrefix(k, prefix) && len(keys) < freeSegments; k, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// lastBlob returns the highest id of a blob, or 0.
func (f *file) lastBlob() (id uint64, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketBlobs)
		if bucket == nil {
			return nil
		}
		if k, _ := bucket.Cursor().Last(); len(k) >= 8 {
			id = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return id, err
}
