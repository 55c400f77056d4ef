package modzip

import (
	"bytes"
	"cmp"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/zip"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/internal/panics"
)

// Memory is how many bytes Hash, Check and Advance use at most: an arena, which is copied when
// it grows, or the buffers of a merge, the decompressors of concurrent readers, and what is
// read of headers.
const Memory = 2*arenaSize + maxReaders*(128<<10) + headerBuffer

// headerBuffer is for the headers of a zip that arrives: the longest name fits.
const headerBuffer = 64 << 10

// maxReaders is how many entries of one zip are unpacked at the same time.
const maxReaders = 8

// Methods of compression. Go's zip writer has no others.
const (
	stored   = 0
	deflated = 8
)

// Hash returns the h1 hash of the zip, as x/mod/sumdb/dirhash.HashZip does. It unpacks on
// several processors. scratch creates an empty file for a directory that is too large to
// be sorted in memory; Hash removes it.
//
// The error is ErrFormat if the file is not a zip, or has names that h1 does not cover;
// ErrShape if an entry has bytes that are not part of its content, which only unpacking
// shows, or if entries overlap, which HashZip does not check; ErrTooLarge if it would unpack to more than a module
// may have; otherwise that of a file or of ctx.
func (z *Zip) Hash(ctx context.Context, scratch func() (*os.File, error)) (string, error) {
	b := batch{file: z.r, sorter: sorter{scratch: scratch, beside: contentSize}}
	defer b.sorter.done()
	left := uint64(z.size) // otherwise a million entries could have the same content, that unpacks slowly to nothing
	err := z.Entries(func(e Entry) error {
		if e.Packed > left {
			return shapeError("entries that overlap")
		}
		left -= e.Packed
		return b.add(ctx, e)
	})
	if err == nil {
		err = b.hash(ctx)
	}
	if err != nil {
		return "", err
	}
	return hashLines(&b.sorter)
}

// batch is a group of entries that are hashed and sorted together.
type batch struct {
	file    io.ReaderAt
	sorter  sorter
	entries []content
	packed  uint64 // bytes of the file that entries take
	total   uint64 // size of all contents that were added

	mu    sync.Mutex // guards taken
	taken int        // of entries
}

// content is the part of an entry that is needed to read its content.
type content struct {
	packed     uint64
	size       uint32 // at most zip.MaxZipFile
	crc        uint32
	header     int64
	row        int32 // of the sorter
	method     uint16
	descriptor bool
	folder     bool
}

// contentSize is the size of a content.
const contentSize = 32

// add adds an entry, if a module may have it. If there is no room for it, the batch is hashed
// first, which frees the memory.
func (b *batch) add(ctx context.Context, e Entry) error {
	if strings.Contains(e.Name, "\n") {
		return fmt.Errorf("%w: a file name in it has a newline", ErrFormat)
	}
	if b.total += e.Size; e.Size > zip.MaxZipFile || b.total > zip.MaxZipFile {
		return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrTooLarge, zip.MaxZipFile)
	}
	if !b.sorter.fits(len(e.Name) + sha256.Size) {
		if err := b.hash(ctx); err != nil {
			return err
		}
		if err := b.sorter.spill(); err != nil {
			return err
		}
	}
	b.packed += e.Packed + fileLen + descriptorLen
	b.entries = append(b.entries, content{
		e.Packed, uint32(e.Size), e.CRC32, e.Header, int32(len(b.entries)), e.Method, e.Flags&hasDescriptor != 0, strings.HasSuffix(e.Name, "/"),
	})
	var none [sha256.Size]byte
	return b.sorter.add(e.Name, none[:])
}

// hash puts the SHA-256 of each entry of the batch into its place. It reads the file from front to
// back: the directory may have another order, and each piece of a file that is read takes time.
func (b *batch) hash(ctx context.Context) error {
	slices.SortFunc(b.entries, func(a, b content) int { return cmp.Compare(a.header, b.header) })
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), maxReaders, 1+int(b.packed/packedBuffer)) {
		g.Go(func() error { return panics.Catch(func() error { return b.hashSome(ctx) }) })
	}
	err := g.Wait()
	b.entries, b.taken, b.packed = b.entries[:0], 0, 0
	return err
}

// hashSome hashes entries that no other goroutine has taken until there are none.
func (b *batch) hashSome(ctx context.Context) error {
	r := newReader(b.file)
	for from, to := b.take(); from < to; from, to = b.take() {
		for i := from; i < to; i++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			row := b.sorter.rows[b.entries[i].row]
			if err := r.sum(b.entries[i], row.valueIn(b.sorter.arena)); err != nil {
				return fmt.Errorf("%.200q: %w", row.keyIn(b.sorter.arena), err)
			}
		}
	}
	return nil
}

// take takes the next entries, as many as a reader reads together.
func (b *batch) take() (from, to int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	from = b.taken
	for size := uint64(0); b.taken < len(b.entries) && size < packedBuffer; b.taken++ {
		size += b.entries[b.taken].packed + fileLen + descriptorLen
	}
	return from, b.taken
}

