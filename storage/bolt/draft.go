package bolt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sync"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// errCommitted is the error of Write and Commit after a Commit.
var errCommitted = errors.New("the draft is complete")

// draft is a content that is being written: its first chunks are in blobs.db, under an intent, and
// the others in memory. A content that fits into an object record is never in blobs.db.
type draft struct {
	w    *writer
	ctx  context.Context // of the writes
	size int64           // of the complete content, -1: not known
	sum  hash.Hash       // SHA-256 of what was written

	flushing sync.Mutex // held while chunks are written to the disk; guards blob
	blob     growing

	mu      sync.Mutex // guards the fields below
	written int64      // bytes
	stored  onDisk
	tail    tail  // the chunks after those on the disk
	err     error // why nothing can be added
	closed  bool
}

// growing is a blob to which segments are added.
type growing struct {
	id       uint64 // 0: there is none yet
	segments int
	adopted  bool // an object has it
}

// onDisk is the part of a draft in blobs.db.
type onDisk struct {
	chunks extents

	// recent are chunks that were read last, the newest first. They stay in memory until Commit, if there
	// is room: readers that follow a draft, or that hash it, read small pieces of the same chunks, to the
	// end.
	recent []*chunk
}

// tail is the part of a draft in memory.
type tail struct {
	chunks [][]byte    // each after room for its sum; all but the last one are full
	held   memory.Hold // a buffer for each chunk, at least one; nothing for a small content
	holder *holder
}

// Draft implements storage.Store. It takes memory for a content of more than 32 KiB from
// Options.Writers, and waits for it until ctx ends.
func (db *DB) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	err := ctx.Err()
	switch {
	case db.meta.readOnly:
		err = storage.ErrReadOnly
	case db.closed.Load():
		err = fs.ErrClosed
	case size < -1:
		err = fmt.Errorf("size %d", size)
	}
	if err != nil {
		return nil, fmt.Errorf("draft: %w", err)
	}
	return db.writer.draft(ctx, size), nil
}

func (w *writer) draft(ctx context.Context, size int64) *draft {
	d := &draft{w: w, ctx: ctx, size: size, sum: sha256.New()}
	d.tail.holder = &holder{d.spare, func() error { return d.flush(false) }}
	return d
}

// Write implements storage.Draft.
func (d *draft) Write(p []byte) (n int, err error) {
	for n < len(p) {
		room, err := d.room(len(p) - n)
		if err != nil {
			return n, fmt.Errorf("draft: %w", err)
		}
		m := copy(room, p[n:])
		d.extend(room[:m])
		n += m
	}
	return n, nil
}

// fill writes the rest of the content from r, which must end then.
func (d *draft) fill(r io.Reader) error {
	for rest := d.size; rest > 0; {
		room, err := d.room(int(min(rest, chunkSize)))
		if err != nil {
			return err
		}
		room = room[:min(int64(len(room)), rest)]
		if err := readFull(r, room); err != nil {
			return err
		}
		d.extend(room)
		rest -= int64(len(room))
	}
	return expectEnd(r)
}

// room returns where the next bytes are to be written, of which there are n.
func (d *draft) room(n int) ([]byte, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	room, full, err := d.free(n)
	if err == nil && full == segmentChunks {
		err = d.flush(false)
	}
	if err != nil || room != nil {
		return room, err
	}
	if err := d.grow(); err != nil {
		return nil, err
	}
	room, _, err = d.free(n)
	return room, err
}

// free returns the free part of the last chunk in memory, and the number of full ones. There must
// be n bytes left of the size.
func (d *draft) free(n int) (room []byte, full int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed || d.w.drafts.closed.Load():
		return nil, 0, fs.ErrClosed
	case d.err != nil:
		return nil, 0, d.err
	case d.size >= 0 && d.size-d.written < int64(n):
		d.err = errLong
		return nil, 0, d.err
	}
	full = len(d.tail.chunks)
	if full > 0 {
		if last := d.tail.chunks[full-1]; len(last) < cap(last) {
			return last[len(last):cap(last)], full - 1, nil
		}
	}
	return nil, full, nil
}

