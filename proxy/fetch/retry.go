package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sony/gobreaker/v2"
)

// Circuit breaker. It counts fetches, not attempts: when a connection with a
// hundred streams on it breaks, that is one passing failure of each, which the
// next attempts of all of them make good, and no reason to stop those.
const (
	breakerConsecutive = 5                // failed fetches in a row, or
	breakerMinimum     = 20               // so many in the window,
	breakerRatio       = 2                // every second of them failed: open
	breakerWindow      = 30 * time.Second // which moves in steps of a tenth
	breakerOpen        = 5 * time.Second  // after which one fetch goes through, to see
)

func newBreaker(u *upstream) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         u.label,
		Interval:     breakerWindow,
		BucketPeriod: breakerWindow / 10,
		Timeout:      breakerOpen,
		MaxRequests:  1,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return n.ConsecutiveFailures >= breakerConsecutive ||
				n.TotalFailures+n.TotalSuccesses >= breakerMinimum && n.TotalFailures*breakerRatio >= n.TotalFailures+n.TotalSuccesses
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errNoVerdict) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			u.client.log.Warn("circuit breaker of an upstream", "source", u.label, "from", from.String(), "to", to.String())
		},
	})
}

// errNoVerdict says that a fetch ended without telling how the upstream is: its
// caller left.
var errNoVerdict = errors.New("no verdict")

// retry calls try until it succeeds, fails for good, or no time is left for
// another attempt, and tells the circuit breaker how it went.
func retry[T any](ctx context.Context, u *upstream, path string, deadline time.Time, try func(deadline time.Time) (T, *failure)) (result T, err error) {
	done, err := u.breaker.Allow()
	if err != nil {
		u.client.metrics.count(u.label, outcomeOpen, time.Now())
		return result, u.fail(path, outcomeOpen, fmt.Errorf("%w: %w", ErrUnavailable, err)).Error
	}
	verdict := errNoVerdict
	defer func() { done(verdict) }()

	due, ok := ctx.Deadline()
	hurried := ok && time.Until(due) < u.client.budget.FirstByte
	pauses := newPauses()
	for n := 1; ; n++ {
		result, f := try(attemptDeadline(deadline, n == u.client.attempts))
		if f == nil {
			verdict = nil
			return result, nil
		}
		verdict = f.verdict(hurried)
		pause := max(pauses.NextBackOff(), f.RetryAfter)
		if !f.retry || n == u.client.attempts || !time.Now().Add(pause).Before(deadline) {
			return result, f.Error
		}
		if !sleep(ctx, pause) {
			verdict = errNoVerdict
			return result, u.broken(ctx, path, ctx.Err()).Error
		}
		u.distrust(f)
		u.client.metrics.retries.WithLabelValues(u.label).Inc()
	}
}

// distrust drops the connections that are idle if f was a timeout. Where one has
// died in silence, behind a firewall that forgot it, they have all, and another
// attempt would only try the next of them.
func (u *upstream) distrust(f *failure) {
	if f.outcome == outcomeTimeout {
		u.client.transports.closeIdle()
	}
}

// verdict returns what the circuit breaker is told: nil if the upstream is well.
// That it did not answer a caller who was hurried, and left it less time than it
// has by our own budget, says nothing.
func (f *failure) verdict(hurried bool) error {
	switch {
	case f.outcome == outcomeCanceled, f.outcome == outcomeTimeout && hurried:
		return errNoVerdict
	case f.blame:
		return f.Error
	}
	return nil
}

// attemptDeadline returns the deadline of one attempt. Unless it is the last one
// it leaves a third of the time for others: something that hangs once is more
// often a lost request than a slow answer.
func attemptDeadline(deadline time.Time, last bool) time.Time {
	if last {
		return deadline
	}
	now := time.Now()
	return now.Add(deadline.Sub(now) * 2 / 3)
}

// newPauses returns the pauses between attempts: 0.2 s, 0.6 s, 1.8 s, 2 s, each
// half as much or half as long again by chance, so that clients which failed
// together do not come back together.
func newPauses() *backoff.ExponentialBackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval, p.Multiplier, p.MaxInterval, p.RandomizationFactor = 200*time.Millisecond, 3, 2*time.Second, 0.5
	p.Reset()
	return p
}

// sleep waits for d and reports whether ctx let it.
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