// hashLines is dirhash.Hash1 over known sums. If n entries have the same name, it uses the
// last one n times, as HashZip does.
func hashLines(s *sorter) (string, error) {
	var (
		h    = sha256.New()
		line []byte
		last struct {
			name, sum []byte
			times     int
		}
	)
	flush := func() {
		line = append(append(append(hex.AppendEncode(line[:0], last.sum), "  "...), last.name...), '\n')
		for ; last.times > 0; last.times-- {
			h.Write(line)
		}
	}
	err := s.each(func(name, sum []byte) error {
		if !bytes.Equal(name, last.name) {
			flush()
			last.name = append(last.name[:0], name...)
		}
		last.sum = append(last.sum[:0], sum...)
		last.times++
		return nil
	})
	if err != nil {
		return "", err
	}
	flush()
	return "h1:" + base64.StdEncoding.EncodeToString(h.Sum(nil)), nil
}

// reader reads the content of entries, one after the other.
type reader struct {
	in       window
	inflater *inflater
	out      []byte        // unpacked content
	flate    io.ReadCloser // a flate.Resetter; nil until a content does not fit into memory
	crc      hash.Hash32
	sha      hash.Hash
}

// Sizes of the buffers of a reader. Nearly all files of modules fit into them.
const (
	packedBuffer   = 32 << 10
	unpackedBuffer = 40 << 10
)

func newReader(file io.ReaderAt) *reader {
	return &reader{
		in: window{r: file, buffer: make([]byte, packedBuffer)}, inflater: newInflater(), out: make([]byte, unpackedBuffer),
		crc: crc32.NewIEEE(), sha: sha256.New(),
	}
}

// sum puts the SHA-256 of the content of c into sum. Its length and its CRC-32 are
// those that the directory has.
func (r *reader) sum(c content, sum []byte) error {
	body, err := r.body(c)
	if err != nil {
		return err
	}
	if content, ok := r.small(c, body); ok {
		hash := sha256.Sum256(content)
		copy(sum, hash[:])
		return r.check(c, body, crc32.ChecksumIEEE(content))
	}
	r.crc.Reset()
	r.sha.Reset()
	packed := &packed{in: &r.in, at: body, end: body + int64(c.packed)}
	n, err := r.copy(c, packed)
	switch {
	case err == io.ErrUnexpectedEOF, err == nil && n != int64(c.size):
		return fmt.Errorf("%w: its content is not as long as the directory says", ErrFormat)
	case err != nil:
		return err
	}
	if err := r.check(c, body, r.crc.Sum32()); err != nil {
		return err
	}
	if c.method == deflated && !c.folder {
		if _, more := packed.ReadByte(); more == nil {
			return shapeError("bytes behind the end of the compressed content")
		}
	}
	r.sha.Sum(sum[:0])
	return nil
}

// body returns where the content of c begins, after its local header.
func (r *reader) body(c content) (int64, error) {
	local, err := r.in.bytes(c.header, fileLen)
	if err != nil && err != io.EOF {
		return 0, err
	}
	if len(local) < fileLen || binary.LittleEndian.Uint32(local) != fileSignature {
		return 0, fmt.Errorf("%w: its local header is missing", ErrFormat)
	}
	return c.header + fileLen + int64(binary.LittleEndian.Uint16(local[26:])) + int64(binary.LittleEndian.Uint16(local[28:])), nil
}

// small returns the content of c, valid until the next call of a method, if it fits into
// memory and nothing is wrong with its length.
func (r *reader) small(c content, body int64) ([]byte, bool) {
	if c.folder {
		return nil, c.size == 0
	}
	if c.packed > packedBuffer || c.size > unpackedBuffer {
		return nil, false
	}
	packed, err := r.in.bytes(body, int(c.packed))
	switch {
	case err != nil:
		return nil, false // copy will tell
	case c.method == stored:
		return packed, c.packed == uint64(c.size)
	case c.method == deflated:
		return r.out[:c.size], r.inflater.inflate(r.out[:c.size], packed)
	}
	return nil, false
}

// copy unpacks the content of c into the two hashes, at most one byte more than the
// directory says.
func (r *reader) copy(c content, packed *packed) (int64, error) {
	if c.folder {
		return 0, nil // as archive/zip has it, whatever is there
	}
	var in io.Reader = packed
	switch c.method {
	case stored:
	case deflated:
		if r.flate == nil {
			r.flate = flate.NewReader(nil)
		}
		if err := r.flate.(flate.Resetter).Reset(packed, nil); err != nil {
			return 0, err
		}
		in = r.flate
	default:
		return 0, fmt.Errorf("%w: compressed with method %d", ErrFormat, c.method)
	}
	out := io.MultiWriter(r.crc, r.sha)
	n, err := io.CopyBuffer(out, struct{ io.Reader }{io.LimitReader(in, int64(c.size)+1)}, r.out)
	var corrupt flate.CorruptInputError
	if errors.As(err, &corrupt) {
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return n, err
}

// check compares the CRC-32 of the unpacked content, and that in the data descriptor
// behind it, with that of the directory, which may omit it if there is no descriptor.
func (r *reader) check(c content, body int64, crc uint32) error {
	if c.folder || !c.descriptor && c.crc == 0 {
		return nil
	}
	if c.descriptor {
		d, err := r.in.bytes(body+int64(c.packed), 8)
		if err == io.EOF {
			return fmt.Errorf("%w: its data descriptor is missing", ErrFormat)
		} else if err != nil {
			return err
		}
		at := 0
		if binary.LittleEndian.Uint32(d) == descriptorSignature {
			at = 4 // it is optional
		}
		if binary.LittleEndian.Uint32(d[at:]) != c.crc {
			return fmt.Errorf("%w: its data descriptor contradicts the directory", ErrFormat)
		}
	}
	if crc != c.crc {
		return fmt.Errorf("%w: wrong CRC-32", ErrFormat)
	}
	return nil
}
