package bolt

import (
	"sync"

	"github.com/assay-proxy/assay/internal/memory"
)

// chunks are the chunks that readers have in memory. Readers of one blob that are at
// the same chunk share it: a thousand clients that stop reading one zip keep as many
// chunks as it has, at most. And all of them together keep no more than half of the
// readers' budget; a reader that finds it used up reads by the piece.
type chunks struct {
	buffers buffers
	budget  *memory.Budget
	spare   chan struct{} // a place for each chunk that is read for a piece

	mu   sync.Mutex
	open map[chunkID]*chunk
}

// chunkID says which chunk of which blob it is. A blob never changes, and its number
// is never used again.
type chunkID struct {
	blob  uint64
	chunk int
}

// chunk is a chunk in memory. ready is closed when data, which is checked, or err is
// set.
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

// acquire returns a chunk, which the caller releases; it is nil if there is no memory
// for it. The first who needs it reads it with read, into a buffer of bufferSize.
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

// add returns a chunk with one user, nil if there is no memory for it. It needs mu.
func (s *chunks) add(id chunkID) *chunk {
	if s.budget != nil && int64(len(s.open)+1)*bufferSize > s.budget.Size()/2 || !s.budget.Try(bufferSize) {
		return nil
	}
	c := &chunk{id: id, users: 1, ready: make(chan struct{})}
	s.open[id] = c
	return c
}

// release gives a chunk back, which goes with its last user.
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

// copyPiece copies what fits into piece of what a chunk has from offset on, and
// returns that. It holds the chunk no longer.
func (s *chunks) copyPiece(piece []byte, offset int64, read func(buffer []byte) ([]byte, error)) ([]byte, error) {
	s.spare <- struct{}{} // a reader that has a place waits for the disk alone
	defer func() { <-s.spare }()
	buffer := s.buffers.get()
	defer s.buffers.put([][]byte{buffer})
	data, err := read(buffer)
	if err != nil {
		return nil, err
	}
	return piece[:copy(piece, data[offset:])], nil
}

// buffers are used again.
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

// put gives buffers back. None of them may be used afterwards.
func (p *buffers) put(all [][]byte) {
	for _, b := range all {
		b = b[:cap(b)]
		p.pool.Put(&b)
	}
}
