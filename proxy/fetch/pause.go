package fetch

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// newPauses returns the pauses between attempts, each varied by up to half at random, so that
// clients that failed together do not retry together.
func newPauses(first time.Duration) *backoff.ExponentialBackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval, p.Multiplier, p.MaxInterval, p.RandomizationFactor = first, 3, 10*first, 0.5
	p.Reset()
	return p
}

// sleep waits for d, and reports whether it did before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Bounds on resuming.
const (
	// maxFruitless bounds the attempts in a row that bring less than worthwhile bytes and not the
	// rest.
	maxFruitless = 5
	worthwhile   = 8 << 10

	// maxResumes bounds the attempts at an upstream that sends a little each time.
	maxResumes = 100

	// maxResumePause bounds the effect of a Retry-After on a transfer, whose reader is
	// waiting.
	maxResumePause = 10 * time.Second
)

// resumption counts the attempts to resume a transfer.
type resumption struct {
	n         int   // attempts
	fruitless int   // since the last worthwhile one
	from      int64 // bytes delivered when the last one began
	pauses    *backoff.ExponentialBackOff
}

// exhausted reports whether no further attempt is allowed.
func (r *resumption) exhausted() bool { return r.fruitless == maxFruitless || r.n == maxResumes }

// begin counts an attempt that begins after got bytes, and returns the pause before it.
func (r *resumption) begin(got int64, retryAfter time.Duration) time.Duration {
	r.n++
	r.fruitless++
	r.from = got
	return max(r.pauses.NextBackOff(), min(retryAfter, maxResumePause))
}

// progressed notes that got bytes were delivered.
func (r *resumption) progressed(got int64) {
	if r.fruitless > 0 && got-r.from >= worthwhile {
		r.fruitless = 0
		r.pauses.Reset()
	}
}
