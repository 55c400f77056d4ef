package bolt

import (
	"sync"

	"github.com/assay-proxy/assay/internal/memory"
)

const (
	// bufferSize is a chunk with its checksum.
	bufferSize = sumSize + chunkSize

	// pieceSize is how much of a chunk a reader copies when there is no memory
	// left to keep the chunk while its client reads. Each piece reads the chunk
	// again: a smaller one takes more time, a larger one more memory.
	pieceSize = 16 << 10

	// smallContent is what an inline object may have without being counted. There
	// is one for each request at most, with the headers of which it goes.
	smallContent = 8 << 10

	// spareChunks is how many chunks are read at the same time only to be copied.
	spareChunks = 4
)

// chunks are the chunks that readers have in memory. Readers of one blob that are at
// the same chunk share it: a thousand clients that stop reading one zip keep as many
// chunks as it has, at most. And all of them together keep no more than half of the
// readers' budget; a reader that finds it used up reads by the piece.
type chunks struct {
	budget *memory.Budget
	spare  chan struct{} // a place for each chunk that is read for a piece

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
func (db *DB) acquire(id chunkID, read func(buffer []byte) ([]byte, error)) (*chunk, error) {
	s := &db.chunks
	s.mu.Lock()
	c := s.open[id]
	if c == nil {
		c = s.add(id)
		s.mu.Unlock()
		if c == nil {
			return nil, nil
		}
		c.buffer = db.buffer()
		c.data, c.err = read(c.buffer)
		close(c.ready)
	} else {
		c.users++
		s.mu.Unlock()
		<-c.ready
	}
	if c.err != nil {
		db.release(c)
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
func (db *DB) release(c *chunk) {
	s := &db.chunks
	s.mu.Lock()
	c.users--
	last := c.users == 0
	if last {
		delete(s.open, c.id)
	}
	s.mu.Unlock()
	if last {
		db.putBuffers([][]byte{c.buffer})
		s.budget.Give(bufferSize)
	}
}

// copyPiece copies what fits into piece of what a chunk has from offset on, and
// returns that. It holds the chunk no longer.
func (db *DB) copyPiece(piece []byte, offset int64, read func(buffer []byte) ([]byte, error)) ([]byte, error) {
	db.chunks.spare <- struct{}{} // a reader that has a place waits for the disk alone
	defer func() { <-db.chunks.spare }()
	buffer := db.buffer()
	defer db.putBuffers([][]byte{buffer})
	data, err := read(buffer)
	if err != nil {
		return nil, err
	}
	return piece[:copy(piece, data[offset:])], nil
}
