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
type respite struct {
	mu    sync.Mutex
	until time.Time
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

// note begins a respite, or prolongs it, and reports whether there was none.
func (r *respite) note(d time.Duration) (begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	begun = d > 0 && !now.Before(r.until)
	if until := now.Add(d); d > 0 && until.After(r.until) {
		r.until = until
	}
	return begun
}

// left returns how long the respite still lasts.
func (r *respite) left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(time.Until(r.until), 0)
}
