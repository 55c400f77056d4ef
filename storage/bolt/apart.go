package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// The content of a small object of more than apartMin bytes is apart from its record, in pieces under
// ascending numbers: a merge appends it once and densely, and rewrites only the records beside those
// that it adds. Values of several pages in the tree would be rewritten with their neighbours, and leave
// free pages that the next ones do not fit in.

const (
	// apartMin is the largest content that is beside its record: an .info or a record of a checksum
	// database, which is read with one lookup.
	apartMin = 512

	// apartPiece is the size of a piece. Four fill a page: bbolt does not split a leaf of four values.
	apartPiece = (metaPageSize-pageHeader)/4 - leafElement - 10

	// Sizes in bbolt's file format.
	pageHeader, leafElement = 16, 16
)

// apartKey returns the key of a piece. Those of one content begin with its id.
func apartKey(id uint64, piece int) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, id), uint16(piece))
}

// setApart returns the value that the tree gets for an object record, and stores its content apart if
// that is not small enough.
func setApart(tx *bbolt.Tx, key string, value []byte) ([]byte, error) {
	contents := tx.Bucket(bucketContents)
	if contents == nil { // of an earlier schema
		return value, nil
	}
	r, err := decodeRecord(key, value)
	if err != nil || r.blob != nil || len(r.content) <= apartMin {
		return value, err
	}
	contents.FillPercent = 1
	if r.apart, err = contents.NextSequence(); err != nil {
		return nil, err
	}
	for i, rest := 0, r.content; len(rest) > 0; i++ {
		n := min(len(rest), apartPiece)
		if err := contents.Put(apartKey(r.apart, i), rest[:n]); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	r.content = nil
	return r.encode(), nil
}

// fetchApart copies the content of a record that is apart into the record.
func fetchApart(tx *bbolt.Tx, r *record) error {
	if r.apart == 0 {
		return nil
	}
	if contents := tx.Bucket(bucketContents); contents != nil && r.info.Size <= storage.MaxSmall {
		r.content = make([]byte, 0, r.info.Size)
		cursor := contents.Cursor()
		for k, v := cursor.Seek(apartKey(r.apart, 0)); hasID(k, r.apart) && int64(len(r.content)+len(v)) <= r.info.Size; k, v = cursor.Next() {
			r.content = append(r.content, v...)
		}
	}
	if int64(len(r.content)) != r.info.Size {
		return fmt.Errorf("content of %q: %d of %d bytes: %w", r.info.Key, len(r.content), r.info.Size, storage.ErrDamaged)
	}
	return nil
}

// whole returns the record as if its content were beside it, and nil for nil. A damaged record is
// returned as it is.
func whole(tx *bbolt.Tx, key string, value []byte) []byte {
	if value == nil {
		return nil
	}
	r, err := decodeRecord(key, value)
	if err != nil || r.apart == 0 || fetchApart(tx, r) != nil {
		return value
	}
	r.apart = 0
	return r.encode()
}

// dropLeaked deletes the content with this id unless a record names it.
func dropLeaked(tx *bbolt.Tx, id uint64) error {
	if !leakedApart(tx, id) {
		return nil
	}
	return deleteApart(tx, id)
}

// deleteApart deletes the content with this id.
func deleteApart(tx *bbolt.Tx, id uint64) error {
	contents := tx.Bucket(bucketContents)
	if contents == nil || id == 0 {
		return nil
	}
	var keys [][]byte
	cursor := contents.Cursor()
	for k, _ := cursor.Seek(apartKey(id, 0)); hasID(k, id); k, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := contents.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// leakedApart reports whether there is a content with this id that no record names. It reads all
// records, which is slow, and rare.
func leakedApart(tx *bbolt.Tx, id uint64) bool {
	k, _ := tx.Bucket(bucketContents).Cursor().Seek(apartKey(id, 0))
	if !hasID(k, id) {
		return false
	}
	cursor := tx.Bucket(bucketObjects).Cursor()
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if r, err := parseRecord(string(k), v); err == nil && r.apart == id {
			return false
		}
	}
	return true
}

// hasID reports whether the key is that of a piece of the content with this id.
func hasID(key []byte, id uint64) bool {
	return len(key) == 10 && binary.BigEndian.Uint64(key) == id
}
