package fetch

import (
	"net/http"
	"sync"
	"time"
)

// How long an upstream is spared that asks for fewer requests: as long as it says, within bounds.
const (
	respiteFor = 30 * time.Second // if it does not say
	minRespite = time.Second
	maxRespite = 5 * time.Minute
)

// respite is the time in which an upstream gets no request that no client waits for, because it has asked
// for fewer requests. Clients' requests are not affected.
//
// A 429 asks so for all requests. A failure with a Retry-After may be about one module, for which alone the
// upstream cannot get an answer: it spares requests about that module, and all others only after a second
// module in a row.
type respite struct {
	mu    sync.Mutex
	until time.Time // of all requests
	last  refusal   // the latest failure
}

// refusal is a failure with a Retry-After.
type refusal struct {
	module string
	until  time.Time
	passed bool // a request about another module was answered after it
}

// respiteOf returns for how long a status asks for fewer requests, 0 if it does not: 429, and a failure of
// a server that says when to come again.
func respiteOf(status int, retryAfter time.Duration) time.Duration {
	switch {
	case retryAfter > 0 && (status == http.StatusTooManyRequests || status >= http.StatusInternalServerError):
		return min(max(retryAfter, minRespite), maxRespite)
	case status == http.StatusTooManyRequests:
		return respiteFor
	}
	return 0
}

// refused notes that the request for a path has failed with a status that asks for fewer requests for d, and
// reports whether a respite of all requests begins.
func (r *respite) refused(path string, status int, d time.Duration) (begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, module := time.Now(), moduleOf(path)
	all := status == http.StatusTooManyRequests || module != r.last.module && !r.last.passed && now.Before(r.last.until)
	if status != http.StatusTooManyRequests {
		r.last = refusal{module: module, until: now.Add(d)}
	}
	if !all {
		return false
	}
	begun = !now.Before(r.until)
	if until := now.Add(d); until.After(r.until) {
		r.until = until
	}
	return begun
}

// answered notes that the request for a path was answered. Answers for tiles of a checksum database say nothing
// about modules.
func (r *respite) answered(path string) {
	module := moduleOf(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last.passed = r.last.passed || module != path && module != r.last.module
}

// left returns how long the respite of all requests still lasts.
func (r *respite) left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(time.Until(r.until), 0)
}

// leftFor returns how long requests for a path are still spared.
func (r *respite) leftFor(path string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := max(time.Until(r.until), 0)
	if r.last.module == moduleOf(path) {
		left = max(left, time.Until(r.last.until))
	}
	return left
}
