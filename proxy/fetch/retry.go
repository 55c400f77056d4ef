package fetch

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// retry calls try until it succeeds, fails for good, or no time is left for another
// attempt, and draws the consequences. It counts fetches, not attempts: when a connection
// with a hundred streams on it breaks, that is one passing failure of each, which the next
// attempts of all of them make good.
func retry[T any](ctx context.Context, u *upstream, path string, deadline time.Time, try func(deadline time.Time) (T, *failure)) (result T, err error) {
	if err := u.refuse(ctx, path); err != nil {
		return result, err
	}
	attempts, leave, err := u.attempts(ctx, path)
	if err != nil {
		return result, err
	}
	defer leave()
	due, ok := ctx.Deadline()
	hurried := ok && time.Until(due) < u.client.budget.FirstByte
	pauses := newPauses()
	for n := 1; ; n++ {
		result, f := try(attemptDeadline(deadline, n == attempts || u.probe.isSlow()))
		if f == nil {
			u.note(ctx, path, nil)
			return result, nil
		}
		pause := max(pauses.NextBackOff(), f.RetryAfter)
		if !f.retry || f.once && n > 1 || n == attempts || !time.Now().Add(pause).Before(deadline) {
			if f.tells(hurried) {
				u.note(ctx, path, f)
			}
			return result, f.Error
		}
		u.distrust(f)
		if !sleep(ctx, pause) {
			return result, u.broken(ctx, path, ctx.Err()).Error
		}
		u.client.metrics.retries.WithLabelValues(u.label).Inc()
	}
}

// distrust drops the connections that are idle if f was a timeout. Where one has
// died in silence, behind a firewall that forgot it, they have all, and another
// attempt would only try the next of them. If there is nothing behind them any more, that
// is to be known before the time for the answer is over.
func (u *upstream) distrust(f *failure) {
	if f.outcome == outcomeTimeout {
		u.client.transports.closeIdle()
		u.probe.begin(probeFresh)
	}
}

// tells reports whether f says anything about the upstream or the object. That there was
// no answer for a caller who left, or was hurried and left the upstream less time than it
// has by our own budget, does not.
func (f *failure) tells(hurried bool) bool {
	return f.outcome != outcomeCanceled && (f.outcome != outcomeTimeout || !hurried)
}

// attemptDeadline returns the deadline of one attempt. Unless it is the last one, or the
// upstream is known to be slow, it leaves a third of the time for others: something that hangs once is more
// often a lost request than a slow answer.
func attemptDeadline(deadline time.Time, whole bool) time.Time {
	if whole {
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
