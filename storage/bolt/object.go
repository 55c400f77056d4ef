package bolt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// Open implements storage.Store.
func (db *DB) Open(ctx context.Context, key string) (storage.Object, error) {
	r, err := db.lookup(ctx, key, true)
	if err != nil {
		return nil, fmt.Errorf("open %.200q: %w", key, err)
	}
	held := db.chunks.budget.HoldFor(ctx)
	if err := held.Try(openSize(r)); err != nil {
		if r.blob != nil {
			db.removeReader(r.blob.id)
		}
		return nil, fmt.Errorf("open %.200q: %w", key, err)
	}
	if r.blob == nil {
		return &inlineObject{db: db, info: r.info, bytes: r.content, content: *bytes.NewReader(r.content), held: held}, nil
	}
	return &blobObject{db: db, info: r.info, blob: *r.blob, held: held}, nil
}

// openSize returns how many bytes an open object keeps besides its chunk.
func openSize(r *record) int64 {
	switch {
	case r.blob != nil:
		return pieceSize + 8*int64(len(r.blob.extents))
	case len(r.content) > smallContent:
		return int64(len(r.content))
	}
	return 0
}

// Stat implements storage.Store.
func (db *DB) Stat(ctx context.Context, key string) (storage.Info, error) {
	r, err := db.lookup(ctx, key, false)
	if err != nil {
		return storage.Info{}, fmt.Errorf("stat %.200q: %w", key, err)
	}
	return r.info, nil
}

// lookup returns the record of key. To open it is to own its content if it is
// inline, and to be counted among the readers of its blob if it has one.
func (db *DB) lookup(ctx context.Context, key string, open bool) (*record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if open {
		db.vanish.RLock()
		defer db.vanish.RUnlock()
	}
	var r *record
	err := db.meta.view(func(tx *bbolt.Tx) (err error) {
		value := tx.Bucket(bucketObjects).Get([]byte(key))
		if value == nil {
			return fs.ErrNotExist
		}
		if r, err = decodeRecord(key, value); err == nil && open {
			r.content = bytes.Clone(r.content)
		}
		return err
	})
	if err == nil && open {
		if r.blob != nil {
			db.addReader(r.blob.id)
		} else {
			err = r.checkContent()
		}
	}
	if errors.Is(err, storage.ErrDamaged) {
		db.metrics.damaged.Inc()
	}
	return r, err
}

func (db *DB) addReader(id uint64) {
	db.readersMu.Lock()
	db.readers[id]++
	db.readersMu.Unlock()
}

func (db *DB) removeReader(id uint64) {
	db.readersMu.Lock()
	db.readers[id]--
	last := db.readers[id] == 0
	if last {
		delete(db.readers, id)
	}
	db.readersMu.Unlock()
	if last {
		db.reaper.released(id)
	}
}

func (db *DB) readerCount(id uint64) int {
	db.readersMu.Lock()
	defer db.readersMu.Unlock()
	return db.readers[id]
}

// errClosed is what Read and the like return once the store or the object is
// closed.
func errClosed(key string) error {
	return fmt.Errorf("read %.200q: %w", key, fs.ErrClosed)
}

// inlineObject is an object with its content in memory, checked.
type inlineObject struct {
	db      *DB
	info    storage.Info
	bytes   []byte
	content bytes.Reader
	held    memory.Hold
	closed  bool
}

func (o *inlineObject) Info() storage.Info { return o.info }

func (o *inlineObject) SHA256() [sha256.Size]byte { return sha256.Sum256(o.bytes) }