// extend adds bytes, which are in the room already.
func (d *draft) extend(bytes []byte) {
	d.sum.Write(bytes)
	d.w.drafts.arriving.Add(int64(len(bytes)))
	d.mu.Lock()
	defer d.mu.Unlock()
	last := &d.tail.chunks[len(d.tail.chunks)-1]
	*last = (*last)[:len(*last)+len(bytes)]
	d.written += int64(len(bytes))
}

// grow makes room for more bytes after a chunk that is full, or none. A content that may fit into
// an object record begins in a small buffer, which is not counted.
func (d *draft) grow() error {
	d.mu.Lock()
	first := d.tail.held.Bytes() == 0
	small := first && d.tail.chunks == nil && d.size <= inlineMax
	grown := !first && d.tail.held.Try(int64(len(d.tail.chunks)+1)*bufferSize) == nil
	switch {
	case small:
		d.tail.chunks = [][]byte{make([]byte, sumSize, sumSize+smallSize(d.size))}
	case grown: // at once: a flush of others gives back what has no chunk
		d.tail.chunks = append(d.tail.chunks, d.w.blobs.chunks.buffers.get()[:sumSize:bufferSize])
	}
	d.mu.Unlock()
	switch {
	case small, grown:
		return nil
	case first:
		return d.enlarge()
	}
	// Others need the memory, too: the full chunks go to the disk, and one buffer is used again.
	if err := d.flush(false); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tail.chunks = append(d.tail.chunks, d.w.blobs.chunks.buffers.get()[:sumSize:bufferSize])
	return nil
}

// smallSize returns the size of the small buffer of a content.
func smallSize(size int64) int64 {
	if size < 0 {
		return inlineMax
	}
	return size
}

// enlarge makes a first buffer that is counted, with the content of the small one.
func (d *draft) enlarge() error {
	held, err := d.w.drafts.add(d.ctx, d.tail.holder)
	if err != nil {
		return err
	}
	buffer := d.w.blobs.chunks.buffers.get()[:sumSize:bufferSize]
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, small := range d.tail.chunks {
		buffer = append(buffer, small[sumSize:]...)
	}
	d.tail.chunks, d.tail.held = [][]byte{buffer}, held
	return nil
}

// spare returns the number of full chunks in memory that can be written to the disk.
func (d *draft) spare() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil || d.closed {
		return 0
	}
	return d.tail.full()
}

func (t *tail) full() int {
	n := len(t.chunks)
	if n > 0 && len(t.chunks[n-1]) < bufferSize {
		n--
	}
	return n
}

// flush writes the full chunks in memory as a segment, and if the content is complete also the last
// one. Any goroutine may call it.
func (d *draft) flush(complete bool) error {
	d.flushing.Lock()
	defer d.flushing.Unlock()
	values, first, err := d.unwritten(complete)
	if err != nil || len(values) == 0 {
		return err
	}
	found, err := d.append(values, first)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.err = err
		return err
	}
	d.stored.chunks = append(d.stored.chunks, found...)
	d.w.drafts.arriving.Add(-contentOf(values))
	d.w.blobs.chunks.buffers.put(values)
	d.tail.chunks = append([][]byte(nil), d.tail.chunks[len(values):]...)
	d.tail.held.Shrink(int64(max(len(d.tail.chunks), 1)) * bufferSize)
	return nil
}

// unwritten returns the chunks of the next segment, and the number of the first one.
func (d *draft) unwritten(complete bool) (values [][]byte, first int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, 0, fs.ErrClosed
	case d.err != nil && !(complete && d.err == errCommitted):
		return nil, 0, d.err
	}
	n := d.tail.full()
	if complete {
		n = len(d.tail.chunks)
	}
	return d.tail.chunks[:min(n, segmentChunks)], len(d.stored.chunks), nil
}

