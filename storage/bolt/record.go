package bolt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// An object record is the value of an object's key in meta.db:
//
//	4 bytes   CRC32C of the key and of the header
//	4 bytes   length of the header
//	header    kind, size, time, hash, proof, and the fields of the kind
//	          (inline: CRC32C of the content; apart: the same, id;
//	          blob: id, SHA-256, extents)
//	content   of an inline object
//
// The header has its own checksum so that List and Stat need not read the content. The checksum
// covers the key because a changed byte in a key would otherwise give one module the content of
// another.
//
// Integers are little-endian or varints.
type record struct {
	info storage.Info

	// content is the content of a small object, a part of the slice that was parsed, and contentSum
	// its CRC32C. If apart is not 0, it is the id of the content in another bucket, and content is nil
	// until fetchApart.
	content    []byte
	contentSum uint32
	apart      uint64

	blob *blobRef // nil for an inline object
}

// blobRef locates the content of a large object.
type blobRef struct {
	id      uint64
	hash    [sha256.Size]byte
	extents extents
}

const (
	kindInline = 'i'
	kindApart  = 'a'
	kindBlob   = 'b'

	recordPrefix = 8 // bytes before the header
)

// encode returns the object record. The content of an inline object is r.content; that of one apart
// is not part of the record.
func (r *record) encode() []byte {
	b := make([]byte, recordPrefix, recordPrefix+256+len(r.content))
	switch {
	case r.blob != nil:
		b = append(b, kindBlob)
	case r.apart != 0:
		b = append(b, kindApart)
	default:
		b = append(b, kindInline)
	}
	b = binary.AppendUvarint(b, uint64(r.info.Size))
	b = binary.AppendVarint(b, r.info.Time.Unix())
	b = appendString(b, r.info.Hash)
	b = appendString(b, r.info.Proof)
	switch {
	case r.blob == nil && r.apart != 0:
		b = binary.LittleEndian.AppendUint32(b, r.contentSum)
		b = binary.AppendUvarint(b, r.apart)
	case r.blob == nil:
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(r.content, castagnoli))
	default:
		b = binary.AppendUvarint(b, r.blob.id)
		b = append(b, r.blob.hash[:]...)
		b = appendExtents(b, r.blob.extents)
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-recordPrefix))
	binary.LittleEndian.PutUint32(b, headerSum(r.info.Key, b))
	if r.apart != 0 {
		return b
	}
	return append(b, r.content...)
}

// headerSum returns the checksum of a key and of the bytes from the end of the checksum to the end
// of the header. b ends there.
func headerSum(key string, b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[4:])
	return crc32.Update(sum, castagnoli, []byte(key))
}

// decodeRecord parses and verifies an object record without its content. The error is ErrDamaged.
func decodeRecord(key string, b []byte) (*record, error) {
	r, err := parseRecord(key, b)
	if err != nil {
		return nil, fmt.Errorf("record of %q: %v: %w", key, err, storage.ErrDamaged)
	}
	return r, nil
}

func parseRecord(key string, b []byte) (*record, error) {
	if len(b) < recordPrefix {
		return nil, errTruncated
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	if n > int64(len(b)-recordPrefix) {
		return nil, errTruncated
	}
	header, content := b[:recordPrefix+n], b[recordPrefix+n:]
	if binary.LittleEndian.Uint32(b) != headerSum(key, header) {
		return nil, errors.New("checksum mismatch")
	}
	p := parser{rest: header[recordPrefix:]}
	kind := p.byte()
	r := &record{info: storage.Info{Key: key}}
	r.info.Size = int64(p.uvarint())
	r.info.Time = time.Unix(p.varint(), 0).UTC()
	r.info.Hash = p.string()
	r.info.Proof = p.string()
	switch kind {
	case kindInline:
		r.content = content
		r.contentSum = p.uint32()
		if int64(len(content)) != r.info.Size {
			return nil, errTruncated
		}
	case kindApart:
		r.contentSum, r.apart = p.uint32(), p.uvarint()
	case kindBlob:
		r.blob = &blobRef{id: p.uvarint()}
		copy(r.blob.hash[:], p.take(len(r.blob.hash)))
		r.blob.extents = p.extents(chunkCount(r.info.Size))
	default:
		return nil, fmt.Errorf("unknown kind %q", kind)
	}
	return r, p.err
}

// checkContent verifies the content of an inline object.
func (r *record) checkContent() error {
	if crc32.Checksum(r.content, castagnoli) != r.contentSum {
		return fmt.Errorf("content of %q: checksum mismatch: %w", r.info.Key, storage.ErrDamaged)
	}
	return nil
}

// hasBlob reports whether value is the record of an object whose content is the blob id.
func hasBlob(key string, value []byte, id uint64) bool {
	r, err := decodeRecord(key, value)
	return err == nil && r.blob != nil && r.blob.id == id
}
