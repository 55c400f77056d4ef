// Package bindings remembers which repositories modules were read from, under which
// module paths, and whether a credential was needed. With it an access rule about a
// module path protects the repository behind it, under every other path.
//
// The facts are states of the store, so that they are backed up, restored and replaced
// together with the objects that they describe. All of them are in memory too: a look-up
// takes no I/O. Several replicas can share them, see Table.Refresh.
package bindings

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
)

// Table has all facts. Its methods may be called concurrently.
type Table struct {
	states states
	board  *news.Board

	writing sync.Mutex      // held over I/O
	told    map[string]bool // each LimitError.Of that was returned; the limits keep it small

	mu       sync.RWMutex
	changing map[int]bool      // shards that have changed, or may have, and of which the index and other replicas may not know yet
	facts    map[string][]Fact // by repository
	modules  map[moduleKey][]Fact
	log      int64         // see Log
	known    map[int]int64 // the generation up to which the facts of each shard are in memory
	complete int64         // the generation up to which all facts are in memory
}

type moduleKey struct {
	path   string
	public bool
}

// maxDeclared is how many paths declared by the go.mod files of a repository are
// kept: anyone with write access to it chooses them.
const maxDeclared = 100

// kind is the kind of the news about changed shards.
const kind = "bindings"

// Load reads the table from the store. The error is ErrLost if some of it is missing or
// damaged. A store without a table has an empty one, whose Log is 0. The table follows the news on the
// board, where it posts what it changes.
func Load(ctx context.Context, store storage.Store, board *news.Board) (*Table, error) {
	t := &Table{
		states: states{store, !board.Shared()}, board: board, told: map[string]bool{}, changing: map[int]bool{},
		facts: map[string][]Fact{}, modules: map[moduleKey][]Fact{}, known: map[int]int64{},
	}
	i, err := t.states.index(ctx)
	if err != nil {
		return nil, err
	}
	t.log = i.Log
	for n := range shards {
		if err := t.loadShard(ctx, n, i); err != nil {
			return nil, err
		}
	}
	t.complete = i.newest()
	board.Subscribe(kind, func(ctx context.Context, _ news.Changes) error { return t.Refresh(ctx) })
	return t, nil
}

// loadShard takes over the facts of a shard, after the index was read.
func (t *Table) loadShard(ctx context.Context, n int, i index) error {
	facts, err := t.states.shard(ctx, n, i.Counts[n])
	if err != nil {
		return err
	}
	t.take(facts)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[n] = i.Changed[n]
	return nil
}

// Refresh takes over what other replicas have noted. If that is nothing, it costs one request. The error
// is ErrLost if some of it is missing or damaged. Facts in memory stay, whatever is in the store. Without
// other replicas it does nothing.
func (t *Table) Refresh(ctx context.Context) error {
	if t.states.alone {
		return nil
	}
	i, err := t.states.index(ctx)
	if err != nil {
		return err
	}
	for n, generation := range i.Changed {
		t.mu.RLock()
		known := t.known[n] == generation
		t.mu.RUnlock()
		if known {
			continue
		}
		if err := t.loadShard(ctx, n, i); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.complete = max(t.complete, i.newest())
	return nil
}

// Generation returns a number that grows with the facts: a table whose Knows reports true for it has all
// facts that this one has now. Without other replicas it means nothing.
func (t *Table) Generation() (newest int64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, generation := range t.known {
		newest = max(newest, generation)
	}
	return newest
}

// Knows reports whether the table has all facts that another one had when that was its Generation. It is
// always true without other replicas.
func (t *Table) Knows(generation int64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.states.alone || generation <= t.complete
}

// Log returns how many entries of the own log the facts cover.
func (t *Table) Log() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.log
}

// Learn notes facts from the own log, whose current size is log. The table does not have
// them after an older version of the program ran, after a crash, or if the store is older
// than the log.
func (t *Table) Learn(ctx context.Context, facts iter.Seq2[Fact, error], log int64) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	dirty := map[int]bool{}
	for f, err := range facts {
		if err != nil {
			return err
		}
		if t.adds(f) {
			t.add(f)
			dirty[shardOf(f.Repository)] = true
		}
	}
	if len(dirty) == 0 && (log == t.Log() || log < t.Log() && !t.states.alone) {
		return nil
	}
	for n := range dirty {
		if err := t.writeShard(ctx, n, nil); err != nil {
			return err
		}
	}
	return t.writeIndex(ctx, func(known int64) int64 {
		if t.states.alone {
			return log
		}
		return max(known, log)
	})
}

