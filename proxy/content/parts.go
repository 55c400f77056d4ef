package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	evidencedir "github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// parts are the parts that live as long as the Library. All origins, also those that a
// reload makes, share them.
type parts struct {
	options  options
	held     *heldStore
	scope    *flight.Scope
	metrics  *metrics
	rooms    rooms
	zips     zips
	evidence evidence
	pinned   *pinned // nil: there is no own log
	replicas *replicas
	infos    *infos
	absences *absences
}

// options are the parts of a Config that the origins may use. The store, the databases
// and the own log are not among them: origins get those from their gates.
type options struct {
	times   Times
	memory  Memory
	site    func(client string) string
	log     *slog.Logger
	mirrors []mirror // modules are verified with the first one
	unified bool
	outside gate.Outside
}

func optionsOf(c Config) options {
	o := options{times: c.Times, memory: c.Memory, site: c.Site, log: c.Logger, unified: c.Unified}
	for _, m := range c.Databases {
		o.mirrors = append(o.mirrors, m)
	}
	o.outside = gate.NewOutside(c.Store, c.Databases, c.Log)
	return o
}

func newParts(ctx context.Context, c Config) (p *parts, err error) {
	if err := clearScratch(c.Scratch); err != nil {
		return nil, err
	}
	p = &parts{options: optionsOf(c), held: &heldStore{holdings: c.Store}, metrics: newMetrics(), rooms: newRooms(c)}
	p.held.known.shared = c.News.Shared()
	p.held.known.lists.Limit, p.held.known.lists.Size = int(c.Memory.Hot/knownShare), knownSize
	p.scope = flight.NewScope(flight.Config{Wait: p.waitForPlace(), Prepare: p.prepare, Panicked: p.panicked})
	p.zips = zips{dir: c.Scratch, budget: c.Memory.Proofs, answer: c.Times.Answer}
	p.evidence = evidence{dir: evidencedir.Dir(c.Evidence), metrics: p.metrics, log: c.Logger}
	p.absences = newAbsences(c.Store, c.Logger, c.Times.Stale)
	p.absences.shared = c.News.Shared()
	if c.Log != nil {
		p.pinned = newPinned(c.Log, p.scope, p.zips, p.evidence)
	}
	if p.held.vouchers, err = noteVouchers(ctx, c); err != nil {
		return nil, err
	}
	if p.infos, err = newInfos(ctx, c.Store); err != nil {
		return nil, err
	}
	if p.replicas, err = newReplicas(ctx, c, p.scope); err != nil {
		return nil, err
	}
	return p, nil
}

// noteVouchers notes what vouches for objects by these settings, and returns all that ever
// did. If it cannot be noted, nothing can be stored either.
func noteVouchers(ctx context.Context, c Config) ([]storage.Voucher, error) {
	var now []storage.Voucher
	if len(c.Databases) > 0 {
		now = append(now, storage.ProvedBy(c.Databases[0].Name()))
	}
	if c.Log != nil {
		now = append(now, storage.PinnedIn(c.Log.Name()))
	}
	for _, v := range now {
		if err := storage.NoteVoucher(ctx, c.Store, v); err != nil && !errors.Is(err, storage.ErrReadOnly) {
			c.Logger.Warn("objects may not be found under other settings", "voucher", v, "err", err)
		}
	}
	return storage.Vouchers(ctx, c.Store)
}

// prepare makes the context of work in a place. The work continues when clients leave, so
// it has more time for a slow upstream than they have.
func (p *parts) prepare(ctx context.Context, client string) context.Context {
	site := p.options.site(client)
	ctx = fetch.WithPatience(ctx)
	return memory.WithOwner(vcs.WithClient(fetch.WithClient(ctx, site), site), site)
}

