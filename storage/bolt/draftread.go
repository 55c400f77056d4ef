package bolt

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// recentChunks is how many chunks that were read last a draft keeps in memory.
const recentChunks = 4

// ReadAt implements storage.Draft.
func (d *draft) ReadAt(p []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, fmt.Errorf("read draft: negative position %d", at)
	}
	for n < len(p) {
		m, err := d.readSome(p[n:], at+int64(n))
		n += m
		if err == io.EOF {
			return n, err
		}
		if err != nil {
			return n, fmt.Errorf("read draft: %w", err)
		}
	}
	return n, nil
}

// readSome reads from one chunk.
func (d *draft) readSome(p []byte, at int64) (int, error) {
	number, offset := int(at/chunkSize), at%chunkSize
	d.mu.Lock()
	switch {
	case d.closed || d.w.drafts.closed.Load():
		d.mu.Unlock()
		return 0, fs.ErrClosed
	case at >= d.written:
		d.mu.Unlock()
		return 0, io.EOF
	case number >= len(d.stored.chunks):
		defer d.mu.Unlock()
		return copy(p, d.tail.chunks[number-len(d.stored.chunks)][sumSize+offset:]), nil
	}
	blob, written := &blobRef{id: d.blob.id, extents: d.stored.chunks}, d.written
	d.w.reaper.hold(blob.id) // Close does not wait
	d.mu.Unlock()
	defer d.w.reaper.release(blob.id)

	read := func(buffer []byte) ([]byte, error) { return d.w.blobs.readAt(blob, written, number, buffer) }
	n, err := d.copyChunk(chunkID{blob.id, number}, p, offset, read)
	return n, d.w.metrics.noteDamage(err)
}

// copyChunk copies the part of a chunk from offset on into p, as much as fits.
func (d *draft) copyChunk(id chunkID, p []byte, offset int64, read func(buffer []byte) ([]byte, error)) (int, error) {
	c, err := d.w.blobs.chunks.acquire(id, read)
	if err != nil {
		return 0, err
	}
	if c == nil {
		piece, err := d.w.blobs.chunks.copyPiece(p, offset, read)
		return len(piece), err
	}
	n := copy(p, c.data[offset:])
	old := c
	if n < len(c.data[offset:]) { // else the reader has its end
		old = d.keep(c)
	}
	if old != nil {
		d.w.blobs.chunks.release(old)
	}
	return n, nil
}

// keep keeps a chunk as the newest of the recent ones, if the draft may have more, and returns one to
// be released.
func (d *draft) keep(c *chunk) (old *chunk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.err == errCommitted || !d.w.blobs.chunks.ample() {
		return c
	}
	at := slices.Index(d.stored.recent, c)
	switch {
	case at >= 0:
		old = c // it is held twice now
		d.stored.recent = slices.Delete(d.stored.recent, at, at+1)
	case len(d.stored.recent) == recentChunks:
		old = d.stored.recent[recentChunks-1]
		d.stored.recent = d.stored.recent[:recentChunks-1]
	}
	d.stored.recent = slices.Insert(d.stored.recent, 0, c)
	return old
}