func (o *inlineObject) check() error {
	if o.closed || o.db.closed.Load() {
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

// What the kernel is told to read ahead grows from minAhead to maxAhead chunks,
// so that the first byte does not wait for 16 MiB. With 1 and 8 MiB instead of 4
// and 16, reading from a virtual disk was a fifth slower.
const (
	minAhead = 16
	maxAhead = 64
)

// blobObject is an object with its content in blobs.db. No transaction is open
// while it is: that the bytes stay where they are is because it is counted among
// the readers of the blob.
type blobObject struct {
	db     *DB
	info   storage.Info
	blob   blobRef
	held   memory.Hold
	offset int64
	closed bool

	chunk     *chunk // that it is at, shared with other readers; or nil
	piece     []byte // of a chunk, if there was no memory for that; else nil
	pieceFrom int64  // where it begins
	next      int    // number after the chunk that was read last
	relocated bool   // the extents are from locate
	window    int    // chunks to read ahead
	advised   int    // number after the last chunk the kernel was told to read ahead
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
	o.piece = nil
	o.held.Free()
	o.db.removeReader(o.blob.id)
	return nil
}

// load returns the checked bytes from the current position to the end of the
// chunk it is in, or of a piece of it.
func (o *blobObject) load() ([]byte, error) {
	if o.closed || o.db.closed.Load() {
		return nil, errClosed(o.info.Key)
	}
	number := int(o.offset / chunkSize)
	begin := int64(number) * chunkSize
	switch {
	case o.chunk != nil && o.chunk.id.chunk == number:
		return o.chunk.data[o.offset-begin:], nil
	case o.pieceFrom <= o.offset && o.offset < o.pieceFrom+int64(len(o.piece)):
		return o.piece[o.offset-o.pieceFrom:], nil
	}
	o.leaveChunk()
	if number == 0 || number == o.next {
		o.readAhead(number)
	}
	data, err := o.loadChunk(number, o.offset-begin)
	if err != nil {
		return nil, fmt.Errorf("read %.200q: %w", o.info.Key, err)
	}
	o.next = number + 1
	return data, nil
}

// loadChunk returns the bytes of a chunk from offset on.
func (o *blobObject) loadChunk(number int, offset int64) (data []byte, err error) {
	read := func(buffer []byte) ([]byte, error) { return o.read(number, buffer) }
	o.chunk, err = o.db.acquire(chunkID{o.blob.id, number}, read)
	if err != nil {
		return nil, err
	}
	if o.chunk != nil {
		return o.chunk.data[offset:], nil
	}
	if o.piece == nil {
		o.piece = make([]byte, 0, pieceSize)
	}
	if data, err = o.db.copyPiece(o.piece[:pieceSize], offset, read); err != nil {
		data = nil
	}
	o.piece, o.pieceFrom = o.piece[:len(data)], o.offset
	return data, err
}

// leaveChunk gives the chunk back that the reader is at.
func (o *blobObject) leaveChunk() {
	if o.chunk != nil {
		o.db.release(o.chunk)
		o.chunk = nil
	}
}

// readAhead tells the kernel which chunks are next when the object is read from
// one end to the other. The kernel's own readahead looks at one position in the
// file for all readers, and is at a loss when there are several.
func (o *blobObject) readAhead(chunk int) {
	o.advised = max(o.advised, chunk)
	if o.advised-chunk > o.window/2 {
		return
	}
	o.window = min(max(2*o.window, minAhead), maxAhead)
	end := min(chunk+o.window, len(o.blob.extents))
	if o.advised < end {
		// Most often the chunks are neighbours in the file, and one call does.
		first, next := o.blob.extents[o.advised], o.blob.extents[o.advised]
		for _, offset := range o.blob.extents[o.advised:end] {
			if offset < next || offset > next+blobsPageSize {
				willNeed(o.db.reader, first, next-first)
				first = offset
			}
			next = offset + sumSize + chunkSize
		}
		willNeed(o.db.reader, first, next-first)
		o.advised = end
	}
}

// read reads a chunk into buffer, and returns the part of it that has the content. If
// it is not where the record says, it looks for the chunks once.
func (o *blobObject) read(chunk int, buffer []byte) ([]byte, error) {
	data, err := o.readAt(chunk, buffer)
	if !errors.Is(err, storage.ErrDamaged) {
		return data, err
	}
	if !o.relocated {
		o.relocated = true
		if found, lerr := locate(o.db.blobs, o.blob.id, o.info.Size); lerr == nil && found[chunk] != o.blob.extents[chunk] {
			o.blob.extents = found
			data, err = o.readAt(chunk, buffer)
		}
	}
	if errors.Is(err, storage.ErrDamaged) {
		o.db.metrics.damaged.Inc()
	}
	return data, err
}

func (o *blobObject) readAt(chunk int, buffer []byte) ([]byte, error) {
	value := buffer[:sumSize+chunkLen(o.info.Size, chunk)]
	_, err := o.db.reader.ReadAt(value, o.blob.extents[chunk])
	switch {
	case err == io.EOF:
		return nil, fmt.Errorf("chunk %d is beyond the end of the file: %w", chunk, storage.ErrDamaged)
	case err != nil:
		return nil, err
	case binary.LittleEndian.Uint32(value) != chunkSum(o.blob.id, chunk, value[sumSize:]):
		return nil, fmt.Errorf("chunk %d: checksum mismatch: %w", chunk, storage.ErrDamaged)
	}
	return value[sumSize:], nil
}

// openObjects returns how many large objects are open.
func (db *DB) openObjects() (n int64) {
	db.readersMu.Lock()
	defer db.readersMu.Unlock()
	for _, count := range db.readers {
		n += int64(count)
	}
	return n
}
