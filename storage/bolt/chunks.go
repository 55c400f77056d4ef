package bolt

import (
	"sync"

	"github.com/assay-proxy/assay/internal/memory"
)

// chunks are the chunks that readers have in memory. Readers of one blob at the same chunk share
// it: a thousand stalled readers of one zip keep at most all of its chunks in memory. All chunks
// together use at most half of the readers' budget; a reader that finds it used up reads small
// pieces.
type chunks struct {
	buffers buffers
	budget  *memory.Budget
	spare   chan struct{} // one element for each chunk that is being read for a piece

	mu   sync.Mutex
	open map[chunkID]*chunk
}

// chunkID identifies a chunk of a blob. A blob never changes, and its number is never reused.
type chunkID struct {
	blob  uint64
	chunk int
}

// chunk is a chunk in memory. ready is closed when data, which is verified, or err is set.
type chunk struct {
	id    chunkID
	users int // guarded by the mutex of chunks
	ready chan struct{}

	buffer []byte // from the pool; data is a part of it
	data   []byte
	err    error
}

func newChunks(budget *memory.Budget) chunks {
	return chunks{budget: budget, spare: make(chan struct{}, spareChunks), open: map[chunkID]*chunk{}}
}

// acquire returns a chunk, which the caller must release, or nil if there is no memory for it. The
// first caller reads it with read, into a buffer of bufferSize.
func (s *chunks) acquire(id chunkID, read func(buffer []byte) ([]byte, error)) (*chunk, error) {
	s.mu.Lock()
	c := s.open[id]
	if c == nil {
		c = s.add(id)
		s.mu.Unlock()
		if c == nil {
			return nil, nil
		}
		c.buffer = s.buffers.get()
		c.data, c.err = read(c.buffer)
		close(c.ready)
	} else {
		c.users++
		s.mu.Unlock()
		<-c.ready
	}
	if c.err != nil {
		s.release(c)
		return nil, c.err
	}
	return c, nil
}

// add returns a chunk with one user, nil if there is no memory for it. The caller holds mu.
func (s *chunks) add(id chunkID) *chunk {
	if s.budget != nil && int64(len(s.open)+1)*bufferSize > s.budget.Size()/2 || !s.budget.Try(bufferSize) {
		return nil
	}
	c := &chunk{id: id, users: 1, ready: make(chan struct{})}
	s.open[id] = c
	return c
}

// ample reports whether so few chunks are open that a draft may keep one that it does not read at the
// moment: drafts that no longer arrive must leave some to the readers of objects.
func (s *chunks) ample() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.budget == nil || int64(len(s.open))*bufferSize <= s.budget.Size()/4
}

// release ends one use of a chunk. Its memory is freed with the last user.
func (s *chunks) release(c *chunk) {
	s.mu.Lock()
	c.users--
	last := c.users == 0
	if last {
		delete(s.open, c.id)
	}
	s.mu.Unlock()
	if last {
		s.buffers.put([][]byte{c.buffer})
		s.budget.Give(bufferSize)
	}
}

// copyPiece copies the part of a chunk from offset on into piece, as much as fits, and returns
// that. It does not keep the chunk.
func (s *chunks) copyPiece(piece []byte, offset int64, read func(buffer []byte) ([]byte, error)) ([]byte, error) {
	s.spare <- struct{}{} // a reader with an element waits only for the disk
	defer func() { <-s.spare }()
	buffer := s.buffers.get()
	defer s.buffers.put([][]byte{buffer})
	data, err := read(buffer)
	if err != nil {
		return nil, err
	}
	return piece[:copy(piece, data[offset:])], nil
}

// buffers reuses buffers.
type buffers struct {
	pool sync.Pool // of *[]byte with room for a chunk and its checksum
}

// get returns a buffer with room for a chunk and its checksum.
func (p *buffers) get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, bufferSize)
}

// put gives buffers back. The caller must not use them afterwards.
func (p *buffers) put(all [][]byte) {
	for _, b := range all {
		b = b[:cap(b)]
		p.pool.Put(&b)
	}
}
