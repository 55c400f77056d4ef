package modzip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrFormat says that the bytes are not a zip file.
var ErrFormat = errors.New("not a zip file")

// ErrTooLarge says that reading the zip would take too long, or too much of a disk.
var ErrTooLarge = errors.New("too large")

// directoryLimit is the size of the directory of a zip: each entry takes time, however
// small it is. The largest known modules have a third of it.
const directoryLimit = 64 << 20

// zip64Extra is the extra field with values that do not fit into 32 bits.
const zip64Extra = 1

// Zip is a zip file in r, of size bytes, as archive/zip reads it. Its
// directory is not in memory: it is read in a stream, as often as it is needed. Its
// methods may be called at the same time.
//
// A Zip may accept a file that CheckShape refuses, but none that archive/zip would refuse
// or read differently.
type Zip struct {
	r    io.ReaderAt
	size int64

	start   int64  // of the directory
	end     int64  // after its last byte
	base    int64  // the origin of offsets in the zip
	entries uint64 // according to the end record
	wide    bool   // that number has 64 bits
}

// Entry is an entry of a zip's directory.
type Entry struct {
	Name         string
	Flags        uint16
	Method       uint16
	CRC32        uint32 // of the content
	Packed, Size uint64 // of the content as it is stored, and unpacked; in bytes
	Header       int64  // offset of the local header in the file
}

// Open finds the directory of the zip file in r, which has size bytes. The error is
// ErrFormat, ErrTooLarge, or that of r.
func Open(r io.ReaderAt, size int64) (*Zip, error) {
	z := &Zip{r: r, size: size}
	tail, at, err := z.findEnd()
	if err != nil {
		return nil, err
	}
	records := uint64(binary.LittleEndian.Uint16(tail[10:]))
	length := uint64(binary.LittleEndian.Uint32(tail[12:]))
	offset := uint64(binary.LittleEndian.Uint32(tail[16:]))
	if records == math.MaxUint16 || length == math.MaxUint16 || offset == math.MaxUint32 { // as archive/zip has it
		if err := z.readEnd64(&at, &records, &length, &offset); err != nil {
			return nil, err
		}
	}
	z.entries, z.end = records, at
	if length > uint64(at) || offset > uint64(at)-length {
		return nil, fmt.Errorf("%w: its directory is outside of it", ErrFormat)
	}
	if z.start = at - int64(length); length > directoryLimit {
		return nil, fmt.Errorf("%w: the directory of a zip, %d bytes; the limit is %d", ErrTooLarge, length, directoryLimit)
	}
	z.base = z.start - int64(offset)
	return z, z.unambiguous(int64(offset))
}

// unambiguous refuses a zip with bytes that its offsets do not count, if there may also be
// a directory where it would be without them: archive/zip reads that one.
func (z *Zip) unambiguous(offset int64) error {
	if z.base == 0 {
		return nil
	}
	var signature [4]byte
	if _, err := z.r.ReadAt(signature[:], offset); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(signature[:]) == entrySignature {
		return fmt.Errorf("%w: it has two directories", ErrFormat)
	}
	return nil
}

// findEnd returns the end record of the zip, and where it is. A comment of up to
// 65535 bytes may follow it.
func (z *Zip) findEnd() (record []byte, at int64, err error) {
	for _, length := range []int64{1 << 10, endLen + math.MaxUint16} {
		tail := make([]byte, min(length, z.size))
		from := z.size - int64(len(tail))
		if _, err := z.r.ReadAt(tail, from); err != nil && err != io.EOF {
			return nil, 0, err
		}
		signature := binary.LittleEndian.AppendUint32(nil, endSignature)
		i := bytes.LastIndex(tail[:max(0, len(tail)-endLen+len(signature))], signature)
		if i < 0 {
			continue
		}
		if record := tail[i:]; int(binary.LittleEndian.Uint16(record[20:])) <= len(record)-endLen {
			return record[:endLen], from + int64(i), nil
		}
	}
	return nil, 0, fmt.Errorf("%w: it has no end record", ErrFormat)
}

