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

	"github.com/assay-proxy/assay/defect"
	"github.com/assay-proxy/assay/internal/bindings"
	evidencedir "github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Config is what a Library is made of. Store is needed; the zero value of everything else is
// its default.
type Config struct {
	Store storage.Store

	// Databases are the checksum databases that are served. The first one is
	// what modules are verified with; without any, nothing is verified but
	// that it is well-formed.
	Databases []*sumdb.Mirror

	// Log is our own checksum database, in which the first content of each
	// private version is pinned. Without it there are no private modules.
	Log *pinlog.Log

	// Unified serves Log as a checksum database that covers public modules
	// too: what the first of Databases has proved is copied into it.
	Unified bool

	Spool    string // directory for transfers under way; its content is removed by New
	Evidence string // directory for what was found to be wrong

	Times  Times
	Memory Memory

	// Fills and ZipFills are how many objects, and how many zips, are fetched
	// at the same time. Default 64 and 16. Hits never wait for them.
	Fills, ZipFills int

	// Site returns the site that a client is at, see places.Config. Default: each client is
	// a site of its own.
	Site func(client string) string

	Logger *slog.Logger // default: discard
}

// Times are how long something is waited for, or given.
type Times struct {
	// Answer is how long a client waits for its answer, or for the first
	// bytes of a large one. Default 28 s: the go command waits for ever, but
	// developers and CI jobs do not.
	Answer time.Duration

	// Fresh is how long a list, a latest version or the commit of a branch
	// counts as current. Default 1 min, as the public mirror has it.
	Fresh time.Duration

	// Stale is how long such an answer is given when no upstream can be
	// asked. Default 7 days.
	Stale time.Duration

	// Patience is how long a client waits for a new answer when there is such an
	// old one to give. Default 5 s.
	Patience time.Duration
}

// Memory bounds what a Library holds in memory, by what it is for. What does not fit waits.
// A nil budget is no bound.
type Memory struct {
	// Hot is how many bytes the small objects that are asked for again have.
	// Default 16 MiB.
	Hot int64

	// Proofs is to hash and check zips, some 7 MiB each. A holder waits for the
	// disk alone, or for a checksum database, whose Mirror may have the same.
	Proofs *memory.Budget

	// Fetches is for what is fetched, but zips, until it is stored. A holder
	// waits for Proofs, for the upstream and the store.
	Fetches *memory.Budget
}

// withDefaults returns c with the defaults of what it does not say.
func (c Config) withDefaults() Config {
	setDefault(&c.Times.Answer, 28*time.Second)
	setDefault(&c.Times.Fresh, time.Minute)
	setDefault(&c.Times.Stale, 7*24*time.Hour)
	setDefault(&c.Times.Patience, 5*time.Second)
	setDefault(&c.Fills, 64)
	setDefault(&c.ZipFills, 16)
	setDefault(&c.Memory.Hot, 16<<20)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Site == nil {
		c.Site = func(client string) string { return client }
	}
	return c
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}

// parts are what lives as long as the Library, and what its origins, of which a reload makes
// new ones, share.
type parts struct {
	options  options
	held     holdings
	scope    *flight.Scope
	metrics  *metrics
	rooms    rooms
	zips     zips
	evidence evidence
	pinned   *pinned // nil: there is no log of our own
	bindings *bindings.Table
	pushes   *pushes
	infos    *infos
	absences *absences
}

// options are what of a Config the origins may have. The store, the databases and our own log
// are not among them: those are behind the gates.
type options struct {
	times   Times
	memory  Memory
	spool   string
	site    func(client string) string
	log     *slog.Logger
	mirrors []mirror // modules are verified with the first one
	unified bool
	outside gate.Outside
}

func optionsOf(c Config) options {
	o := options{times: c.Times, memory: c.Memory, spool: c.Spool, site: c.Site, log: c.Logger, unified: c.Unified}
	for _, m := range c.Databases {
		o.mirrors = append(o.mirrors, m)
	}
	o.outside = gate.NewOutside(c.Store, c.Databases, c.Log)
	return o
}

// holdings is the store as far as nothing of a module is stored through it: that is for
// its gate alone.
type holdings interface {
	Open(ctx context.Context, key string) (storage.Object, error)
	Stat(ctx context.Context, key string) (storage.Info, error)
	List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error]
	Delete(ctx context.Context, key string) error
	Record(ctx context.Context, name string) ([]byte, error)
}

