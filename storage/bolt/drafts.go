package bolt

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/assay-proxy/assay/internal/memory"
)

const (
	// WriterMemory is the memory with which one large content is written in segments of full size:
	// a segment, and the pages into which bbolt copies it during the commit. With less memory, down
	// to copyMemory and a chunk for each writer, segments are smaller.
	WriterMemory = copyMemory + (segmentChunks+1)*bufferSize

	// copyMemory is the memory that bbolt needs for a commit of segments. One runs at a time.
	copyMemory = (segmentChunks + 1) * bufferSize
)

// drafts are the drafts that have taken memory from the writers' budget. Each keeps one chunk for
// itself: a content can stop arriving anywhere, and a part of a chunk cannot be written. It takes
// more as long as there is some; when there is none, full chunks of any draft are written.
type drafts struct {
	budget *memory.Budget
	closed *atomic.Bool // the store

	arriving atomic.Int64 // bytes of all drafts that are in memory, also of small ones

	mu   sync.Mutex
	open map[*holder]struct{}
	copy memory.Hold // copyMemory while there are drafts
}

// holder is a draft, as one that has memory.
type holder struct {
	spare func() int   // returns the number of full chunks in memory that can be written to the disk
	flush func() error // writes them
}

func newDrafts(budget *memory.Budget, closed *atomic.Bool) *drafts {
	return &drafts{budget: budget, closed: closed, open: map[*holder]struct{}{}, copy: budget.Hold()}
}

// add adds a draft, and returns its hold of the memory for one chunk, for which it waits until ctx
// ends.
func (s *drafts) add(ctx context.Context, h *holder) (memory.Hold, error) {
	if err := s.enter(ctx, h); err != nil {
		return memory.Hold{}, err
	}
	held := s.budget.HoldFor(ctx)
	for held.Try(bufferSize) != nil && s.relieve() {
	}
	err := held.Grow(ctx, bufferSize)
	if err != nil {
		s.remove(h)
	}
	return held, err
}

// enter adds a draft. The first one takes the memory for bbolt: nothing else has memory of the
// budget then.
func (s *drafts) enter(ctx context.Context, h *holder) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) == 0 {
		if err := s.copy.Grow(ctx, copyMemory); err != nil {
			return err
		}
	}
	s.open[h] = struct{}{}
	return nil
}

// remove removes a draft that has freed its memory. It may be called again.
func (s *drafts) remove(h *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, h)
	if len(s.open) == 0 {
		s.copy.Free()
	}
}

// relieve writes the full chunks of the draft that has the most, and reports whether there was one.
func (s *drafts) relieve() bool {
	h := s.fullest()
	if h == nil {
		return false
	}
	_ = h.flush() // the draft keeps the error
	return true
}

// fullest returns the draft with the most full chunks in memory, nil if there are none.
func (s *drafts) fullest() (fullest *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := 0
	for h := range s.open {
		if n := h.spare(); n > most {
			fullest, most = h, n
		}
	}
	return fullest
}
