package bolt

import (
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

func (b *blobs) close() error { return errors.Join(b.reader.Close(), b.file.close(true)) }

// write writes values, which are the chunks of a blob from first on, with room for their sums, as a
// segment, and returns where they are. They are on disk when it returns nil.
func (b *blobs) write(id uint64, segment, first int, values [][]byte) (extents, error) {
	for i, value := range values {
		binary.LittleEndian.PutUint32(value, chunkSum(id, first+i, value[sumSize:]))
	}
	if err := b.file.writable(len(values) * chunkSize); err != nil {
		return nil, noLarge(err)
	}
	if err := b.file.update(len(values)*chunkSize, putSegment(id, segment, first, values)); err != nil {
		return nil, err
	}
	return locate(b.file, oneSegment(id, segment, first, len(values)))
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
