package fetch

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-proxy/assay/internal/spans"
)

// retry calls try until it succeeds, fails finally, or no time is left for another
// attempt, and notes the result. It notes fetches, not attempts: when a connection with a
// hundred streams breaks, each of them fails once, and the next attempts succeed.
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
	pauses := newPauses(u.client.budget.Pause)
	for n := 1; ; n++ {
		if err := u.spare(ctx, path); err != nil {
			return result, err
		}
		result, f := try(attemptDeadline(deadline, n == attempts || u.probe.isSlow()))
		if f == nil {
			u.note(ctx, path, nil)
			return result, nil
		}
		pause := max(pauses.NextBackOff(), f.RetryAfter)
		if !f.retry || f.once && n > 1 || n == attempts || !time.Now().Add(pause).Before(deadline) {
			if f.counts(hurried) {
				u.note(ctx, path, f)
			}
			return result, f.Error
		}
		u.distrust(f)
		if err := u.spare(ctx, path); err != nil { // its place is not needed meanwhile
			return result, err
		}
		if !sleep(ctx, pause) {
			return result, u.at.broken(ctx, path, ctx.Err()).Error
		}
		u.client.metrics.retries.WithLabelValues(u.at.label).Inc()
	}
}

// distrust closes idle connections after a timeout. If one died silently, behind a firewall that
// forgot it, all of them have, and the next attempts would use them one by one. It also probes the
// upstream, so that there is a verdict before the time for the answer is over.
func (u *upstream) distrust(f *failure) {
	if f.outcome == outcomeTimeout {
		u.client.transports.closeIdle()
		u.probe.begin(probeFresh)
	}
}

// attemptDeadline returns the deadline of one attempt. With whole it may take all of the
// time; otherwise a third is left for other attempts, because a single hang is more often
// a lost request than a slow answer.
func attemptDeadline(deadline time.Time, whole bool) time.Time {
	if whole {
		return deadline
	}
	now := time.Now()
	return now.Add(deadline.Sub(now) * 2 / 3)
}

// attempts returns how many attempts the caller with ctx has. A last attempt occupies its
// place until leave is called.
func (u *upstream) attempts(ctx context.Context, path string) (n int, leave func(), err error) {
	c := callerOf(ctx)
	if !c.last {
		return u.client.attempts, func() {}, nil
	}
	if u.probe.now(ctx, patienceProof) != alive {
		return 0, nil, u.at.fail(path, outcomeTimeout, fmt.Errorf("%w: %w", ErrUnavailable, errOpen)).Error
	}
	leave, ok := u.client.patients.enter(u.at.base.Host, c.client)
	if !ok {
		return 0, nil, u.at.fail(path, outcomeTimeout, fmt.Errorf("%w: %w", ErrUnavailable, errCrowded)).Error
	}
	return 1, leave, nil
}

// refuse returns why path is not requested now, nil if it may be: the breaker is open, or
// the path failed recently.
func (u *upstream) refuse(ctx context.Context, path string) error {
	if wait, err := u.breaker.allow(ctx); err != nil {
		u.client.metrics.count(u.at.label, outcomeOpen, time.Now())
		spans.Note(ctx, spans.BreakerOpen)
		f := u.at.fail(path, outcomeOpen, fmt.Errorf("%w: %w", ErrUnavailable, err))
		if u.probe.timedOut() {
			f.Err = fmt.Errorf("%w: %w: %w", ErrUnavailable, context.DeadlineExceeded, err)
		}
		f.RetryAfter = wait
		return f.Error
	}
	if err := u.failures.find(path); err != nil && !callerOf(ctx).last {
		u.client.metrics.count(u.at.label, outcomeRemembered, time.Now())
		return err
	}
	return nil
}

// spare returns an error if the upstream must not get a request for path, because it has asked for fewer, of
// all or of those about its module, and no client waits for the answer or will.
func (u *upstream) spare(ctx context.Context, path string) error {
	left := u.respite.leftFor(path)
	if left == 0 || !callerOf(ctx).givesUp() {
		return nil
	}
	u.client.metrics.count(u.at.label, outcomeSpared, time.Now())
	f := u.at.fail(path, outcomeSpared, fmt.Errorf("%w: %w", ErrUnavailable, errSpared))
	f.RetryAfter = left
	return f.Error
}

// note records how the fetch of path ended; f is nil if it succeeded.
func (u *upstream) note(ctx context.Context, path string, f *failure) {
	if f == nil || !f.blame {
		u.failures.forget(path)
		u.breaker.note(ctx, path, false)
		return
	}
	if callerOf(ctx).isWanted() {
		u.failures.note(path, f.Error)
		u.breaker.note(ctx, path, f.lost)
	}
	u.probe.begin(probeFresh)
}
