package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
)

// absentVersionFor is how long the absence of a version, a branch or a commit is given
// in an outage: it may have been published since.
const absentVersionFor = time.Hour

// bridge makes err, of asking for req since begin by the settings of then, what the
// client is told. The go command asks for modules that do not exist, and stops when
// anything but an absence is the answer; so an absence that every upstream of the list
// has stated is kept, and given with its age while none of them can be asked. The word is
// still theirs: where an upstream answers, or anything here is in the way, err stays.
func (s *Server) bridge(a *answer, req request.Request, asked *settings, begin time.Time, err error) error {
	if err == nil || a.private || a.heldOnly || a.started || a.r.Context().Err() != nil {
		return err
	}
	var upstream *fetch.Error
	if !errors.As(err, &upstream) {
		return err
	}
	switch {
	case errors.Is(upstream, fs.ErrNotExist):
		own := a.result != resultNegative && a.result != resultCoalesced // else it is noted, or is not of now
		if own && !asked.upstream.Direct() && s.settings.Load() == asked {
			s.absences.note(siteOf(s.client(a)), absenceKey{asked.upstream.Setting(), a.path}, begin)
		}
	case errors.Is(err, fetch.ErrUnavailable):
		ctx, cancel := context.WithDeadline(a.r.Context(), begin.Add(s.config.Answer))
		defer cancel()
		if gone := s.absentInOutage(ctx, req, asked, a.path); gone != nil {
			s.log.Info("serving remembered absence: no upstream is reachable", "path", a.path, "err", err)
			a.result = resultStale
			a.Header()["Cache-Status"] = cacheStatus[resultStale]
			return gone
		}
	}
	return err
}

// absentInOutage returns that what has the key is absent, if every upstream of the
// settings has said so not too long ago, and none of them can be asked now; else nil.
func (s *Server) absentInOutage(ctx context.Context, req request.Request, asked *settings, key string) error {
	limit := s.config.Stale
	if req.Kind != request.List && req.Kind != request.Latest {
		limit = min(limit, absentVersionFor)
	}
	stated, err := s.absences.find(ctx, absenceKey{asked.upstream.Setting(), key})
	if err != nil {
		s.log.Warn("saved absences ignored", "key", key, "err", err)
		return nil
	}
	// A time that is yet to come is of a clock that was set back.
	age := time.Since(stated)
	if stated.IsZero() || age >= limit || age < -time.Minute || !asked.upstream.Unreachable(ctx) {
		return nil
	}
	if now, err := s.still(req.Module, false); err != nil || now != asked {
		return nil
	}
	return &failure{
		status: http.StatusNotFound, noStore: true,
		what: "not found: " + key,
		why: fmt.Sprintf("%s said so %s ago\nit is unreachable now, so this may be out of date",
			clip(asked.upstream.String(), 200), max(age, 0).Round(time.Second)),
		next: "if it has been published since, try again when the upstream is back",
		err:  fs.ErrNotExist,
	}
}
