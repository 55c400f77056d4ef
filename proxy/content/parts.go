package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/bindings"
	evidencedir "github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Config has the parts of a Library. Store is required; the zero value of every other
// field is its default.
type Config struct {
	Store storage.Store

	// Databases are the checksum databases that the Library mirrors, in the same Store.
	// Modules are verified with the first one; without any, the Library checks only that
	// modules are well-formed.
	Databases []*sumdb.Mirror

	// Log is the own log, in which the first content of each private version is pinned.
	// Without it there are no private modules.
	Log *pinlog.Log

	// Unified serves Log as a checksum database that covers public modules too: records
	// that the first of Databases has proved are copied into it.
	Unified  bool
	Scratch  string // directory for scratch files, which New removes
	Evidence string // directory for evidence

	Times  Times
	Memory Memory

	// Fills and ZipFills are how many objects, and how many zips, are fetched
	// at the same time. Default 64 and 16. Hits never wait for them.
	Fills, ZipFills int

	// Site returns the site of a client, see places.Config. Default: each client is a
	// site of its own.
	Site func(client string) string

	Logger *slog.Logger // default: discard
}

// Times says how long clients wait, and how long answers are served.
type Times struct {
	// Answer is how long a client waits for a response, or for the first bytes of a large
	// one. Default 28 s: the go command waits forever, but developers and CI jobs do not.
	Answer time.Duration

	// Fresh is how long a list, a latest version or the commit of a branch
	// counts as current. Default 1 min, as the public mirror has it.
	Fresh time.Duration

	// Stale is how long such an answer is served while no upstream is reachable. Default
	// 7 days.
	Stale time.Duration

	// Patience is how long a client waits for a new answer when such an old one exists.
	// Default 5 s.
	Patience time.Duration

	// Ahead is how long the fetch of a predicted object may last that no client has requested.
	// Default 2 min: what one client may have then arrives at half a megabyte per second.
	Ahead time.Duration
}

// Memory limits the memory of a Library, by purpose. A request that does not fit waits. A
// nil budget is no limit.
type Memory struct {
	// Hot is how many bytes of often requested small objects, and of lists of held versions,
	// stay in memory. Default 16 MiB.
	Hot int64

	// Proofs is for hashing and checking zips, some 7 MiB each. Its holder waits only for
	// the disk, or for a checksum database, whose Mirror may have the same budget.
	Proofs *memory.Budget

	// Fetches is for objects other than zips, from the fetch until they are stored. Its
	// holder waits for Proofs, the upstream and the store.
	Fetches *memory.Budget
}

// withDefaults returns c with its zero values replaced by the defaults.
func (c Config) withDefaults() Config {
	setDefault(&c.Times.Answer, 28*time.Second)
	setDefault(&c.Times.Fresh, time.Minute)
	setDefault(&c.Times.Stale, 7*24*time.Hour)
	setDefault(&c.Times.Patience, 5*time.Second)
	setDefault(&c.Times.Ahead, 2*time.Minute)
	setDefault(&c.Fills, 64)
	setDefault(&c.ZipFills, 16)
	setDefault(&c.Memory.Hot, 16<<20)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Site == nil {
		c.Site = func(client string) string { return client }
	}
	site := c.Site
	c.Site = func(client string) string { return site(strings.TrimPrefix(client, predictionFor)) }
	return c
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}

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
	bindings *bindings.Table
	pushes   *pushes
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
	p = &parts{options: optionsOf(c), held: &heldStore{holdings: c.Store}, metrics: newMetrics(), rooms: newRooms(c), pushes: new(pushes)}
	p.held.known.lists.Limit, p.held.known.lists.Size = int(c.Memory.Hot/knownShare), knownSize
	p.scope = flight.NewScope(flight.Config{Wait: c.Times.Answer * 3 / 4, Prepare: p.prepare, Panicked: p.panicked})
	p.zips = zips{dir: c.Scratch, budget: c.Memory.Proofs, answer: c.Times.Answer}
	p.evidence = evidence{dir: evidencedir.Dir(c.Evidence), metrics: p.metrics, log: c.Logger}
	p.absences = newAbsences(c.Store, c.Logger, c.Times.Stale)
	if c.Log != nil {
		p.pinned = newPinned(c.Log, p.scope, p.zips, p.evidence)
	}
	if p.held.vouchers, err = noteVouchers(ctx, c); err != nil {
		return nil, err
	}
	if p.infos, err = newInfos(ctx, c.Store); err != nil {
		return nil, err
	}
	if p.bindings, err = loadBindings(ctx, c.Store, c.Log); err != nil {
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

// patient returns a context that ends when a client has waited long enough.
func (p *parts) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return patient(ctx, p.options.times.Answer)
}

// loadBindings reads the facts about repositories, and adds those that only the own log
// has.
func loadBindings(ctx context.Context, store storage.Store, log *pinlog.Log) (*bindings.Table, error) {
	table, err := bindings.Load(ctx, store)
	if err != nil || log == nil || log.Size() == table.Log() {
		return table, err
	}
	known := table.Log()
	if log.Size() < known {
		known = 0 // the log is another one, or an older state of it
	}
	err = table.Learn(ctx, factsOf(log, known), log.Size())
	if errors.Is(err, storage.ErrReadOnly) {
		err = nil // they are known as long as we run
	}
	return table, err
}

// saveBindings notes that the facts cover the whole own log, so that the next start need
// not read it.
func (p *parts) saveBindings(ctx context.Context) {
	if p.pinned == nil {
		return
	}
	err := p.bindings.Learn(ctx, func(func(bindings.Fact, error) bool) {}, p.pinned.log.Size())
	if err != nil && !errors.Is(err, storage.ErrReadOnly) {
		p.options.log.Warn("the next start must read the whole private checksum log", "err", err)
	}
}

// factsOf yields the facts in the own log from its entry known on: each entry has the
// origin of its version.
func factsOf(log *pinlog.Log, known int64) iter.Seq2[bindings.Fact, error] {
	return func(yield func(bindings.Fact, error) bool) {
		for e, err := range log.Entries("") {
			if err == nil && (e.Public != nil || e.ID < known) {
				continue
			}
			url, _, _ := strings.Cut(e.Origin, " ") // as vcs.Origin.String has it
			if !yield(bindings.Fact{Repository: vcs.CanonicalRepository(url), Module: e.Module.Path}, err) {
				return
			}
		}
	}
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
}

// How many fetches run at the same time, besides Config.Fills and Config.ZipFills.
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
		objectsAhead: newAheadRoom(c.Fills, unstorable), zipsAhead: newAheadRoom(c.ZipFills, noZips),
		objects: of(c.Fills), zips: of(c.ZipFills),
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
