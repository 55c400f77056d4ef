package tiered

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

// spool is where the bytes of a content are until they are in the local store: buffer, or a Draft.
type spool interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// blockSize is the size of the parts of a buffer.
const blockSize = 1 << 20

// buffer is a spool in memory, of a content whose size is known. A writer appends while others read what
// is there.
type buffer struct {
	held   hold
	size   int64
	mu     sync.Mutex
	blocks [][]byte // all but the last one are full
}

// budget is the memory for buffers. They wait until the local store has their contents, which may need
// memory of the same budget for it: so they leave most of that.
type budget struct {
	all  *memory.Budget
	part *memory.Budget // that they may have
}

func newBudget(all *memory.Budget) budget {
	if all == nil {
		return budget{}
	}
	return budget{all, memory.New(all.Size() / 3)}
}

// hold is what a buffer has of both.
type hold struct{ all, part memory.Hold }

func (h *hold) free() {
	h.all.Free()
	h.part.Free()
}

// leastHold is what a buffer counts at least, because of what belongs to it.
const leastHold = 4 << 10

// buffer returns nil if there is no memory for it.
func (bu budget) buffer(ctx context.Context, size int64) *buffer {
	b := &buffer{held: hold{bu.all.HoldFor(ctx), bu.part.HoldFor(ctx)}, size: size}
	n := max(size, leastHold)
	if b.held.part.Try(n) != nil || b.held.all.Try(n) != nil {
		b.held.free()
		return nil
	}
	return b
}

func (b *buffer) Write(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < len(p) {
		last := len(b.blocks) - 1
		if last < 0 || len(b.blocks[last]) == cap(b.blocks[last]) {
			left := b.size - int64(len(b.blocks))*blockSize
			if left <= 0 {
				return n, io.ErrShortWrite
			}
			b.blocks = append(b.blocks, make([]byte, 0, min(left, blockSize)))
			last++
		}
		block := b.blocks[last]
		m := copy(block[len(block):cap(block)], p[n:])
		b.blocks[last] = block[:len(block)+m]
		n += m
	}
	return n, nil
}

func (b *buffer) ReadAt(p []byte, offset int64) (n int, err error) {
	for n < len(p) {
		part := b.view(offset + int64(n))
		if len(part) == 0 {
			return n, io.EOF
		}
		n += copy(p[n:], part)
	}
	return n, nil
}

// view returns what there is from offset on, to the end of the block. It never changes.
func (b *buffer) view(offset int64) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	number := int(offset / blockSize)
	if number >= len(b.blocks) || offset%blockSize >= int64(len(b.blocks[number])) {
		return nil
	}
	return b.blocks[number][offset%blockSize:]
}

// sum returns the hash of the content, which is complete.
func (b *buffer) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, block := range b.blocks {
		h.Write(block)
	}
	h.Sum(sum[:0])
	return sum
}

func (b *buffer) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocks = nil
	b.held.free()
	return nil
}

var (
	// errLeft means that no reader follows a stream any more.
	errLeft = errors.New("no reader is left")

	// errSpool means that the local disk does not take the bytes, and readers need it not.
	errSpool = errors.New("the local disk does not take the content")
)

// stream is a content that arrives, which any number of readers follow.
type stream struct {
	spool    spool
	patience time.Duration // how long a reader waits for the spool to take bytes

	mu      sync.Mutex
	have    int64
	ended   bool
	err     error         // why no more bytes come; nil at the end of all
	more    chan struct{} // closed when one of these changes
	writing time.Time     // since when the spool has not taken what has arrived; zero: nothing waits for it
	left    bool          // no reader follows, and what arrives is not wanted
}

func newStream(s spool, patience time.Duration) *stream {
	return &stream{spool: s, patience: patience, more: make(chan struct{})}
}

// Write appends what has arrived.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	if s.left {
		s.mu.Unlock()
		return 0, errLeft
	}
	s.writing = time.Now()
	s.mu.Unlock()
	n, err := s.spool.Write(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = time.Time{}
	s.have += int64(n)
	s.changed()
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return n, err
}

// end says that no more bytes arrive.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	s.changed()
}

// changed wakes the readers. The caller holds mu.
func (s *stream) changed() {
	close(s.more)
	s.more = make(chan struct{})
}

// leave says that no reader follows.
func (s *stream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
}

// arrived returns how many bytes there are.
func (s *stream) arrived() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have
}

// wait waits until there are bytes after offset, and returns the number of all. The error is why there are
// none, or errSpool, or that of ctx.
func (s *stream) wait(ctx context.Context, offset int64) (have int64, err error) {
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	for {
		s.mu.Lock()
		have, ended, err, more, writing := s.have, s.ended, s.err, s.more, s.writing
		s.mu.Unlock()
		switch {
		case have > offset:
			return have, nil
		case ended && err == nil:
			return have, io.EOF
		case ended:
			return have, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return have, ctx.Err()
		case <-timer.C:
			if !writing.IsZero() && time.Since(writing) >= s.patience {
				return have, errSpool
			}
			timer.Reset(s.patience)
		}
	}
}
