package modzip

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"os"
)

// Ahead hashes the entries of a zip while the zip arrives, from the first byte on. It finds
// them by their local headers and, if those have no sizes, by the data descriptors behind the
// contents. What it finds is a guess, since contents may look like descriptors: it counts
// only if the directory at the end of the zip has exactly the same entries.
//
// One goroutine may use it at a time. Between two calls it has no memory worth counting: names
// and hashes are in a scratch file.
type Ahead struct {
	file    io.ReaderAt
	scratch func() (*os.File, error)
	batch   batch
	found   hash.Hash // of the entries that were found, see Entry.append
	next    int64     // where the next local header begins
	scanned int64     // the descriptor of the entry there does not begin before this
	lost    error     // why entries that were found are not hashed
}

// NewAhead returns an Ahead for the zip that arrives in file. scratch is that of Zip.Hash.
// The caller must call Close.
func NewAhead(file io.ReaderAt, scratch func() (*os.File, error)) *Ahead {
	return &Ahead{
		file: file, scratch: scratch, found: sha256.New(),
		batch: batch{file: file, sorter: sorter{scratch: scratch, beside: contentSize}},
	}
}

// Advance hashes the entries that are complete within the first size bytes of the file, and
// reports whether more can follow. It uses Memory until it returns. Each call that hashes
// something takes 8 KiB of the memory of HashAhead, so that some MiB should arrive between two.
func (a *Ahead) Advance(ctx context.Context, size int64) bool {
	more := a.advance(ctx, size)
	if a.lost == nil {
		a.lost = a.batch.sorter.release()
	}
	a.batch.entries = nil
	if a.lost != nil {
		a.Close()
	}
	return more && a.lost == nil
}

// Close removes the scratch file.
func (a *Ahead) Close() {
	a.batch.sorter.done()
	a.batch = batch{}
}

// advance is Advance, and keeps its memory.
func (a *Ahead) advance(ctx context.Context, size int64) bool {
	in := &window{r: a.file, buffer: make([]byte, headerBuffer)}
	more := true
	for a.lost == nil {
		e, end, err := a.entry(in, size)
		if err == io.EOF {
			break
		}
		if more = err == nil; !more {
			break
		}
		a.next, a.scanned = end, 0
		a.found.Write(e.append(nil))
		a.lost = a.batch.add(ctx, e)
	}
	if a.lost == nil {
		a.lost = a.batch.hash(ctx)
	}
	return more
}

// entry returns the next entry, and where it ends. The error is io.EOF if it is not complete
// within the first size bytes, ErrFormat if none begins there, or that of the file.
func (a *Ahead) entry(in *window, size int64) (Entry, int64, error) {
	if size-a.next < fileLen {
		return Entry{}, 0, io.EOF
	}
	header, err := in.bytes(a.next, fileLen)
	if err != nil {
		return Entry{}, 0, err
	}
	le := binary.LittleEndian
	if le.Uint32(header) != fileSignature {
		return Entry{}, 0, ErrFormat
	}
	e := Entry{
		Flags: le.Uint16(header[6:]), Method: le.Uint16(header[8:]), CRC32: le.Uint32(header[14:]),
		Packed: uint64(le.Uint32(header[18:])), Size: uint64(le.Uint32(header[22:])), Header: a.next,
	}
	name, body := int(le.Uint16(header[26:])), a.next+fileLen+int64(le.Uint16(header[26:]))+int64(le.Uint16(header[28:]))
	if body > size {
		return Entry{}, 0, io.EOF
	}
	text, err := in.bytes(a.next+fileLen, name)
	if err != nil {
		return Entry{}, 0, err
	}
	e.Name = string(text)
	if e.Flags&hasDescriptor != 0 {
		return a.described(in, e, body, size)
	}
	end := body + int64(e.Packed)
	if end > size {
		return Entry{}, 0, io.EOF
	}
	return e, end, nil
}

// described is entry for one whose sizes are behind its content, which begins at body. The
// descriptor is the first one that has its distance from body as the packed size, and a
// signature behind it.
func (a *Ahead) described(in *window, e Entry, body, size int64) (Entry, int64, error) {
	const length = descriptorLen + 4
	le := binary.LittleEndian
	signature := le.AppendUint32(nil, descriptorSignature)
	a.scanned = max(a.scanned, body)
	for size-a.scanned >= length {
		if _, err := in.bytes(a.scanned, length); err != nil {
			return Entry{}, 0, err
		}
		b := in.from(a.scanned)
		b = b[:min(int64(len(b)), size-a.scanned)]
		at := bytes.Index(b, signature)
		if at < 0 {
			at = len(b) - len(signature) + 1
		}
		if a.scanned += int64(at); len(b)-at < length {
			continue // the rest is read first
		}
		d := b[at:]
		follows := le.Uint32(d[descriptorLen:])
		if int64(le.Uint32(d[8:])) == a.scanned-body && (follows == fileSignature || follows == entrySignature) {
			e.CRC32, e.Packed, e.Size = le.Uint32(d[4:]), uint64(le.Uint32(d[8:])), uint64(le.Uint32(d[12:]))
			return e, a.scanned + descriptorLen, nil
		}
		a.scanned++
	}
	return Entry{}, 0, io.EOF
}

// append appends all of e to b.
func (e Entry) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(len(e.Name)))
	b = append(b, e.Name...)
	b = le.AppendUint16(le.AppendUint16(b, e.Flags), e.Method)
	b = le.AppendUint32(b, e.CRC32)
	b = le.AppendUint64(le.AppendUint64(b, e.Packed), e.Size)
	return le.AppendUint64(b, uint64(e.Header))
}

// HashAhead is Hash for the file of a, which has arrived: it hashes what a has not hashed yet,
// and all again if the directory does not have exactly the entries that a has found. a cannot
// be used afterwards, except for Close.
func (z *Zip) HashAhead(ctx context.Context, a *Ahead) (string, error) {
	a.advance(ctx, z.size)
	if a.lost == nil && z.confirms(a) {
		return hashLines(&a.batch.sorter)
	}
	a.Close()
	return z.Hash(ctx, a.scratch)
}

// confirms reports whether the directory has the entries that a has found, in their order. If
// so, a has hashed what Hash would hash, and in the same way.
func (z *Zip) confirms(a *Ahead) bool {
	listed := sha256.New()
	var b []byte
	err := z.Entries(func(e Entry) error {
		b = e.append(b[:0])
		listed.Write(b)
		return nil
	})
	return err == nil && bytes.Equal(listed.Sum(nil), a.found.Sum(nil))
}
