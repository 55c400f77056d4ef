package content

import (
	"context"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/request"
)

// source is where an origin gets modules from.
type source interface {
	// reachable reports whether there is anywhere to ask.
	reachable() bool

	// unheld is the error for what is not held while there is nowhere to ask.
	unheld(req request.Request) error

	// fill fetches, proves and stores an object.
	fill(ctx context.Context, f *fill) error

	// ask gets a list, a latest version or what a branch points to, and keeps it.
	ask(ctx context.Context, req request.Request) (*Answer, error)

	// pushed returns when the repository of a module was last said to have changed, the
	// zero time if never: an answer of before is not current.
	pushed(modulePath string) time.Time

	// served is told that an object was served which was stored at a time.
	served(req request.Request, stored time.Time)

	// bridge makes err, of asking for q since a time, what the client is told while nobody can
	// be asked.
	bridge(ctx context.Context, q *Ask, begin time.Time, r Result, err error) error
}

// fill is one object being fetched, proved and stored. A client that wants the object
// meanwhile waits for the same fill.
type fill struct {
	req   request.Request
	key   string
	begun time.Time
	claim *places.Claim

	// started is closed when the fields below it are set and the object can
	// be streamed; it may never be.
	started chan struct{}

	size  int64
	hash  string // that the content must have
	spool *spool // of a zip

	stored bool // what is in the spool is what is stored, byte for byte
}

// filling is a fill with the clients that wait for it.
type filling = flight.Flight[*fill]

// room is where work runs: in one of the places, no longer than limit.
type room struct {
	places *places.Places
	limit  time.Duration
}

const (
	// A fill that takes longer than this is given up. The longest honest one
	// is a zip of 500 MiB at half a megabyte per second.
	smallFillTime = 3 * time.Minute
	zipFillTime   = 20 * time.Minute
)

// holdBack is how much of a zip waits for its proof: the end, where the
// directory of a zip stands, so that what a client has is of no use
// without it. A zip that is not longer is not streamed at all, so that
// its errors have a status and a text.
const holdBack = 256 << 10