func newParts(ctx context.Context, c Config) (p *parts, err error) {
	if err := clearSpool(c.Spool); err != nil {
		return nil, err
	}
	p = &parts{options: optionsOf(c), held: c.Store, metrics: newMetrics(), rooms: newRooms(c), pushes: new(pushes)}
	p.scope = flight.NewScope(flight.Config{Wait: c.Times.Answer * 3 / 4, Prepare: p.prepare, Panicked: p.panicked})
	p.zips = zips{spool: c.Spool, budget: c.Memory.Proofs, answer: c.Times.Answer}
	p.evidence = evidence{dir: evidencedir.Dir(c.Evidence), metrics: p.metrics, log: c.Logger}
	p.absences = newAbsences(c.Store, c.Logger, c.Times.Stale)
	if c.Log != nil {
		p.pinned = newPinned(c.Log, p.scope, p.zips, p.evidence)
	}
	if p.infos, err = newInfos(ctx, c.Store); err != nil {
		return nil, err
	}
	if p.bindings, err = loadBindings(ctx, c.Store, c.Log); err != nil {
		return nil, err
	}
	return p, nil
}

// prepare makes the context of work in a place. Clients leave, and the work goes on: an
// upstream that is slow has time for it.
func (p *parts) prepare(ctx context.Context, client string) context.Context {
	site := p.options.site(client)
	ctx = fetch.WithPatience(ctx)
	return memory.WithOwner(vcs.WithClient(fetch.WithClient(ctx, site), site), site)
}

// panicked makes known that work which clients share has panicked, whether any of them
// still waits for it or not.
func (p *parts) panicked(key string, d *defect.Error) error {
	p.metrics.panics.Inc()
	p.options.log.Error("panic", "key", key, "panic", fmt.Sprint(d.Value), "stack", string(d.Stack))
	return fmt.Errorf("%w: panic: %v", ErrDefect, d.Value)
}

// patient returns a context for what a client waits for.
func (p *parts) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return patient(ctx, p.options.times.Answer)
}

// loadBindings reads what is known about repositories, and adds what only our own log
// knows.
func loadBindings(ctx context.Context, store storage.Store, log *pinlog.Log) (*bindings.Table, error) {
	table, err := bindings.Load(ctx, store)
	if err != nil || log == nil || log.Size() == table.Log() {
		return table, err
	}
	known := table.Log()
	if log.Size() < known {
		known = 0 // it is another log, or an older one
	}
	return table, table.Learn(ctx, factsOf(log, known), log.Size())
}

// saveBindings notes that there are facts for all that is in our own log, so that the
// next start need not read it.
func (p *parts) saveBindings(ctx context.Context) {
	if p.pinned == nil {
		return
	}
	if err := p.bindings.Learn(ctx, func(func(bindings.Fact, error) bool) {}, p.pinned.log.Size()); err != nil {
		p.options.log.Warn("the next start must read the whole private checksum log", "err", err)
	}
}

// factsOf yields what our own log shows from its entry known on: each version has where
// it came from.
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
	err := p.held.Delete(context.WithoutCancel(ctx), storage.Key(key))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	p.options.log.Error("stored object dropped; it will be fetched again", "key", key, "err", why, "delete_err", err)
}

// How much is fetched at the same time, besides Config.Fills and Config.ZipFills.
const (
	// privatePlaces is how many private objects may be waited for at the same time.
	// What really runs at the same time is bounded by the vcs.Source.
	privatePlaces = 256

	// For clients that ask checksum databases through this proxy. What a fill asks for
	// is in the fill's own place.
	lookupPlaces = 32
	filePlaces   = 32 // for tiles and first heads
	beyondPlaces = 4  // for tiles beyond the newest head

	// silence is how long a fill without a byte keeps its place while others wait: the
	// first answer of a mirror for a version that it has not got takes seconds.
	silence = 10 * time.Second
)

// parallelReads is how many kept answers are read at the same time. How large one is
// shows when it has been read.
const parallelReads = 8

// rooms are the places in which work runs that clients share.
type rooms struct {
	objects, zips, private, lookups, files, beyond *places.Places

	reading chan struct{} // a place for each kept answer that is being read
}

func newRooms(c Config) rooms {
	of := func(n int) *places.Places { return places.New(places.Config{N: n, Patience: silence, Site: c.Site}) }
	return rooms{
		objects: of(c.Fills), zips: of(c.ZipFills),
		private: places.New(places.Config{N: privatePlaces, Site: c.Site}), // a clone may take minutes, and tells no progress
		lookups: of(lookupPlaces), files: of(filePlaces), beyond: of(beyondPlaces),
		reading: make(chan struct{}, parallelReads),
	}
}

// byName returns the places by the names that the metrics have for them.
func (r rooms) byName() map[string]*places.Places {
	return map[string]*places.Places{
		"objects": r.objects, "zips": r.zips, "private": r.private,
		"lookups": r.lookups, "files": r.files, "beyond": r.beyond,
	}
}