// Note notes a fact. The fact is durable and visible when Note returns nil, and other replicas are told of
// it. Noting a known fact costs no I/O. The error is a *LimitError if there are too many facts
// already.
func (t *Table) Note(ctx context.Context, f Fact) error {
	if t.noted(f) {
		return nil
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.noted(f) {
		return nil
	}
	if t.adds(f) {
		if err := t.writeShard(ctx, shardOf(f.Repository), &f); err != nil {
			return err
		}
	}
	return t.writeIndex(ctx, func(known int64) int64 {
		if t.states.alone {
			return t.Log()
		}
		return known
	})
}

// noted reports whether nothing must be done to note f. A fact that is in memory is not noted as long as the
// index does not say so: another replica would not see it.
func (t *Table) noted(f Fact) bool {
	if t.adds(f) {
		return false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.states.alone || !t.changing[shardOf(f.Repository)]
}

// writeShard stores the facts of a shard that are in memory, and one more if it is not nil, and takes over
// those that other replicas have stored. The error is a *LimitError if the new one is one too many.
func (t *Table) writeShard(ctx context.Context, n int, added *Fact) error {
	t.mu.Lock()
	before := t.changing[n]
	t.changing[n] = true // before its facts are in memory, see noted
	t.mu.Unlock()
	var all []Fact
	err := t.states.changeShard(ctx, n, func(stored []Fact) ([]Fact, error) {
		all, _ = merge(t.shard(n), stored)
		if added == nil {
			return all, nil
		}
		if full := limit(all, *added); full != nil {
			full.First = !t.told[full.Of]
			t.told[full.Of] = true
			return nil, full
		}
		all = strongest(all, *added)
		return all, nil
	})
	if err == nil {
		t.take(all)
	}
	if full := new(LimitError); errors.As(err, &full) && !before { // nothing was stored
		t.mu.Lock()
		delete(t.changing, n)
		t.mu.Unlock()
	}
	return err
}

// writeIndex writes the index after shards have changed, and tells other replicas.
func (t *Table) writeIndex(ctx context.Context, log func(known int64) int64) error {
	t.mu.RLock()
	dirty := maps.Clone(t.changing)
	t.mu.RUnlock()
	counts := t.counts()
	old, now, err := t.states.changeIndex(ctx, func(i *index) {
		i.Log = log(i.Log)
		if t.states.alone {
			i.Counts = counts
			return
		}
		generation := i.next()
		for n := range dirty {
			i.Counts[n], i.Changed[n] = max(i.Counts[n], counts[n]), generation
		}
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.log = now.Log
	for n := range dirty {
		if t.known[n] == old.Changed[n] { // otherwise there is more in it than what was stored with ours
			t.known[n] = now.Changed[n]
		}
	}
	if maps.Equal(t.known, now.Changed) {
		t.complete = now.newest()
	}
	t.mu.Unlock()
	return t.tell(ctx, dirty)
}

// tell tells other replicas which shards have changed.
func (t *Table) tell(ctx context.Context, dirty map[int]bool) error {
	var events []news.Event
	for n := range dirty {
		events = append(events, news.Event{Kind: kind, Subject: shardName(n)})
	}
	if err := t.board.Post(ctx, events...); err != nil {
		return fmt.Errorf("note the repository of a module: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.changing) // the caller holds writing: nothing was added meanwhile
	return nil
}

// shard returns the facts of a shard.
func (t *Table) shard(n int) (all []Fact) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for repository, facts := range t.facts {
		if shardOf(repository) == n {
			all = append(all, facts...)
		}
	}
	return all
}

// counts returns how many facts each shard has.
func (t *Table) counts() map[int]int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	counts := map[int]int{}
	for repository, facts := range t.facts {
		counts[shardOf(repository)] += len(facts)
	}
	return counts
}

// adds reports whether f is new to the table.
func (t *Table) adds(f Fact) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	facts := t.facts[f.Repository]
	if slices.ContainsFunc(facts, f.same) {
		return f.changes(facts)
	}
	return f.How != Declared || countDeclared(facts) < maxDeclared
}

// take adds facts that are stored.
func (t *Table) take(facts []Fact) {
	of := map[string][]Fact{}
	for _, f := range facts {
		of[f.Repository] = append(of[f.Repository], f)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for repository, facts := range of {
		all, changed := merge(t.facts[repository], facts)
		if len(changed) > 0 {
			t.facts[repository] = all
		}
		for _, f := range changed {
			t.addModule(f)
		}
	}
}

func (t *Table) add(f Fact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.facts[f.Repository] = strongest(t.facts[f.Repository], f)
	t.addModule(f)
}

// addModule adds a fact about a module that was read. The caller holds mu.
func (t *Table) addModule(f Fact) {
	if f.How != Declared {
		key := moduleKey{f.Module, f.Public}
		t.modules[key] = strongest(t.modules[key], f)
	}
}

// Private returns the facts about a private module. The caller must not change them.
func (t *Table) Private(modulePath string) []Fact { return t.of(moduleKey{path: modulePath}) }

// Public returns the facts about a public module. The caller must not change them.
func (t *Table) Public(modulePath string) []Fact {
	return t.of(moduleKey{path: modulePath, public: true})
}

func (t *Table) of(key moduleKey) []Fact {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.modules[key]
}

// At returns the facts about a repository, declared paths included. Their number grows
// whenever a path is added. The caller must not change them.
func (t *Table) At(repository string) []Fact {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.facts[repository]
}

// AllPrivate yields the private modules that have facts.
func (t *Table) AllPrivate() iter.Seq[string] {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var all []string
	for key := range t.modules {
		if !key.public {
			all = append(all, key.path)
		}
	}
	return slices.Values(all)
}
