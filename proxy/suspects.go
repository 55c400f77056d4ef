package proxy

import (
	"errors"
	"sync"

	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
)

// suspects are keys whose content was refused, or could not be kept here, a moment ago.
// What comes for them is not streamed until one has come through, so that the client
// gets the reason and no broken transfer.
type suspects struct {
	mu   sync.Mutex
	keys map[string]struct{}
}

// maxSuspects bounds the memory; who exceeds it loses some texts, no safety.
const maxSuspects = 1000

func (s *suspects) note(key string, err error) {
	var mismatch *mismatchError
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		delete(s.keys, key)
		return
	case !errors.As(err, &mismatch) && !errors.Is(err, modzip.ErrShape) && !errors.Is(err, fetch.ErrTooLarge) && !errors.Is(err, errDefect) && !isFull(err):
		return // it may be another thing the next time
	}
	if s.keys == nil || len(s.keys) >= maxSuspects {
		s.keys = map[string]struct{}{}
	}
	s.keys[key] = struct{}{}
}

func (s *suspects) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.keys[key]
	return ok
}
