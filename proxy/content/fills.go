package content

import (
	"context"
	"errors"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/proxy/request"
)

// fills are the fills of an origin that are under way.
type fills struct {
	parts  *parts
	shelf  *shelf
	source source
	group  *flight.Group[*fill]

	small, zips room
	anew        bool // see joinAnew
}

// roomFor returns where a fill of req runs.
func (f *fills) roomFor(req request.Request) room {
	if req.Kind == request.Zip {
		return f.zips
	}
	return f.small
}

// join returns the fill for req, which it starts if there is none, and reports
// whether there was one. The client counts as waiting until Leave. The error is one of
// package places.
func (f *fills) join(req request.Request, client string) (*filling, bool, error) {
	in := f.roomFor(req)
	this := &fill{req: req, key: req.Path(), started: make(chan struct{})}
	return f.group.Join(claimOf(client, req), flight.Work[*fill]{
		Key: this.key, Places: in.places, Limit: in.limit, Value: this,
		Do: func(ctx context.Context, running *filling) error {
			this.begun, this.claim = running.Begun, running.Claim()
			return f.run(ctx, this)
		},
		Ended: func(error) {
			if this.spool != nil {
				this.spool.release()
			}
		},
	})
}

// joinAnew is join for a client that waits at most until ctx ends. If a fill of a private
// module that was joined ends "not found" it fills once more: the version may have been pushed
// since that fill looked, and the client come because of it.
func (f *fills) joinAnew(ctx context.Context, req request.Request, client string) (running *filling, joined bool, err error) {
	running, joined, err = f.join(req, client)
	if !f.anew || !joined {
		return running, joined, err
	}
	if _, err := running.Wait(ctx); !running.Ended() || !IsAbsence(err) { // it is not streamed, nothing is missed
		return running, joined, nil
	}
	running.Leave(client)
	return f.join(req, client)
}

// run fills, unless that has been done already.
func (f *fills) run(ctx context.Context, this *fill) error {
	f.parts.metrics.fillsRunning.Inc()
	defer f.parts.metrics.fillsRunning.Dec()

	// Another fill may have ended between the client's look into the store
	// and now.
	if object, err := f.shelf.open(ctx, nil, this.req, this.key); err == nil {
		return object.Close()
	} else if !errors.Is(err, errMiss) {
		return err
	}
	begin := time.Now()
	err := f.source.fill(ctx, this)
	f.parts.metrics.observeFill(this.req.Kind, err, time.Since(begin))
	return err
}
