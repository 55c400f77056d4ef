package fetch

import (
	"time"

	"github.com/assay-proxy/assay/internal/memo"
)

const (
	// failedFor is how long a path that failed is not requested again. The time doubles
	// with each failure in a row, up to maxFailedFor.
	failedFor    = 5 * time.Second
	maxFailedFor = time.Minute

	// maxFailures and maxFailedPath bound the memory that a client can use by requesting
	// paths that fail, about two kilobytes each.
	maxFailures   = 2000
	maxFailedPath = 500
)

// failures are the paths that failed recently at an upstream that works otherwise, so that
// a path that hangs does not cost its full time again. The key is the path, not the
// module: otherwise a client that requests a hanging branch would block the whole module
// for other clients.
type failures struct{ byPath memo.Map[string, failed] }

// failed is a path that failed.
type failed struct {
	err   *Error
	times int // in a row
	until time.Time
}

func newFailures() *failures {
	return &failures{memo.Map[string, failed]{Limit: maxFailures, Outdated: func(f failed) bool { return time.Now().After(f.until) }}}
}

// note remembers that path failed.
func (s *failures) note(path string, err *Error) {
	if len(path) > maxFailedPath {
		return
	}
	now := time.Now()
	s.byPath.Change(path, func(f failed) (failed, bool) {
		if now.Sub(f.until) > maxFailedFor {
			f.times = 0
		}
		pause := maxFailedFor
		if f.times < 10 {
			pause = min(failedFor<<f.times, maxFailedFor)
		}
		return failed{err, f.times + 1, now.Add(pause)}, true
	})
}

// find returns the error with which path failed, with the rest of the time as its
// RetryAfter; nil if the path may be requested.
func (s *failures) find(path string) error {
	f, ok := s.byPath.Get(path)
	left := time.Until(f.until)
	if !ok || left <= 0 {
		return nil
	}
	err := *f.err
	err.RetryAfter, err.remembered = max(err.RetryAfter, left), true
	return &err
}

// forget forgets one path, clear all of them.
func (s *failures) forget(path string) { s.byPath.Delete(path) }

func (s *failures) clear() { s.byPath.Clear() }
