package bolt

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// Only this file knows where in a bbolt file a value is.
//
// bbolt maps its file with MADV_RANDOM, so a large value that is copied out of the map is read page
// by page: 35 times slower than reading a file when it is not cached, and two to three times slower
// when it is. So chunks are read with ReadAt at the offset of their value, which is its address
// minus that of the map. The segment of a blob is written once and its pages stay where they are
// until the blob is deleted, so the offsets are part of the object record, and reading a blob reads
// nothing of blobs.db but its content.
//
// The offsets are only a hint: each chunk's checksum covers the number of its blob and its own. If
// the offsets are wrong, because the file was compacted, locate finds the chunks again.

// extents are the offsets of the chunks of a blob in blobs.db, in order.
type extents []int64

// appendExtents appends the encoding of e: the first offset, then the distance of each from the end
// of the full chunk before it, which is close to zero.
func appendExtents(b []byte, e extents) []byte {
	next := int64(0)
	for _, offset := range e {
		b = binary.AppendVarint(b, offset-next)
		next = offset + sumSize + chunkSize
	}
	return b
}

// extents takes n extents.
func (p *parser) extents(n int) extents {
	if n > len(p.rest) { // each takes at least one byte
		p.err = errTruncated
		return nil
	}
	e := make(extents, n)
	next := int64(0)
	for i := range e {
		e[i] = next + p.varint()
		next = e[i] + sumSize + chunkSize
	}
	return e
}

// offsetOf returns where in the file a value is that a transaction has read from it.
func offsetOf(tx *bbolt.Tx, value []byte) (int64, error) {
	offset := int64(uintptr(unsafe.Pointer(unsafe.SliceData(value))) - tx.DB().Info().Data)
	if offset < 0 || offset+int64(len(value)) > tx.Size() {
		return 0, fmt.Errorf("%s: a value is outside of the file: %w", tx.DB().Path(), storage.ErrDamaged)
	}
	return offset, nil
}

// locate finds the chunks of a span.
func locate(blobs *file, of span) (extents, error) {
	e := make(extents, 0, of.n)
	err := blobs.view(func(tx *bbolt.Tx) error {
		return of.each(tx, func(chunk int, value []byte) error {
			offset, err := offsetOf(tx, value)
			if err != nil {
				return fmt.Errorf("chunk %d: %w", chunk, err)
			}
			e = append(e, offset)
			return nil
		})
	})
	if err == nil && len(e) != of.n {
		err = fmt.Errorf("%d chunks in place of %d: %w", len(e), of.n, storage.ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}
