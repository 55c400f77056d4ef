package content

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/proxy/request"
)

// renewals are the requests under way for new answers of an origin.
type renewals struct {
	parts   *parts
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
	pushed := r.source.pushed(req.Module)
	key := fmt.Sprint(name, " ", pushed.number, pushed.at.UnixNano())
	if q.unsure {
		key += " unsure" // what another replica has stored may be from a repository that the client may not read
	}
	unsure := q.unsure
	return r.group.Join(claimOf(q.Client.Key(), req), flight.Work[*Answer]{
		Key: key, Places: r.in.places, Limit: r.in.limit, Cause: spans.CauseOf(ctx),
		Do: func(ctx context.Context, f *flight.Flight[*Answer]) error {
			ask := func(ctx context.Context) error { return r.ask(ctx, req, f) }
			if unsure || r.parts.replicas.leases.alone {
				return ask(ctx)
			}
			found := func(ctx context.Context) (ok bool, err error) {
				f.Value, err = r.current(ctx, req)
				return f.Value != nil, err
			}
			return r.parts.replicas.leases.once(ctx, turn{key: "ask " + name, patience: r.parts.options.times.Answer / 3, found: found, aside: asideOf(ctx, f.Claim(), r.parts)}, ask)
		},
	})
}

// ask asks for the answer of a flight.
func (r *renewals) ask(ctx context.Context, req request.Request, f *flight.Flight[*Answer]) (err error) {
	begin := time.Now()
	ctx, span := spans.Begin(ctx, spans.Renew, req.Kind.String())
	f.Value, err = r.source.ask(ctx, req)
	span.End(outcomeOf(err))
	r.absent.note(r.answers.name(req), err, begin)
	return err
}

// current returns the stored answer, if it need not be renewed because another replica has done so; otherwise nil.
func (r *renewals) current(ctx context.Context, req request.Request) (*Answer, error) {
	m, err := r.answers.find(ctx, nil, req)
	if err != nil || m.age() >= r.parts.options.times.Fresh || m.before(r.source.pushed(req.Module)) {
		return nil, err
	}
	return m, nil
}