// panicked logs and counts a panic in work that clients share, also if no client waits
// for it any more.
func (p *parts) panicked(key string, d *panics.Error) error {
	p.metrics.panics.Inc()
	p.options.log.Error("panic", "key", key, "panic", fmt.Sprint(d.Value), "stack", string(d.Stack))
	return fmt.Errorf("%w: panic: %v", errDefect, d.Value)
}

// waitForPlace is how long work waits for a place.
func (p *parts) waitForPlace() time.Duration { return p.options.times.Answer * 3 / 4 }

// patient returns a context that ends when a client has waited long enough.
func (p *parts) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return patient(ctx, p.options.times.Answer)
}

// drop removes a stored object that must not be served.
func (p *parts) drop(ctx context.Context, key string, why error) {
	p.metrics.dropped.Inc()
	err := p.held.Delete(context.WithoutCancel(ctx), key)
	if errors.Is(err, storage.ErrReadOnly) {
		p.options.log.Error("stored object must not be served", "key", key, "err", why)
		return
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	p.options.log.Error("stored object dropped; it will be fetched again", "key", key, "err", why, "delete_err", err)
	p.replicas.tellGone(p.scope, key)
}

// How many fetches run at the same time, besides Config.Fills.
const (
	// privatePlaces is how many fills of private objects may wait or run at the same
	// time. The vcs.Source limits how many of them run.
	privatePlaces = 256

	// For requests of clients to checksum databases. A lookup for a fill is in the place
	// of the fill.
	lookupPlaces = 32
	filePlaces   = 32 // for tiles and first heads
	beyondPlaces = 4  // for tiles beyond the newest head

	// silence is how long a fill without a byte keeps its place while others wait: the
	// first response of a mirror for a version that it does not hold takes seconds.
	silence = 10 * time.Second
)

// parallelReads is how many stored answers are read at the same time. The size of an
// answer is known only after it has been read.
const parallelReads = 8

// rooms are the places for work that clients share.
type rooms struct {
	objects, zips, private, lookups, files, beyond *places.Places

	objectsAhead, zipsAhead aheadRoom
	predicting              context.Context // ends when the Library is closed
	stopPredicting          context.CancelFunc

	reading chan struct{} // has an element for each stored answer that is being read
}

// aheadRoom is the room for prefetches of objects, or of zips.
type aheadRoom struct {
	slots chan struct{} // has an element for each prefetch: at most half of the places are for these
	pause *pause
}

func newAheadRoom(places int, reason func(err error) bool) aheadRoom {
	return aheadRoom{make(chan struct{}, max(places/2, 1)), &pause{reason: reason}}
}

// note notes the error of a fill, and returns what is not predicted from now on because of it, "" if no pause
// begins.
func (r rooms) note(err error, now time.Time) (pauses string) {
	objects, zips := r.objectsAhead.pause.note(err, now), r.zipsAhead.pause.note(err, now)
	switch {
	case objects:
		return "nothing"
	case zips:
		return "no zip"
	}
	return ""
}

func newRooms(c Config) rooms {
	of := func(n int) *places.Places { return places.New(places.Config{N: n, Patience: silence, Site: c.Site}) }
	predicting, stop := context.WithCancel(context.Background())
	return rooms{
		predicting: predicting, stopPredicting: stop,
		objectsAhead: newAheadRoom(c.Fills.Objects, unstorable), zipsAhead: newAheadRoom(c.Fills.Zips, noZips),
		objects: of(c.Fills.Objects), zips: of(c.Fills.Zips),
		private: places.New(places.Config{N: privatePlaces, Site: c.Site}), // a clone may take minutes, and reports no progress
		lookups: of(lookupPlaces), files: of(filePlaces), beyond: of(beyondPlaces),
		reading: make(chan struct{}, parallelReads),
	}
}

// byName returns the places by their names in metrics.
func (r rooms) byName() map[string]*places.Places {
	return map[string]*places.Places{
		"objects": r.objects, "zips": r.zips, "private": r.private,
		"lookups": r.lookups, "files": r.files, "beyond": r.beyond,
	}
}
