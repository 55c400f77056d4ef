package bolt

import (
	"os"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// DecodeRecord returns what an object record says, and its content if it is inline.
func DecodeRecord(key string, b []byte) (storage.Info, []byte, error) {
	r, err := decodeRecord(key, b)
	if err != nil {
		return storage.Info{}, nil, err
	}
	if r.blob == nil {
		err = r.checkContent()
	}
	return r.info, r.content, err
}

// EncodeInline returns the record of an inline object.
func EncodeInline(info storage.Info, content []byte) []byte {
	return (&record{info: info, content: content}).encode()
}

// EncodeBlob returns the record of a large object with chunks at these offsets.
func EncodeBlob(info storage.Info, id uint64, offsets []int64) []byte {
	return (&record{info: info, blob: &blobRef{id: id, extents: offsets}}).encode()
}

// Allocated returns how many bytes a file takes on disk.
func Allocated(f *os.File) (int64, error) { return allocated(f) }

// ViewMeta runs fn in a read transaction of meta.db.
func (db *DB) ViewMeta(fn func(*bbolt.Tx) error) error { return db.meta.view(fn) }
