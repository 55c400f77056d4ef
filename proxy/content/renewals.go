package content

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/spans"
)

// renewals are the requests under way for new answers of an origin.
type renewals struct {
	source  source
	answers *answers
	absent  *absent
	group   *flight.Group[*Answer]
	in      room

	// meanwhile is the age up to which an answer is served while it is renewed. For an older
	// one the client waits for the new answer, so that a developer who comes back after lunch
	// sees this morning's tag. It is 0 for private modules: colleagues push their tags and
	// wait for them.
	meanwhile time.Duration
}

// join returns the request for a new answer to q, which it starts if there is none, and
// reports whether there was one. The request continues when its clients have left. A client
// that comes after a push must not get an answer that was requested before the push.
func (r *renewals) join(ctx context.Context, q *Ask) (*flight.Flight[*Answer], bool, error) {
	name, req := r.answers.name(q.Req), q.Req
	key := fmt.Sprint(name, " ", r.source.pushed(req.Module).UnixNano())
	return r.group.Join(claimOf(q.Client.Key(), req), flight.Work[*Answer]{
		Key: key, Places: r.in.places, Limit: r.in.limit, Cause: spans.CauseOf(ctx),
		Do: func(ctx context.Context, f *flight.Flight[*Answer]) (err error) {
			begin := time.Now()
			ctx, span := spans.Begin(ctx, spans.Renew, req.Kind.String())
			f.Value, err = r.source.ask(ctx, req)
			span.End(outcomeOf(err))
			r.absent.note(name, err, begin)
			return err
		},
	})
}
