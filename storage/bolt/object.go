package bolt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// errClosed is the error of Read and similar methods once the store or the object is closed.
func errClosed(key string) error {
	return fmt.Errorf("read %.200q: %w", key, fs.ErrClosed)
}

// inlineObject is an object with its content in memory, verified.
type inlineObject struct {
	storeClosed *atomic.Bool
	info        storage.Info
	bytes       []byte
	content     bytes.Reader
	held        memory.Hold
	closed      bool
}

func newInlineObject(r *record, held memory.Hold, storeClosed *atomic.Bool) *inlineObject {
	return &inlineObject{storeClosed: storeClosed, info: r.info, bytes: r.content, content: *bytes.NewReader(r.content), held: held}
}

func (o *inlineObject) Info() storage.Info { return o.info }

func (o *inlineObject) SHA256() [sha256.Size]byte { return sha256.Sum256(o.bytes) }

func (o *inlineObject) check() error {
	if o.closed || o.storeClosed.Load() {
		return errClosed(o.info.Key)
	}
	return nil
}

func (o *inlineObject) Read(b []byte) (int, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	return o.content.Read(b)
}

func (o *inlineObject) WriteTo(w io.Writer) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	return o.content.WriteTo(w)
}

func (o *inlineObject) Seek(offset int64, whence int) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	return o.content.Seek(offset, whence)
}

func (o *inlineObject) Close() error {
	if o.closed {
		return errClosed(o.info.Key)
	}
	o.closed = true
	o.held.Free()
	return nil
}

// blobObject is an object with its content in blobs.db. It keeps no transaction open: the bytes
// stay where they are because the object is counted among the readers of the blob.
type blobObject struct {
	blobs       *blobs
	reaper      *reaper
	storeClosed *atomic.Bool

	info   storage.Info
	blob   blobRef
	held   memory.Hold
	offset int64
	closed bool

	chunk     *chunk // the current one, shared with other readers; or nil
	piece     piece  // of a chunk, if there was no memory for a chunk
	relocated bool   // the extents are from locate
	ahead     readAhead
}

// piece is a copy of a part of an object.
type piece struct {
	data []byte
	from int64 // its position in the object
}

func (o *blobObject) Info() storage.Info { return o.info }

func (o *blobObject) SHA256() [sha256.Size]byte { return o.blob.hash }

func (o *blobObject) Read(b []byte) (int, error) {
	if o.offset >= o.info.Size {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	rest, err := o.load()
	if err != nil {
		return 0, err
	}
	n := copy(b, rest)
	o.offset += int64(n)
	return n, nil
}

func (o *blobObject) WriteTo(w io.Writer) (n int64, err error) {
	for o.offset < o.info.Size {
		rest, err := o.load()
		if err != nil {
			return n, err
		}
		m, err := w.Write(rest)
		o.offset += int64(m)
		n += int64(m)
		if err != nil {
			return n, err
		}
		if m < len(rest) {
			return n, io.ErrShortWrite
		}
	}
	return n, nil
}

func (o *blobObject) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.info.Size
	default:
		return 0, fmt.Errorf("seek in %.200q: whence %d", o.info.Key, whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek in %.200q: negative position %d", o.info.Key, offset)
	}
	o.offset = offset
	return offset, nil
}

func (o *blobObject) Close() error {
	if o.closed {
		return errClosed(o.info.Key)
	}
	o.closed = true
	o.leaveChunk()
	o.piece = piece{}
	o.held.Free()
	o.reaper.release(o.blob.id)
	return nil
}

// load returns the verified bytes from the current position to the end of its chunk, or of a piece
// of the chunk.
func (o *blobObject) load() ([]byte, error) {
	if o.closed || o.storeClosed.Load() {
		return nil, errClosed(o.info.Key)
	}
	number := int(o.offset / chunkSize)
	begin := int64(number) * chunkSize
	switch {
	case o.chunk != nil && o.chunk.id.chunk == number:
		return o.chunk.data[o.offset-begin:], nil
	case o.piece.from <= o.offset && o.offset < o.piece.from+int64(len(o.piece.data)):
		return o.piece.data[o.offset-o.piece.from:], nil
	}
	o.leaveChunk()
	o.ahead.advise(o.blobs.reader, o.blob.extents, number)
	data, err := o.loadChunk(number, o.offset-begin)
	if err != nil {
		return nil, fmt.Errorf("read %.200q: %w", o.info.Key, err)
	}
	o.ahead.next = number + 1
	return data, nil
}

// loadChunk returns the bytes of a chunk from offset on.
func (o *blobObject) loadChunk(number int, offset int64) (data []byte, err error) {
	read := func(buffer []byte) ([]byte, error) { return o.read(number, buffer) }
	o.chunk, err = o.blobs.chunks.acquire(chunkID{o.blob.id, number}, read)
	if err != nil {
		return nil, err
	}
	if o.chunk != nil {
		return o.chunk.data[offset:], nil
	}
	if o.piece.data == nil {
		o.piece.data = make([]byte, 0, pieceSize)
	}
	if data, err = o.blobs.chunks.copyPiece(o.piece.data[:pieceSize], offset, read); err != nil {
		data = nil
	}
	o.piece.data, o.piece.from = o.piece.data[:len(data)], o.offset
	return data, err
}

// leaveChunk releases the current chunk.
func (o *blobObject) leaveChunk() {
	if o.chunk != nil {
		o.blobs.chunks.release(o.chunk)
		o.chunk = nil
	}
}

// read reads a chunk into buffer, and returns the part of it with the content. If the chunk is not
// where the record says, read locates the chunks once.
func (o *blobObject) read(chunk int, buffer []byte) ([]byte, error) {
	data, err := o.blobs.readAt(&o.blob, o.info.Size, chunk, buffer)
	if !errors.Is(err, storage.ErrDamaged) {
		return data, err
	}
	if !o.relocated {
		o.relocated = true
		if found, lerr := locate(o.blobs.file, wholeBlob(o.blob.id, o.info.Size)); lerr == nil && found[chunk] != o.blob.extents[chunk] {
			o.blob.extents = found
			data, err = o.blobs.readAt(&o.blob, o.info.Size, chunk, buffer)
		}
	}
	if errors.Is(err, storage.ErrDamaged) {
		o.blobs.damaged.Inc()
	}
	return data, err
}
