package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
)

// Config has the dependencies and settings of a Mirror. Key and Store are required; the zero value
// of any other field is its default.
type Config struct {
	Key   string // verifier key, name+hash+key
	Store storage.Store
	Fetch FetchFunc // nil: no upstream

	// Current returns the FetchFunc to use at this moment, nil if there is no upstream. Default:
	// Fetch.
	Current func() FetchFunc

	// Evidence is the directory for evidence that the log misbehaves. The mirror creates it when it
	// writes the first file. A file fork-NAME-*.txt in it keeps the mirror frozen. Without a
	// directory the evidence is only logged, and the freeze ends with the process.
	// If replicas share the store, the evidence is in the store, too, and freezes all of them.
	Evidence string

	// News is the board of the replicas that share Store; nil means that no other process has it. Open
	// subscribes, so Board.Run comes after it. It ends before Close.
	News *news.Board

	// InBucket says that Store outlives the machine with the directory of the evidence. The evidence of forks is then
	// in the store as well, as if there were other replicas.
	InBucket bool

	// Memory bounds the memory of lookups, which wait for it, and of data tiles, whose bytes are
	// counted as they arrive, in the memory.Hold of the context of Fetch. Nil means no bound.
	Memory *memory.Budget

	Refresh time.Duration // how often Run, of all replicas together, fetches latest; default 10 min
	Logger  *slog.Logger  // default: discard
}

// Mirror is a mirror of one checksum database as clients need it: heads, records and tiles. All
// methods may be called concurrently.
//
// It has only the records and tiles that clients requested. A copy of the whole log would be a
// package of its own, on two parts of the mirror: follower, which advances the head, and prover,
// which verifies tiles.
type Mirror struct {
	finder   *finder
	follower *follower
	records  *records
	tiles    *tiles
	flights  *flight.Shared
	chores   *chores
	metrics  *metrics
}

