// Package modzip hashes and checks the zip file of a module in a bounded amount of memory.
//
// archive/zip makes an object of some 700 bytes for each entry, so that a zip of 70 MB with
// empty entries takes 900 MB. This package reads the directory as a stream, and sorts
// pieces of it in a scratch file: Memory is the limit, however large a zip is. Zip.Hash
// returns the hash of golang.org/x/mod/sumdb/dirhash, Zip.Check makes the checks of
// golang.org/x/mod/zip.
//
// The h1 hash of a zip covers the names and the contents of its files, and nothing else. A
// zip with bytes behind its end, between its files or in its comments has the same hash as
// one without. CheckShape refuses such bytes, so that a zip that is stored and served as
// proved has no bytes that no hash covers.
//
// The format is defined in PKWARE's APPNOTE.TXT, sections 4.3 and 4.4.
package modzip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrShape says that Go's zip writer would not make such a zip.
var ErrShape = errors.New("zip file is not in the form that Go writes")

// maxExtra is the size of the extra fields of an entry. Those of all known writers, with
// times, owners and marks, take less than half.
const maxExtra = 128

// maxPacked returns how many bytes a content of size bytes may take when compressed.
// Incompressible content is stored in blocks with five bytes more, of 65,535 bytes by Go
// and of some thousand by other writers, and a writer that flushes adds empty blocks.
func maxPacked(size uint64) uint64 { return size + size/64 + 512 }

// CheckShape returns an error that is ErrShape if the zip of size bytes in r has any
// byte that neither its directory nor one of its entries accounts for: a prefix, gaps
// or overlaps between entries, comments, bytes behind the end, or a local header that
// contradicts the directory. It reads the directory once, in order, and of each entry
// the header and the data descriptor; its memory does not grow with the number of
// entries. It does not read contents.
//
// Entries must be in the order of the directory, as Go's writer writes them. An entry of
// 4 GiB or more is refused; a module has none (golang.org/x/mod/zip, MaxZipFile). Not
// checked are modification times, attributes and short extra fields, if they are the same
// in both headers of an entry, and the compression, except for its length.
//
// The directory is the one that archive/zip reads: a zip with another one for other
// programs is refused.
func CheckShape(r io.ReaderAt, size int64) error {
	d, err := findDirectory(r, size)
	if err != nil {
		return err
	}
	if err := d.checkOnly(r, size); err != nil {
		return err
	}
	entries := bufio.NewReaderSize(io.NewSectionReader(r, d.offset, d.size), 64<<10)
	parts := &window{r: r, buffer: make([]byte, 8<<10)} // large enough for a descriptor and the next header
	next := int64(0)                                    // where the next entry must begin
	left := d.size                                      // of the directory
	for range d.entries {
		e, err := readEntry(entries)
		if err != nil {
			return err
		}
		left -= int64(entryLen + len(e.name) + len(e.extra))
		if e.offset != next {
			return shapeError("entry %.100q begins at byte %d, want %d: bytes between entries, or entries that overlap", e.name, e.offset, next)
		}
		if next, err = checkLocal(parts, e); err != nil {
			return err
		}
	}
	switch {
	case next != d.offset:
		return shapeError("the directory begins at byte %d, the entries end at %d", d.offset, next)
	case left != 0:
		return shapeError("the directory has %d entries and %d bytes that belong to none", d.entries, left)
	}
	return nil
}

func shapeError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrShape, fmt.Sprintf(format, args...))
}

// directory is the position of the list of entries.
type directory struct {
	entries uint64
	offset  int64
	size    int64
}

// findDirectory reads the end of the zip, which must be its last bytes.
func findDirectory(r io.ReaderAt, size int64) (directory, error) {
	var b [endLen]byte
	if size < endLen {
		return directory{}, shapeError("%d bytes are too short for a zip file", size)
	}
	at := size - endLen
	if err := readAt(r, b[:], at); err != nil {
		return directory{}, err
	}
	le := binary.LittleEndian
	if le.Uint32(b[:]) != endSignature {
		return directory{}, shapeError("the end record is not at the end: a comment, or bytes behind it")
	}
	if le.Uint32(b[4:]) != 0 || le.Uint16(b[8:]) != le.Uint16(b[10:]) || le.Uint16(b[20:]) != 0 {
		return directory{}, shapeError("the end record has disks or a comment")
	}
	d := directory{uint64(le.Uint16(b[10:])), int64(le.Uint32(b[16:])), int64(le.Uint32(b[12:]))}
	if d.entries == 0xffff && d.offset == 0xffffffff && d.size == 0xffffffff {
		var err error
		if d, at, err = findDirectory64(r, at); err != nil {
			return directory{}, err
		}
	}
	if d.offset > at || d.size != at-d.offset {
		return directory{}, shapeError("the directory of %d bytes at byte %d does not end at the end record at byte %d", d.size, d.offset, at)
	}
	return d, nil
}

// checkOnly returns an error if archive/zip, and so Open, finds another directory.
func (d directory) checkOnly(r io.ReaderAt, size int64) error {
	z, err := Open(r, size)
	switch {
	case errors.Is(err, ErrFormat):
		return shapeError("%v", err)
	case err != nil:
		return readError(err)
	case z.start != d.offset || z.end != d.offset+d.size || z.base != 0 || z.entries != d.entries:
		return shapeError("it has two directories")
	}
	return nil
}