// readEnd64 reads the values that did not fit into the end record from the zip64 end
// record, if there is one, and sets at to its position: the directory ends there.
func (z *Zip) readEnd64(at *int64, records, length, offset *uint64) error {
	locator := make([]byte, locatorLen)
	if *at < locatorLen {
		return nil
	}
	if _, err := z.r.ReadAt(locator, *at-locatorLen); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint32(locator) != locatorSignature || le.Uint32(locator[4:]) != 0 || le.Uint32(locator[16:]) != 1 {
		return nil
	}
	where := le.Uint64(locator[8:])
	if where > uint64(*at-locatorLen) || *at-locatorLen-int64(where) < end64Len {
		return fmt.Errorf("%w: its zip64 end record is outside of it", ErrFormat)
	}
	record := make([]byte, end64Len)
	if _, err := z.r.ReadAt(record, int64(where)); err != nil {
		return err
	}
	if le.Uint32(record) != end64Signature {
		return fmt.Errorf("%w: it has no zip64 end record", ErrFormat)
	}
	*at, z.wide = int64(where), true
	*records, *length, *offset = le.Uint64(record[32:]), le.Uint64(record[40:]), le.Uint64(record[48:])
	return nil
}

// Entries calls visit for each entry of the directory, in its order. The error is
// ErrFormat, that of the file, or that of visit, which ends it.
func (z *Zip) Entries(visit func(Entry) error) error {
	directory := bufio.NewReaderSize(io.NewSectionReader(z.r, z.start, z.end-z.start), 64<<10)
	count := uint64(0)
	for ; ; count++ {
		e, err := z.readEntry(directory)
		if err == io.EOF {
			break
		}
		if err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: entry %d of its directory is cut off", ErrFormat, count)
		}
		if err != nil {
			return err
		}
		if err := visit(e); err != nil {
			return err
		}
	}
	if count != z.entries && (z.wide || uint16(count) != uint16(z.entries)) {
		return fmt.Errorf("%w: its directory has %d entries, not %d", ErrFormat, count, z.entries)
	}
	return nil
}

// readEntry reads the next entry. The error is io.EOF at the end.
func (z *Zip) readEntry(directory *bufio.Reader) (Entry, error) {
	var fixed [entryLen]byte
	if _, err := io.ReadFull(directory, fixed[:]); err != nil {
		return Entry{}, err
	}
	le := binary.LittleEndian
	if le.Uint32(fixed[:]) != entrySignature {
		return Entry{}, fmt.Errorf("%w: something else is in its directory", ErrFormat)
	}
	name, extra, comment := int(le.Uint16(fixed[28:])), int(le.Uint16(fixed[30:])), int(le.Uint16(fixed[32:]))
	text := make([]byte, name+extra)
	if _, err := io.ReadFull(directory, text); err != nil {
		return Entry{}, unexpected(err)
	}
	if _, err := directory.Discard(comment); err != nil {
		return Entry{}, unexpected(err)
	}
	e := Entry{
		Name: string(text[:name]), Flags: le.Uint16(fixed[8:]), Method: le.Uint16(fixed[10:]), CRC32: le.Uint32(fixed[16:]),
		Packed: uint64(le.Uint32(fixed[20:])), Size: uint64(le.Uint32(fixed[24:])),
	}
	header := uint64(le.Uint32(fixed[42:]))
	if err := widen(text[name:], &e.Size, &e.Packed, &header); err != nil {
		return Entry{}, err
	}
	// The entry must end before the directory; the sum cannot overflow.
	room := uint64(z.start - z.base)
	if header > room || e.Packed > room-header {
		return Entry{}, fmt.Errorf("%w: %.200q is outside of it", ErrFormat, e.Name)
	}
	e.Header = z.base + int64(header)
	return e, nil
}

// widen replaces values that do not fit into 32 bits by those of the zip64 field in the
// extra fields of an entry.
func widen(extra []byte, values ...*uint64) error {
	for len(extra) >= 4 {
		tag, length := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; length > len(extra) {
			break
		}
		field := extra[:length]
		if extra = extra[length:]; tag != zip64Extra {
			continue
		}
		for _, v := range values {
			if *v != math.MaxUint32 {
				continue
			}
			if len(field) < 8 {
				return fmt.Errorf("%w: a zip64 field is too short", ErrFormat)
			}
			*v, field = binary.LittleEndian.Uint64(field), field[8:]
		}
		return nil
	}
	return nil
}

// unexpected turns the end of a file in the middle of an entry into an error.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