// Open returns the mirror of the database with c.Key, at the stored head of c.Store. It does not
// use the network. It is an error if the stored head does not verify and the history has none that
// does: a mirror that started empty would not detect a log that was rolled back.
func Open(ctx context.Context, c Config) (*Mirror, error) {
	if c.Store == nil {
		return nil, errors.New("sumdb: no store")
	}
	if c.Refresh <= 0 {
		c.Refresh = 10 * time.Minute
	}
	if c.Current == nil {
		c.Current = func() FetchFunc { return c.Fetch }
	}
	m, err := newMirror(c.withDefaults())
	if err != nil {
		return nil, err
	}
	if err := m.load(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// withDefaults returns c with what every part needs.
func (c Config) withDefaults() Config {
	if c.News == nil {
		c.News = news.Alone()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// load reads what is stored: the evidence first, because without it the mirror would perhaps have to
// be frozen.
func (m *Mirror) load(ctx context.Context) error {
	if f := m.finder.freezer; f.shared == nil {
		if err := f.moveHere(ctx, &forks{m.records.objects}); err != nil {
			return fmt.Errorf("evidence about %s: %w", f.name, err)
		}
	}
	if err := m.Recheck(ctx); err != nil {
		return err
	}
	if err := m.follower.load(ctx); err != nil {
		return fmt.Errorf("checksum database %s: %w", m.Name(), err)
	}
	return nil
}

// newMirror wires the parts of a mirror.
func newMirror(c Config) (*Mirror, error) {
	key, err := NewVerifier(c.Key)
	if err != nil {
		return nil, err
	}
	name, log := key.Name(), c.Logger.With("database", key.Name())
	flights, metrics := flight.NewShared(), newMetrics(name)
	client := &client{name, c.Current, flights, c.Memory}
	objects := &objects{name, c.Store, log}
	chores := newChores(log)
	prover := &prover{
		client: client, objects: objects, log: log,
		waiting: memo.Map[place, []byte]{Limit: maxWaitingTiles}, recent: memo.Map[place, struct{}]{Limit: maxRecent},
	}
	freezer := newFreezer(c, objects, chores)
	judge := &judge{prover: prover, key: key, freezer: freezer, metrics: metrics, older: memo.Map[tlog.Tree, struct{}]{Limit: maxOlder}}
	follower := &follower{
		client: client, prover: prover, judge: judge, heads: &headStore{objects, key, log}, freezer: freezer,
		metrics: metrics, log: log, moving: newTurns(flights), proving: newTurns(flights),
	}
	finder := &finder{
		client: client, follower: follower, freezer: freezer, board: c.News, every: c.Refresh, log: log, heard: make(chan struct{}, 1),
	}
	follower.told = func() { chores.add("the news of a tree head", finder.tell) }
	hashes := &hashTiles{client, prover, freezer}
	data := &dataTiles{client, objects, hashes}
	records := &records{
		client: client, objects: objects, finder: finder, follower: follower, freezer: freezer, hashes: hashes,
		evidence: &conflicts{objects, evidence.Dir(c.Evidence), c.News, chores, log, time.Now().Add(-conflictsBefore)}, memory: c.Memory, metrics: metrics, log: log,
		waiting: memo.Map[string, *Proof]{Limit: maxWaiting, Size: func(_ string, p *Proof) int { return p.size }},
		recent:  memo.Map[string, struct{}]{Limit: maxRecent},
	}
	m := &Mirror{
		finder:   finder,
		follower: follower,
		records:  records,
		tiles:    &tiles{client, finder, follower, freezer, hashes, data, log},
		flights:  flights,
		chores:   chores,
		metrics:  metrics,
	}
	m.subscribe(c.News)
	return m, nil
}

// newFreezer returns the freezer of the database whose objects are in c.Store.
func newFreezer(c Config, o *objects, chores *chores) *freezer {
	f := &freezer{
		name: o.name, key: c.Key, dir: evidence.Dir(c.Evidence), log: o.log,
		board: c.News, chores: chores, looking: make(chan struct{}, 1),
	}
	if c.News.Shared() || c.InBucket {
		f.shared = &forks{o}
	}
	return f
}

// subscribe makes m hear what the other replicas tell.
func (m *Mirror) subscribe(board *news.Board) {
	board.Subscribe(newsOfHeads, m.finder.hear)
	board.Subscribe(newsOfForks, func(ctx context.Context, changes news.Changes) error {
		if err := m.finder.freezer.look(ctx); err != nil || changes.All {
			return err
		}
		return m.finder.hear(ctx, news.Changes{All: true}) // while it was frozen, it heard nothing
	})
	board.Subscribe(newsOfConflicts, m.records.evidence.hear)
}

// Anew makes later calls join no request that has begun: upstream is another one now.
func (m *Mirror) Anew() { m.flights.Anew() }

// Close cancels all running work and waits for it to end. What the other replicas are just being told
// has a few seconds more. The store stays open.
func (m *Mirror) Close() {
	m.flights.Close()
	m.chores.close()
}

// Name returns the name of the database.
func (m *Mirror) Name() string { return m.follower.client.name }

// Size returns the number of records under our newest head, 0 if there is no head.
func (m *Mirror) Size() int64 { return m.follower.size() }

// HasHead reports whether there is a head. Without one the mirror cannot answer anything.
func (m *Mirror) HasHead() bool { return m.follower.head.Load() != nil }

// Latest returns our newest signed head. If there is none, it fetches the first one from upstream.
// The error is fs.ErrNotExist if there is neither a head nor an upstream. The head may be a few
// minutes old: Run refreshes it.
func (m *Mirror) Latest(ctx context.Context) ([]byte, error) {
	h, err := m.finder.newest(ctx)
	if err != nil {
		return nil, err
	}
	return h.note, nil
}

// Refresh fetches the latest head of upstream and makes it ours if it is newer. The errors are
// ErrFrozen, ErrInvalid and those of the FetchFunc and the store. Without an upstream, Refresh
// returns an error.
func (m *Mirror) Refresh(ctx context.Context) error { return m.finder.refresh(ctx) }

// Run refreshes the head at once and then every Config.Refresh, until ctx ends; it returns nil
// then. Errors are logged: the next round may succeed. Of replicas that share a store one does so for
// all of them, in the usual case.
func (m *Mirror) Run(ctx context.Context) error {
	m.finder.run(ctx)
	return nil
}

// Frozen reports whether a fork was seen that no administrator has cleared, and the file with its
// evidence; the name is empty if the file could not be written.
func (m *Mirror) Frozen() (evidenceFile string, frozen bool) { return m.follower.freezer.state() }

// Recheck looks for evidence again: an administrator moves its files away to thaw the mirror, or
// adds one to freeze it. Recheck writes evidence that could not be written before; as long as that
// fails, the mirror stays frozen. If replicas share the store, only Thaw thaws them.
func (m *Mirror) Recheck(ctx context.Context) error { return m.follower.freezer.recheck(ctx) }

// Thaw clears all evidence of forks, here and for all replicas that share the store, and returns the
// paths of its files, which have another name now. The reason is logged, and kept in a shared store. It
// is an error if there is no evidence, and if the other replicas could not be told: they thaw later
// then, or when Thaw is called again.
func (m *Mirror) Thaw(ctx context.Context, reason string) (cleared []string, err error) {
	return m.follower.freezer.thaw(ctx, reason)
}

// Thaw is Mirror.Thaw of the database with a name, while no mirror of it is open on c.Store in this
// process. It uses the fields Store, News, Evidence and Logger of c.
func Thaw(ctx context.Context, c Config, name, reason string) (cleared []string, err error) {
	c = c.withDefaults()
	work := newChores(c.Logger)
	defer work.close()
	log := c.Logger.With("database", name)
	return newFreezer(c, &objects{name, c.Store, log}, work).thaw(ctx, reason)
}

// Lookup returns the record of mod, from the store or else from upstream, whose record is proved
// and stored first. Concurrent calls share one request to upstream, which has its own deadline of
// 150 s.
//
// The errors are notfound.Stated if the database does not know mod, or if the record is not held and
// there is no upstream; ErrInvalid if upstream's response does not verify; ErrFrozen; and those of
// the FetchFunc and the store. Errors are not cached.
func (m *Mirror) Lookup(ctx context.Context, mod module.Version) (Record, error) {
	ctx, span := spans.Begin(ctx, spans.Database, m.Name())
	record, result, err := m.records.lookup(ctx, mod)
	m.metrics.lookups.WithLabelValues(ended(span, result, err)).Inc()
	return record, err
}

// Prove is Lookup without the storing: the caller stores the proof when it knows what else is stored
// with it, and answers nothing before.
func (m *Mirror) Prove(ctx context.Context, mod module.Version) (*Proof, error) {
	ctx, span := spans.Begin(ctx, spans.Database, m.Name())
	proof, result, err := m.records.prove(ctx, mod)
	m.metrics.lookups.WithLabelValues(ended(span, result, err)).Inc()
	return proof, err
}

// ended ends the span of an answer, and returns the label of the answer.
func ended(span spans.Span, result string, err error) string {
	label := resultOf(result, err)
	span.End(label, label == "refused" || label == "error")
	return label
}

// Held returns the record of mod from the store. The error is fs.ErrNotExist if it is not held.
func (m *Mirror) Held(ctx context.Context, mod module.Version) (Record, error) {
	path, err := LookupPath(mod)
	if err != nil {
		return Record{}, err
	}
	return m.records.heldAt(ctx, path, mod)
}

// Reply returns the body of the response to a lookup: the record and our newest head, which covers
// it. The error is ErrBeyond if our head does not cover it. That happens only after a store lost
// its head and was put back to an older one.
func (m *Mirror) Reply(ctx context.Context, r Record) ([]byte, error) {
	return m.records.reply(ctx, r)
}

// Tile returns the tile t; with L = -1, the records themselves. A tile under our head comes from
// the store, or from upstream; then it is proved and, if full, stored. If our head does not reach
// t, the mirror fetches a newer head. If that does not reach t either, the mirror relays the tile:
// it compares the part that it knows, and does not store the tile. The client verifies it.
//
// The errors are notfound.Stated for a tile that no log has (a height other than 8, for example);
// ErrBeyond; ErrInvalid if upstream's response does not verify; ErrFrozen; and those of the
// FetchFunc and the store.
func (m *Mirror) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	ctx, span := spans.Begin(ctx, spans.Database, m.Name())
	data, result, err := m.tiles.get(ctx, t)
	m.metrics.tiles.WithLabelValues(ended(span, result, err)).Inc()
	return data, err
}

// HeldTile is Tile without upstream. The error is fs.ErrNotExist for a tile that is not held.
func (m *Mirror) HeldTile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	data, err := m.tiles.held(ctx, t)
	if err == nil && data == nil {
		return nil, fmt.Errorf("%s of %s is not held: %w", t.Path(), m.Name(), fs.ErrNotExist)
	}
	m.metrics.tiles.WithLabelValues(resultOf("hit", err)).Inc()
	return data, err
}

// Again reports whether t, which HeldTile has returned while Covers was true, may be answered again
// from memory. It counts as a hit.
func (m *Mirror) Again(t tlog.Tile) bool {
	if !m.Covers(t) {
		return false
	}
	m.metrics.tileHits.Inc()
	return true
}

// Covers reports whether t is under our head. If Covers is true before a call of Tile, the result
// of Tile is proved. Otherwise Tile may relay the tile, and no cache should keep it.
func (m *Mirror) Covers(t tlog.Tile) bool { return m.tiles.covers(t) }

// Metrics returns the collectors of the mirror, all with the label database.
func (m *Mirror) Metrics() []prometheus.Collector {
	return append(m.metrics.collectors(), gauges(m.finder)...)
}
