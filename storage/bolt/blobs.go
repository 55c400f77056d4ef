package bolt

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// blobs are the contents of large objects, in blobs.db.
type blobs struct {
	file    *file
	reader  *os.File // a second descriptor of the file, for reading chunks
	chunks  chunks   // the chunks that readers use
	damaged prometheus.Counter
}

func openBlobs(f *file, readers *memory.Budget, damaged prometheus.Counter) (*blobs, error) {
	reader, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	return &blobs{file: f, reader: reader, chunks: newChunks(readers), damaged: damaged}, nil
}

func (b *blobs) close() error { return errors.Join(b.reader.Close(), b.file.close()) }

// write writes exactly size bytes from r as the blob id. They are on disk when it returns nil.
// After an error the caller deletes the blob.
func (b *blobs) write(ctx context.Context, id uint64, size int64, r io.Reader) (sum [sha256.Size]byte, err error) {
	hash := sha256.New()
	values := make([][]byte, 0, segmentChunks+1)
	defer func() { b.chunks.buffers.put(values) }()

	for first, segment := 0, 0; first < chunkCount(size); segment++ {
		end := segmentEnd(size, first)
		for chunk := first; chunk < end; chunk++ {
			if err := ctx.Err(); err != nil {
				return sum, err
			}
			if len(values) <= chunk-first {
				values = append(values, b.chunks.buffers.get())
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
		if err := b.file.update((end-first)*chunkSize, putSegment(id, segment, first, values[:end-first])); err != nil {
			return sum, err
		}
		first = end
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}

// readAt reads a chunk of a blob of size bytes into buffer, and returns the part of it with the
// content.
func (b *blobs) readAt(blob *blobRef, size int64, chunk int, buffer []byte) ([]byte, error) {
	value := buffer[:sumSize+chunkLen(size, chunk)]
	_, err := b.reader.ReadAt(value, blob.extents[chunk])
	switch {
	case err == io.EOF:
		return nil, fmt.Errorf("chunk %d is beyond the end of the file: %w", chunk, storage.ErrDamaged)
	case err != nil:
		return nil, err
	case binary.LittleEndian.Uint32(value) != chunkSum(blob.id, chunk, value[sumSize:]):
		return nil, fmt.Errorf("chunk %d: checksum mismatch: %w", chunk, storage.ErrDamaged)
	}
	return value[sumSize:], nil
}
