package fetch

import (
	"sync"
	"time"
)

const (
	// failedFor is how long a path that failed is not asked for again, twice as long each
	// time that it fails again, up to maxFailedFor.
	failedFor    = 5 * time.Second
	maxFailedFor = time.Minute

	// maxFailures and maxFailedPath bound the memory that a client can take by asking for
	// what fails, at about two kilobytes each.
	maxFailures   = 2000
	maxFailedPath = 500
)

// failures are the paths that an upstream failed for a moment ago, though it was well
// otherwise: what hangs or fails for one module costs the others nothing. It goes by path and
// not by module, or a client that asks for a branch that hangs would take the whole
// module from the others.
type failures struct {
	mu     sync.Mutex
	byPath map[string]failed
}

// failed is a path that failed.
type failed struct {
	err   *Error
	times int // in a row
	until time.Time
}

// note remembers that path failed.
func (s *failures) note(path string, err *Error) {
	if len(path) > maxFailedPath {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	f := s.byPath[path]
	if now.Sub(f.until) > maxFailedFor {
		f.times = 0
	}
	pause := maxFailedFor
	if f.times < 10 {
		pause = min(failedFor<<f.times, maxFailedFor)
	}
	f = failed{err, f.times + 1, now.Add(pause)}
	if s.byPath == nil {
		s.byPath = map[string]failed{}
	}
	s.byPath[path] = f
	s.shrink(now)
}

// shrink makes room: for what is over, or else for any. The caller holds s.mu.
func (s *failures) shrink(now time.Time) {
	if len(s.byPath) <= maxFailures {
		return
	}
	for path, f := range s.byPath {
		if now.After(f.until) {
			delete(s.byPath, path)
		}
	}
	for path := range s.byPath {
		if len(s.byPath) <= maxFailures {
			return
		}
		delete(s.byPath, path)
	}
}

// find returns the error that path failed with, and the rest of the time in its
// RetryAfter; nil if it may be asked for.
func (s *failures) find(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.byPath[path]
	left := time.Until(f.until)
	if !ok || left <= 0 {
		return nil
	}
	err := *f.err
	err.RetryAfter, err.remembered = max(err.RetryAfter, left), true
	return &err
}

// forget forgets one path, clear all of them.
func (s *failures) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byPath, path)
}

func (s *failures) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byPath = nil
}
