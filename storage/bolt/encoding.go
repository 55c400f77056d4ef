package bolt

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// castagnoli is the polynomial for which amd64 and arm64 have an instruction: a checksum costs less
// than the copy beside it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTruncated means that an object record or a value ends too early.
var errTruncated = errors.New("record is cut off")

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// parser takes values from the front of a slice. After an error it returns only zeros.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) take(n int) []byte {
	if n < 0 || n > len(p.rest) {
		p.err, p.rest = errTruncated, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uint32() uint32 {
	if b := p.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		n = -1
	}
	p.take(n)
	return v
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.rest)
	if n <= 0 {
		n = -1
	}
	p.take(n)
	return v
}

func (p *parser) string() string {
	return string(p.take(int(p.uvarint())))
}