// findDirectory64 reads the records that Go's writer puts before the end record at
// byte end if there are 65,535 entries or more. It also returns where they begin.
func findDirectory64(r io.ReaderAt, end int64) (directory, int64, error) {
	var b [end64Len + locatorLen]byte
	at := end - int64(len(b))
	if at < 0 {
		return directory{}, 0, shapeError("the zip64 end record is missing")
	}
	if err := readAt(r, b[:], at); err != nil {
		return directory{}, 0, err
	}
	le := binary.LittleEndian
	locator := b[end64Len:]
	entries, size, offset := le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:])
	switch {
	case le.Uint32(b[:]) != end64Signature, le.Uint64(b[4:]) != end64Len-12, le.Uint64(b[16:]) != 0, le.Uint64(b[24:]) != entries,
		le.Uint32(locator) != locatorSignature, le.Uint32(locator[4:]) != 0, le.Uint64(locator[8:]) != uint64(at), le.Uint32(locator[16:]) != 1:
		return directory{}, 0, shapeError("the zip64 end record is not what Go writes")
	case offset > uint64(at), size > uint64(at):
		return directory{}, 0, shapeError("the directory of %d bytes at byte %d is not in the file", size, offset)
	}
	return directory{entries, int64(offset), int64(size)}, at, nil
}

// entry is an element of the directory.
type entry struct {
	// common are the fields that the local header repeats: version, flags, method, time
	// and date.
	common []byte
	sums   []byte // CRC-32, compressed and uncompressed size
	name   []byte
	extra  []byte
	offset int64
}

// readEntry reads the next element of the directory.
func readEntry(r *bufio.Reader) (entry, error) {
	b := make([]byte, entryLen)
	if _, err := io.ReadFull(r, b); err != nil {
		return entry{}, readError(err)
	}
	le := binary.LittleEndian
	e := entry{common: b[6:16], sums: b[16:28], offset: int64(le.Uint32(b[42:]))}
	text := make([]byte, int(le.Uint16(b[28:]))+int(le.Uint16(b[30:])))
	if le.Uint32(b) != entrySignature {
		return entry{}, shapeError("an entry of the directory has no signature")
	}
	if _, err := io.ReadFull(r, text); err != nil {
		return entry{}, readError(err)
	}
	e.name, e.extra = text[:le.Uint16(b[28:])], text[le.Uint16(b[28:]):]
	switch {
	case le.Uint16(b[32:]) != 0:
		return entry{}, shapeError("entry %.100q has a comment", e.name)
	case le.Uint32(b[34:]) != 0:
		return entry{}, shapeError("entry %.100q has a disk number or internal attributes", e.name)
	case bytes.HasSuffix(e.name, []byte("/")) && le.Uint32(e.sums[4:]) != 0:
		return entry{}, shapeError("folder %.100q has content", e.name)
	case len(e.extra) > maxExtra:
		return entry{}, shapeError("entry %.100q has extra fields of %d bytes", e.name, len(e.extra))
	case uint64(le.Uint32(e.sums[4:])) > maxPacked(uint64(le.Uint32(e.sums[8:]))):
		return entry{}, shapeError("entry %.100q takes %d bytes for a content of %d", e.name, le.Uint32(e.sums[4:]), le.Uint32(e.sums[8:]))
	case le.Uint32(e.sums[4:]) == 0xffffffff || le.Uint32(e.sums[8:]) == 0xffffffff:
		return entry{}, shapeError("entry %.100q has 4 GiB or more", e.name)
	}
	return e, nil
}

// checkLocal compares the header of e in front of its content, and the data
// descriptor behind it, with the directory. It returns where they end.
func checkLocal(r io.ReaderAt, e entry) (end int64, err error) {
	le := binary.LittleEndian
	b := make([]byte, fileLen+len(e.name)+len(e.extra))
	if err := readAt(r, b, e.offset); err != nil {
		return 0, err
	}
	sums := e.sums
	described := le.Uint16(e.common[2:])&hasDescriptor != 0
	if described {
		sums = make([]byte, len(e.sums))
	}
	switch {
	case le.Uint32(b) != fileSignature:
		return 0, shapeError("entry %.100q has no local header", e.name)
	case !bytes.Equal(b[4:14], e.common), !bytes.Equal(b[14:26], sums),
		int(le.Uint16(b[26:])) != len(e.name), int(le.Uint16(b[28:])) != len(e.extra),
		!bytes.Equal(b[fileLen:], append(e.name[:len(e.name):len(e.name)], e.extra...)):
		return 0, shapeError("the local header of entry %.100q contradicts the directory", e.name)
	}
	end = e.offset + int64(len(b)) + int64(le.Uint32(e.sums[4:]))
	if !described {
		return end, nil
	}
	var d [descriptorLen]byte
	if err := readAt(r, d[:], end); err != nil {
		return 0, err
	}
	if le.Uint32(d[:]) != descriptorSignature || !bytes.Equal(d[4:], e.sums) {
		return 0, shapeError("the data descriptor of entry %.100q contradicts the directory", e.name)
	}
	return end + descriptorLen, nil
}

// readAt fills b from at. What lies beyond the end of the file is ErrShape.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	return readError(err)
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return shapeError("a part of it lies beyond its end")
	}
	return err
}
