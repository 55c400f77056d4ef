package content

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
)

// fills are the fills under way of an origin.
type fills struct {
	parts  *parts
	shelf  *shelf
	source source
	group  *flight.Group[*fill]

	small, zips room
	fresh       bool // see joinFresh
	predicted   bool // what a client requests says what it will request next
	leased      bool // each fill has its turn among the replicas; otherwise its source cares for that
}

// roomFor returns the room for a fill of req.
func (f *fills) roomFor(req request.Request) room {
	if req.Kind == request.Zip {
		return f.zips
	}
	return f.small
}

// join returns the fill for req, which it starts if there is none, and reports
// whether there was one. The client counts as waiting until Leave. The error is one of
// package places.
func (f *fills) join(ctx context.Context, req request.Request, client string) (*filling, bool, error) {
	running, joined, err := f.joinAs(ctx, &fill{req: req, key: req.Path(), started: make(chan struct{})}, client)
	if joined && running.Value.ahead != nil {
		running.Value.ahead.adopt()
	}
	return running, joined, err
}

// joinAs is join with the fill that is started if there is none.
func (f *fills) joinAs(ctx context.Context, this *fill, client string) (*filling, bool, error) {
	req, in := this.req, f.roomFor(this.req)
	return f.group.Join(claimOf(client, req), flight.Work[*fill]{
		Key: this.key, Places: in.places, Limit: in.limit, Value: this, Cause: spans.CauseOf(ctx),
		Do: func(ctx context.Context, running *filling) error {
			this.begun, this.claim = running.Begun, running.Claim()
			if this.ahead != nil {
				ctx = fetch.WhileWanted(ctx, func() bool { return this.wanted(this.claim) }, func() bool { return this.giveUp(this.claim) })
			}
			return f.run(ctx, this)
		},
		Ended: func(error) {
			if this.arrived != nil {
				this.waiting.end(this.arrived.release)
			}
		},
	})
}

// ahead joins the fill for an object that no client waits for yet. It reports whether that
// was started, and returns nil if there is no place for it. release must be called when the
// fill has ended, or is that of a client, and may be called again.
func (f *fills) ahead(ctx context.Context, q *Ask) (running *filling, started bool, release func()) {
	in := f.roomFor(q.Req)
	if in.places.Waits() {
		return nil, false, nil
	}
	select {
	case in.ahead.slots <- struct{}{}:
		release = sync.OnceFunc(func() { <-in.ahead.slots })
	default:
		return nil, false, nil
	}
	client := q.Client.Key()
	running, joined, err := f.joinAs(ctx, &fill{req: q.Req, key: q.Path, started: make(chan struct{}), ahead: newAhead(q.take)}, client)
	if err != nil {
		release()
		return nil, false, nil
	}
	running.Leave(client) // if it waits for a place it is dropped
	if joined {
		release() // the place of the fill is a client's, or counts for another prefetch
	}
	return running, !joined, release
}

// joinFresh is join for a client that waits at most until ctx ends. If it joined a fill of
// a private module, and that ends "not found", it fills once more: the version may have
// just been pushed.
func (f *fills) joinFresh(ctx context.Context, req request.Request, client string) (running *filling, joined bool, err error) {
	running, joined, err = f.join(ctx, req, client)
	if !f.fresh || !joined {
		return running, joined, err
	}
	if _, err := running.Wait(ctx); !running.Ended() || !IsAbsence(err) { // it is not streamed, so the client misses nothing
		return running, joined, nil
	}
	running.Leave(client)
	return f.join(ctx, req, client)
}

// run does the fill, unless the object is stored already.
func (f *fills) run(ctx context.Context, this *fill) error {
	f.parts.metrics.fillsRunning.Inc()
	defer f.parts.metrics.fillsRunning.Dec()

	// Another fill may have ended since the client looked into the store.
	found := func(ctx context.Context) (bool, error) {
		object, err := f.shelf.open(ctx, nil, this.req, this.key)
		switch {
		case err == nil:
			return true, object.Close()
		case errors.Is(err, errMiss):
			return false, nil
		}
		return false, err
	}
	do := func(ctx context.Context) error { return f.fetch(ctx, this) }
	if f.leased {
		return f.parts.replicas.leases.once(ctx, turn{key: this.key, patience: f.patience(this.req), found: found, aside: asideOf(ctx, this.claim, f.parts)}, do)
	}
	if found, err := found(ctx); found || err != nil {
		return err
	}
	return do(ctx)
}

// patience returns how long a fill waits for another replica that fetches the same. A zip may take long, and to fetch it
// twice is dear; but its clients must have the first bytes in time, so the rest of that time is left for an own fetch.
func (f *fills) patience(req request.Request) time.Duration {
	if req.Kind == request.Zip {
		return f.parts.options.times.Answer * 2 / 3
	}
	return f.parts.options.times.Answer / 3
}

// asideOf returns turn.aside for work that has a claim.
func asideOf(ctx context.Context, claim *places.Claim, p *parts) func(wait func() bool) error {
	return func(wait func() bool) error { return claim.Aside(ctx, p.waitForPlace(), wait) }
}

// fetch does the fill for an object that is not stored.
func (f *fills) fetch(ctx context.Context, this *fill) error {
	begin := time.Now()
	ctx, span := spans.Begin(ctx, spans.Fill, this.req.Kind.String())
	err := f.source.fill(ctx, this)
	outcome, failed := outcomeOf(err)
	f.parts.metrics.observeFill(this.req.Kind, outcome, time.Since(begin))
	span.End(outcome, failed)
	if what := f.parts.rooms.note(err, time.Now()); what != "" {
		f.parts.options.log.Warn(what+" is predicted for a while: an object could not be stored", "key", this.key, "for_s", pauseFor.Seconds(), "err", err)
	}
	return err
}
