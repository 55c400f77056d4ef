package fetch

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

func (u *upstream) fetch(ctx context.Context, path string, limit int64, deadline time.Time) (*Object, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	object, err := retry(ctx, u, path, deadline, func(deadline time.Time) (*Object, *failure) {
		s, f := u.open(ctx, path, limit, deadline, nil)
		if f != nil {
			return nil, f
		}
		return &Object{Body: newTransfer(ctx, cancel, u, path, limit, s), Size: s.size(), Source: u.at.String()}, nil
	})
	if err != nil {
		cancel(nil)
	}
	return object, err
}

func (u *upstream) readAll(ctx context.Context, path string, limit int64, deadline time.Time) ([]byte, error) {
	return retry(ctx, u, path, deadline, func(deadline time.Time) ([]byte, *failure) {
		// The body must arrive by the deadline, too. It is not resumed: a small object is requested
		// again.
		ctx, cancel := context.WithDeadlineCause(ctx, deadline, errSlow)
		defer cancel()
		s, f := u.open(ctx, path, limit, deadline, nil)
		if f != nil {
			return nil, f
		}
		defer s.close()
		limit := min(limit, math.MaxInt64-1)
		data, err := memory.HoldOf(ctx).Read(ctx, s, s.size(), limit)
		switch {
		case errors.Is(err, memory.ErrFull):
			s.span.End(outcomeCanceled, false) // the memory is ours
			return nil, u.at.canceled(path, err)
		case int64(len(data)) > limit:
			return nil, u.at.tooLarge(path, limit)
		case err != nil:
			u.client.metrics.broken.WithLabelValues(u.at.label).Inc()
			return nil, u.at.broken(s.ctx, path, err)
		}
		return data, nil
	})
}

func (u *upstream) unreachable(ctx context.Context) bool { return u.probe.now(ctx, probeFresh) == dead }
