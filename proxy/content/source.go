package content

import (
	"context"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// source gets the modules of an origin.
type source interface {
	// reachable reports whether there is any upstream or repository to ask.
	reachable() bool

	// spared reports whether there must be no requests that no client waits for.
	spared() bool

	// unheld is the error for an object that is not held while the source is not
	// reachable.
	unheld(req request.Request) error

	// fill fetches, proves and stores an object.
	fill(ctx context.Context, f *fill) error

	// ask gets a list, a latest version or the commit of a branch, and stores the answer.
	ask(ctx context.Context, req request.Request) (*Answer, error)

	// pushed returns the last change of the module's repository that a webhook has reported,
	// the zero value if there is none: an earlier answer is not current.
	pushed(modulePath string) push

	// served is called when an object was served that was stored at a time.
	served(req request.Request, stored time.Time)

	// bridge replaces err, of a request that began at a time, with an older absence while
	// no upstream is reachable.
	bridge(ctx context.Context, q *Ask, begin time.Time, r Result, err error) error
}

// fill is an object that is being fetched, proved and stored. Clients that request the
// object meanwhile wait for the same fill.
type fill struct {
	req   request.Request
	key   string
	ahead *ahead // it was started before a client requested it; nil: a client has started it
	begun time.Time
	claim *places.Claim

	// started is closed when the fields below it are set and the object can be streamed.
	// It is not closed if the object is never streamed.
	started chan struct{}

	size    int64
	hash    string   // the content must have it
	arrived *arrived // of a zip

	stored bool // the stored object has the bytes that have arrived

	// proved is the Info of the zip that has arrived, once it is proved. The store may have no room for it, and may
	// soon evict it: clients that wait read what has arrived then, see passed.go.
	proved  *storage.Info
	waiting waiting
}

// ahead is what is known of a fill that was started before a client requested its object.
type ahead struct {
	take   func(n int64) bool // see Ask
	costly bool               // it was given up, see unwanted

	adopting sync.Once
	adopted  chan struct{} // closed when a client has requested it: it is a fill of that client from then on
}

func newAhead(take func(n int64) bool) *ahead {
	return &ahead{take: take, adopted: make(chan struct{})}
}

// adopt notes that a client has requested the object.
func (a *ahead) adopt() { a.adopting.Do(func() { close(a.adopted) }) }

func (a *ahead) isAdopted() bool {
	select {
	case <-a.adopted:
		return true
	default:
		return false
	}
}

// wanted reports whether a client waits for a fill that was started ahead, or has waited for it: what a client
// has begun goes on when it leaves. claim is that of the fill.
func (f *fill) wanted(claim *places.Claim) bool { return f.ahead.isAdopted() || claim.Wanted() }

// giveUp gives up a fill that was started ahead, unless a client has requested its object, and reports whether
// it does. claim is that of the fill.
func (f *fill) giveUp(claim *places.Claim) bool {
	return f.ahead != nil && !f.ahead.isAdopted() && claim.GiveUp() // a client joins the claim before it adopts the fill
}

// unwanted gives up a fill that was started ahead and turns out to be expensive, unless a client has requested
// its object. The error is nil or errUnwanted.
func (f *fill) unwanted() error {
	if !f.giveUp(f.claim) {
		return nil
	}
	f.ahead.costly = true
	return errUnwanted
}

// spend takes n bytes for a fill that was started ahead, and gives it up if there are none left for it, unless
// a client has requested its object. The error is nil or errUnwanted.
func (f *fill) spend(n int64) error {
	if f.ahead == nil || f.ahead.take == nil || f.ahead.take(n) {
		return nil
	}
	return f.unwanted()
}

// filling is a fill with the clients that wait for it.
type filling = flight.Flight[*fill]

// room says how work runs: in one of the places, no longer than limit.
type room struct {
	places *places.Places
	limit  time.Duration
	ahead  aheadRoom
}

const (
	// A fill that takes longer than this is aborted. The longest legitimate one is a zip
	// of 500 MiB at half a megabyte per second.
	smallFillTime = 3 * time.Minute
	zipFillTime   = 20 * time.Minute
)

// holdBack is how many bytes at the end of a zip wait for its proof. The directory of the
// zip is there, so the bytes that a client has before are useless. A zip that is not
// longer is not streamed at all, so that its errors have a status and a text.
const holdBack = 256 << 10