// append adds a segment to the blob of the draft. The caller holds flushing.
func (d *draft) append(values [][]byte, first int) (extents, error) {
	if d.blob.id == 0 {
		id, err := d.w.intend()
		if err != nil {
			return nil, err
		}
		d.w.reaper.hold(id)
		d.blob.id = id
	}
	found, err := d.w.blobs.write(d.blob.id, d.blob.segments, first, values)
	d.blob.segments++
	return found, err
}

// Commit implements storage.Draft.
func (d *draft) Commit(ctx context.Context, info storage.Info) error {
	if err := d.commit(ctx, info, nil); err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	return nil
}

// commit stores the content under a key that claim makes free.
func (d *draft) commit(ctx context.Context, info storage.Info, claim claim) error {
	if err := info.Check(); err != nil {
		return err
	}
	content, err := d.complete(info.Size)
	d.forget() // a client that follows the draft may stop reading for long
	if err == nil {
		err = ctx.Err()
	}
	switch {
	case err != nil:
		return err
	case info.Size <= inlineMax:
		return d.w.putInline(info, content, claim)
	}
	if err := d.flushAll(ctx); err != nil {
		return err
	}
	blob := &blobRef{id: d.blob.id, hash: [sha256.Size]byte(d.sum.Sum(nil)), extents: d.stored.chunks}
	d.blob.adopted, err = d.w.putBlob(info, blob, claim)
	return err
}

// complete ends the writing of a content of so many bytes, and returns it if it is small.
func (d *draft) complete(size int64) (content []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed || d.w.drafts.closed.Load():
		return nil, fs.ErrClosed
	case d.err != nil:
		return nil, d.err
	}
	d.err = errCommitted
	switch {
	case d.written < max(size, d.size):
		return nil, errShort
	case d.written > size:
		return nil, errLong
	case size > 0 && size <= inlineMax:
		content = d.tail.chunks[0][sumSize:]
	}
	return content, nil
}

// flushAll writes all chunks to the disk and gives the memory back.
func (d *draft) flushAll(ctx context.Context) error {
	for d.rest() > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.flush(true); err != nil {
			return err
		}
	}
	d.release()
	return nil
}

// rest returns the number of chunks in memory.
func (d *draft) rest() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.tail.chunks)
}

// release gives the memory of chunks back.
func (d *draft) release() {
	d.mu.Lock()
	counted := d.tail.held.Bytes() > 0
	if counted {
		d.w.blobs.chunks.buffers.put(d.tail.chunks)
		d.tail.chunks = nil
		d.tail.held.Free()
	}
	d.mu.Unlock()
	if counted {
		d.w.drafts.remove(d.tail.holder)
	}
}

// Close implements storage.Draft.
func (d *draft) Close() error {
	d.flushing.Lock()
	defer d.flushing.Unlock()
	if err := d.end(); err != nil {
		return err
	}
	d.release()
	d.forget()
	if d.blob.id == 0 {
		return nil
	}
	if !d.blob.adopted {
		d.w.reaper.add(d.blob.id)
	}
	d.w.reaper.release(d.blob.id)
	return nil
}

// end makes all later calls fail.
func (d *draft) end() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("close draft: %w", fs.ErrClosed)
	}
	d.closed = true
	d.w.drafts.arriving.Add(-contentOf(d.tail.chunks))
	return nil
}

// contentOf returns the number of bytes in chunks without their sums.
func contentOf(chunks [][]byte) (n int64) {
	for _, c := range chunks {
		n += int64(len(c) - sumSize)
	}
	return n
}

// forget releases the recent chunks.
func (d *draft) forget() {
	d.mu.Lock()
	recent := d.stored.recent
	d.stored.recent = nil
	d.mu.Unlock()
	for _, c := range recent {
		d.w.blobs.chunks.release(c)
	}
}
