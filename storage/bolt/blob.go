package bolt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/assay-proxy/assay/storage"
)

// A blob is the content of one or more large objects. It is written in segments
// of 4 MiB, each by one transaction into a bucket of its own, because a
// transaction that appends to a bucket writes the chunks at its end again. The
// key of the bucket is the id of the blob and the number of the segment; the
// bucket has the chunks by their number in the blob.
const (
	// chunkSize is 256 KiB less the room that bbolt needs, so that the two
	// chunks it puts on a leaf fill their pages exactly.
	chunkSize = 256<<10 - 64

	// sumSize: a chunk begins with its CRC32C.
	sumSize = 4

	// segmentChunks makes a transaction of 4 MiB: long enough that the two
	// fsyncs of it do not dominate, short enough for memory and for the other
	// writers who wait.
	segmentChunks = 16

	// freeSegments is how many segments one transaction deletes. Only their
	// first pages are read, and their page numbers are kept until the commit.
	freeSegments = 64
)

// chunkCount returns the number of chunks of a blob of size bytes.
func chunkCount(size int64) int {
	return int((size + chunkSize - 1) / chunkSize)
}

// chunkLen returns the length of a chunk of a blob of size bytes.
func chunkLen(size int64, chunk int) int {
	return int(min(chunkSize, size-int64(chunk)*chunkSize))
}

// segmentEnd returns the number after the last chunk of the segment that begins
// with chunk. A last chunk that would be alone joins the segment before: bbolt
// puts a very small bucket into the page of its parent, which moves.
func segmentEnd(size int64, chunk int) int {
	n := chunkCount(size)
	end := min(n, chunk+segmentChunks)
	if end == n-1 {
		end = n
	}
	return end
}

// chunkSum returns the checksum of a chunk, which covers whose it is.
func chunkSum(id uint64, chunk int, data []byte) uint32 {
	var place [16]byte
	binary.BigEndian.PutUint64(place[:], id)
	binary.BigEndian.PutUint64(place[8:], uint64(chunk))
	return crc32.Update(crc32.Checksum(data, castagnoli), castagnoli, place[:])
}

// blobKey is how the id of a blob is written in meta.db, and how the keys of
// its segments begin.
func blobKey(id uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, id)
}

func segmentKey(id uint64, segment int) []byte {
	return binary.BigEndian.AppendUint32(blobKey(id), uint32(segment))
}

func chunkKey(chunk int) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(chunk))
}

// writeBlob writes what r yields, exactly size bytes, as the blob id. On disk
// when it returns nil. After an error the caller deletes the blob.
func (db *DB) writeBlob(ctx context.Context, id uint64, size int64, r io.Reader) (sum [sha256.Size]byte, err error) {
	hash := sha256.New()
	values := make([][]byte, 0, segmentChunks+1)
	defer func() { db.putBuffers(values) }()

	for first, segment := 0, 0; first < chunkCount(size); segment++ {
		end := segmentEnd(size, first)
		for chunk := first; chunk < end; chunk++ {
			if err := ctx.Err(); err != nil {
				return sum, err
			}
			if len(values) <= chunk-first {
				values = append(values, db.buffer())
			}
			value := values[chunk-first][:sumSize+chunkLen(size, chunk)]
			if err := readFull(r, value[sumSize:]); err != nil {
				return sum, err
			}
			hash.Write(value[sumSize:])
			binary.LittleEndian.PutUint32(value, chunkSum(id, chunk, value[sumSize:]))
			values[chunk-first] = value
		}
		if end == chunkCount(size) {
			if err := expectEnd(r); err != nil {
				return sum, err
			}
		}
		if err := db.blobs.update((end-first)*chunkSize, putSegment(id, segment, first, values[:end-first])); err != nil {
			return sum, err
		}
		first = end
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}

// putSegment returns the change that writes one segment.
func putSegment(id uint64, segment, first int, values [][]byte) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		bucket, err := tx.Bucket(bucketBlobs).CreateBucket(segmentKey(id, segment))
		if err != nil {
			return err
		}
		bucket.FillPercent = 1 // nothing is ever put between
		for i, value := range values {
			if err := bucket.Put(chunkKey(first+i), value); err != nil {
				return err
			}
		}
		return nil
	}
}

// readFull fills b from r. An r that ends before is an error of its own, not
// the end of a file.
func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("content is shorter than its size: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// expectEnd checks that r is at its end.
func expectEnd(r io.Reader) error {
	var b [1]byte
	n, err := io.ReadFull(r, b[:])
	if n > 0 {
		return errors.New("content is longer than its size")
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// eachChunk calls visit for the chunks of a blob, in order. The value is valid
// within the transaction.
func eachChunk(tx *bbolt.Tx, id uint64, size int64, visit func(chunk int, value []byte) error) error {
	for first, segment := 0, 0; first < chunkCount(size); segment++ {
		bucket := tx.Bucket(bucketBlobs).Bucket(segmentKey(id, segment))
		if bucket == nil {
			return fmt.Errorf("segment %d of blob %d is missing: %w", segment, id, storage.ErrDamaged)
		}
		cursor := bucket.Cursor()
		_, value := cursor.First()
		for end := segmentEnd(size, first); first < end; first++ {
			if len(value) != sumSize+chunkLen(size, first) {
				return fmt.Errorf("chunk %d of blob %d has another length: %w", first, id, storage.ErrDamaged)
			}
			if err := visit(first, value); err != nil {
				return err
			}
			_, value = cursor.Next()
		}
	}
	return nil
}

// deleteBlob deletes what there is of a blob, in bounded transactions.
func deleteBlob(blobs *file, id uint64) error {
	for {
		var keys [][]byte
		err := blobs.view(func(tx *bbolt.Tx) error {
			keys = segmentKeys(tx, id)
			return nil
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		err = blobs.update(0, func(tx *bbolt.Tx) error {
			for _, key := range keys {
				if err := tx.Bucket(bucketBlobs).DeleteBucket(key); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// segmentKeys returns the keys of the first segments there are of a blob.
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
