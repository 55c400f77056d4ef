package content

import (
	"context"
	"errors"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
)

// absentVersionFor is how long the absence of a version, a branch or a commit is served
// in an outage: it may have been published since.
const absentVersionFor = time.Hour

// bridge bridges an outage. The go command requests modules that do not exist, and stops
// unless the answer is an absence. So an absence that every upstream of the list has
// stated is stored, and served with its age while none of them is reachable. If an
// upstream answers, or an error is our own, err stays.
func (u *upstreams) bridge(ctx context.Context, q *Ask, begin time.Time, r Result, err error) error {
	var upstream *fetch.Error
	if q.HeldOnly || ctx.Err() != nil || !errors.As(err, &upstream) {
		return err
	}
	key := absenceKey{u.settings.UpstreamSetting(), q.Path}
	switch {
	case notfound.Is(upstream):
		own := r != Negative && r != Coalesced // otherwise it is noted already, or is older
		if own && !u.settings.Direct() && u.current(u.settings) {
			u.parts.absences.note(u.parts.options.site(q.Client.Key()), key, begin)
		}
	case errors.Is(err, fetch.ErrUnavailable):
		ctx, cancel := context.WithDeadline(ctx, begin.Add(u.parts.options.times.Answer))
		defer cancel()
		if gone := u.absentInOutage(ctx, q.Req, key); gone != nil {
			u.parts.options.log.Info("serving remembered absence: no upstream is reachable", "path", q.Path, "err", err)
			return gone
		}
	}
	return err
}

// absentInOutage returns an absence for key if every upstream of the list stated it not
// too long ago, and none of them is reachable now; otherwise nil.
func (u *upstreams) absentInOutage(ctx context.Context, req request.Request, key absenceKey) error {
	limit := u.parts.options.times.Stale
	if req.Kind != request.List && req.Kind != request.Latest {
		limit = min(limit, absentVersionFor)
	}
	stated, err := u.parts.absences.find(ctx, key)
	if err != nil {
		u.parts.options.log.Warn("saved absences ignored", "key", key.key, "err", err)
		return nil
	}
	// A time in the future means that the clock was set back.
	age := time.Since(stated)
	if stated.IsZero() || age >= limit || age < -time.Minute || !u.settings.Unreachable(ctx) {
		return nil
	}
	if now, err := u.gate.Check(req.Module); err != nil || now != u.settings {
		return nil
	}
	return &OldAbsenceError{Key: key.key, Upstreams: u.settings.Upstreams(), Age: max(age, 0)}
}
