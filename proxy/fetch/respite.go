package fetch

import (
	"net/http"
	"strings"
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
// module in a row, which was requested after the first one had failed: a client often requests modules of one
// host together, and they fail together.
type respite struct {
	mu    sync.Mutex
	until time.Time // of all requests
	last  refusal   // the latest failure
	row   row
}

// row are the failures in a row, of which no other request was answered in between.
type row struct {
	module string
	first  int // the number of the first failure, which is of the module
	other  int // the number of the first failure of another module, 0 if there is none
	others int // failures of other modules
}

// enoughTogether is how many failures in a row of different modules are a sign that all requests are too many,
// also if they were requested together: a client seldom requests so many modules of one dead host.
const enoughTogether = 4

// isSecond reports whether a failure is of a second module, whose request has begun after that of another one
// had failed.
func (r row) isSecond(module string, after int) bool {
	if module == r.module {
		return r.other > 0 && after >= r.other
	}
	return after >= r.first
}

// refusal is a failure with a Retry-After.
type refusal struct {
	number int // of such failures
	module string
	lookup bool // of a checksum database
	until  time.Time
	passed bool // a request of this sort about another module was answered after it
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

// failures returns how many failures with a Retry-After there were so far. A request has this number when it
// begins.
func (r *respite) failures() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last.number
}

// refused notes that the request for a path, which has begun after so many failures, has failed with a status
// that asks for fewer requests for d, and reports whether a respite of all requests begins.
func (r *respite) refused(path string, after, status int, d time.Duration) (begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, module := time.Now(), moduleOf(path)
	all := status == http.StatusTooManyRequests
	if !all {
		number := r.last.number + 1
		if r.last.passed || !now.Before(r.last.until) {
			r.row = row{module: module, first: number}
		}
		if module != r.row.module && module != r.last.module {
			r.row.others++
		}
		all = r.row.isSecond(module, after) || r.row.others >= enoughTogether-1
		if module != r.row.module && r.row.other == 0 {
			r.row.other = number
		}
		r.last = refusal{number: number, module: module, lookup: isLookup(path), until: now.Add(d)}
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

// answered notes that the request for a path was answered. Tiles of a checksum database say nothing about
// modules, and its records, which an upstream may hold for long, nothing about files of modules.
func (r *respite) answered(path string) {
	module := moduleOf(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	other := module != path && module != r.last.module && isLookup(path) == r.last.lookup
	r.last.passed = r.last.passed || other
}

// isLookup reports whether a path is of a checksum database.
func isLookup(path string) bool { return !strings.Contains(path, "/@") }

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
