// Package bindings remembers which repositories modules were read from, under which
// module paths, and whether a credential was needed. With it an access rule about a
// module path protects the repository behind it, under every other path.
//
// The facts are states of the store, so that they are backed up, restored and replaced
// together with the objects that they describe. All of them are in memory too: a look-up
// takes no I/O.
package bindings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/assay-proxy/assay/storage"
)

// ErrLost says that stored facts cannot be read. Without them Assay would serve protected
// repositories to every client.
var ErrLost = errors.New("what this proxy knew about the repositories of its modules is lost; restore meta.db and blobs.db from a backup, or move both away and start with an empty store")

// How says how a repository was read under a module path.
type How uint8

const (
	// Unknown: read by a version of this program that did not note it.
	Unknown How = iota
	// Open: read without a credential.
	Open
	// Credential: read with a credential. It takes precedence over the others.
	Credential
	// Declared: not read under this path; a go.mod file in the repository declares the
	// path.
	Declared
)

// Fact states that a repository was read.
type Fact struct {
	Repository string // as vcs.CanonicalRepository returns it
	Module     string // path
	Public     bool   // the module was not private
	How        How
}

// Table has all facts. Its methods may be called concurrently.
type Table struct {
	store storage.Store

	writing sync.Mutex      // held over I/O
	told    map[string]bool // each LimitError.Of that was returned; the limits keep it small

	mu      sync.RWMutex
	facts   map[string][]Fact // by repository
	modules map[moduleKey][]Fact
	index   index
}

type moduleKey struct {
	path   string
	public bool
}

// index is the state that says what the other states must have. It is written after
// them, so they may have more than it says, never less.
type index struct {
	Log    int64       // entries of the own log that the facts cover
	Counts map[int]int // facts by shard; empty shards have no entry
}

const (
	// shards is how many states the facts are spread over, by repository: a changed
	// state is written as a whole, and a state has at most 16 MiB.
	shards = 64

	// maxDeclared is how many paths declared by the go.mod files of a repository are
	// kept: anyone with write access to it chooses them.
	maxDeclared = 100

	indexName = "bindings/index"
)

// Limits of Note, far above real numbers (the largest repositories have some hundreds of
// modules): the owner of a page chooses how many paths name a repository. Learn has no
// limits: a version in the own log was noted before, within them.
const (
	// maxPaths is how many paths one repository can have, private and public ones counted
	// apart. The paths of one host can take maxOfHost of them, so that a page leaves some
	// for the paths that the owner of the repository chose.
	maxPaths  = 4096
	maxOfHost = 1024

	// maxShare is how many bytes of a state the paths of one host can take: a sixteenth.
	maxShare = 1 << 20

	// maxName is the length of a path, and of a repository, in bytes.
	maxName = 300
)

// LimitError says that a fact was not noted because there are too many. Facts that were
// noted before stay, and other repositories are not affected.
type LimitError struct {
	Of    string // which limit was reached: that of a repository, a host, or a host and the first element of its paths
	Limit string // as text
	First bool   // since the start of the program
}

func (e *LimitError) Error() string { return e.Of + " has more than " + e.Limit }

func shardName(n int) string { return fmt.Sprintf("bindings/%02x", n) }

func shardOf(repository string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(repository)) // never fails
	return int(h.Sum32() % shards)
}

// Load reads the table from the store. The error is ErrLost if some of it is missing or
// damaged. A store without a table has an empty one, whose Log is 0.
func Load(ctx context.Context, store storage.Store) (*Table, error) {
	t := &Table{store: store, told: map[string]bool{}, facts: map[string][]Fact{}, modules: map[moduleKey][]Fact{}, index: index{Counts: map[int]int{}}}
	data, err := read(ctx, store, indexName)
	if err != nil {
		return nil, err
	}
	if data != nil {
		if err := json.Unmarshal(data, &t.index); err != nil || t.index.Counts == nil {
			return nil, fmt.Errorf("state %s: %w (%v)", indexName, ErrLost, err)
		}
	}
	for n := range shards {
		if err := t.loadShard(ctx, n); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Table) loadShard(ctx context.Context, n int) error {
	data, err := read(ctx, t.store, shardName(n))
	if err != nil {
		return err
	}
	facts, err := decode(data)
	if err == nil && len(facts) < t.index.Counts[n] {
		err = fmt.Errorf("it has %d facts of %d", len(facts), t.index.Counts[n])
	}
	if err != nil {
		return fmt.Errorf("state %s: %w (%v)", shardName(n), ErrLost, err)
	}
	for _, f := range facts {
		if shardOf(f.Repository) != n {
			return fmt.Errorf("state %s: %w (it is another one)", shardName(n), ErrLost)
		}
		t.add(f)
	}
	return nil
}

// read returns a state, nil if there is none.
func read(ctx context.Context, store storage.Store, name string) ([]byte, error) {
	data, err := store.State(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, storage.ErrDamaged):
		return nil, fmt.Errorf("state %s: %w (%v)", name, ErrLost, err)
	case err != nil:
		return nil, fmt.Errorf("state %s: %w", name, err)
	}
	return data, nil
}

// Log returns how many entries of the own log the facts cover.
func (t *Table) Log() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.index.Log
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
	if len(dirty) == 0 && log == t.Log() {
		return nil
	}
	for n := range dirty {
		if err := t.writeShard(ctx, n, t.shard(n)); err != nil {
			return err
		}
	}
	return t.writeIndex(ctx, log)
}

// Note notes a fact. The fact is durable and visible when Note returns nil. Noting a
// known fact costs no I/O. The error is a *LimitError if there are too many facts
// already.
func (t *Table) Note(ctx context.Context, f Fact) error {
	if !t.adds(f) {
		return nil
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	if !t.adds(f) {
		return nil
	}
	n := shardOf(f.Repository)
	all := t.shard(n)
	if full := limit(all, f); full != nil {
		full.First = !t.told[full.Of]
		t.told[full.Of] = true
		return full
	}
	if err := t.writeShard(ctx, n, merge(all, f)); err != nil {
		return err
	}
	t.add(f)
	return t.writeIndex(ctx, t.Log())
}

// limit returns an error if one more fact is too many for a shard. A fact that replaces
// another is never too many.
func limit(shard []Fact, f Fact) *LimitError {
	if len(f.Repository) > maxName || len(f.Module) > maxName {
		return &LimitError{Of: "a repository", Limit: fmt.Sprintf("%d bytes in its name, or in the path of a module", maxName)}
	}
	if f.How == Declared || slices.ContainsFunc(shard, f.same) {
		return nil
	}
	host, owner := hostOf(f), f.owner()
	paths, ofHost, size := 0, 0, f.size()
	for _, other := range shard {
		if other.How == Declared { // it counts for no host: its path may belong to another owner
			continue
		}
		if other.Repository == f.Repository && other.Public == f.Public {
			paths++
			if hostOf(other) == host {
				ofHost++
			}
		}
		if hostOf(other) == host && other.owner() == owner {
			size += other.size()
		}
	}
	switch {
	case paths >= maxPaths:
		return &LimitError{Of: f.Repository, Limit: fmt.Sprintf("%d module paths", maxPaths)}
	case ofHost >= maxOfHost:
		return &LimitError{Of: f.Repository, Limit: fmt.Sprintf("%d module paths at %s", maxOfHost, host)}
	case size > maxShare:
		return &LimitError{Of: owner, Limit: "its share of the module paths that are noted"}
	}
	return nil
}

// size returns about how many bytes of a state a fact takes.
func (f Fact) size() int {
	const words = len("private credential ")
	return words + len(f.Repository) + len(f.Module) + len("\"\" \"\"\n")
}

func hostOf(f Fact) string {
	host, _, _ := strings.Cut(f.Module, "/")
	return host
}

// owner returns the owner for whom the size of f is counted: the host of a page, or, if
// the repository is on the host of its module path, that host with the first path
// element, because a code host has many owners.
func (f Fact) owner() string {
	host := hostOf(f)
	if !strings.HasPrefix(f.Repository, host+"/") {
		return host
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(f.Module, host+"/"), "/")
	return host + "/" + first
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

func (t *Table) writeShard(ctx context.Context, n int, all []Fact) error {
	if err := t.store.SetState(ctx, shardName(n), encode(all)); err != nil {
		return fmt.Errorf("note the repository of a module: %w", err)
	}
	return nil
}

func (t *Table) writeIndex(ctx context.Context, log int64) error {
	next := index{Log: log, Counts: map[int]int{}}
	t.mu.RLock()
	for repository, facts := range t.facts {
		next.Counts[shardOf(repository)] += len(facts)
	}
	t.mu.RUnlock()
	data, err := json.Marshal(next)
	if err == nil {
		err = t.store.SetState(ctx, indexName, data)
	}
	if err != nil {
		return fmt.Errorf("note the repository of a module: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.index = next
	return nil
}

// adds reports whether f is new to the table.
func (t *Table) adds(f Fact) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	facts := t.facts[f.Repository]
	if i := slices.IndexFunc(facts, f.same); i >= 0 {
		return facts[i].How != Credential && f.How != Unknown && facts[i].How != f.How
	}
	return f.How != Declared || countDeclared(facts) < maxDeclared
}

func countDeclared(facts []Fact) (n int) {
	for _, f := range facts {
		if f.How == Declared {
			n++
		}
	}
	return n
}

// same reports whether two facts are about the same module in the same repository.
func (f Fact) same(other Fact) bool {
	f.How, other.How = f.How/Declared, other.How/Declared // a declared path is a different fact
	return f == other
}

// merge returns facts with f added; f replaces the fact about the same module and
// repository.
func merge(facts []Fact, f Fact) []Fact {
	if i := slices.IndexFunc(facts, f.same); i >= 0 {
		facts = slices.Clone(facts) // it is shared with readers
		facts[i] = f
		return facts
	}
	return append(slices.Clip(facts), f)
}

func (t *Table) add(f Fact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.facts[f.Repository] = merge(t.facts[f.Repository], f)
	if f.How != Declared {
		key := moduleKey{f.Module, f.Public}
		t.modules[key] = merge(t.modules[key], f)
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

// A shard consists of lines of four fields, the last two quoted as in Go:
//
//	private|public open|credential|unknown|declared "repository" "module"

var words = []string{Unknown: "unknown", Open: "open", Credential: "credential", Declared: "declared"}

func encode(facts []Fact) []byte {
	var b strings.Builder
	for _, f := range facts {
		reach := "private"
		if f.Public {
			reach = "public"
		}
		fmt.Fprintf(&b, "%s %s %q %q\n", reach, words[f.How], f.Repository, f.Module)
	}
	return []byte(b.String())
}

func decode(data []byte) ([]Fact, error) {
	var facts []Fact
	for line := range strings.Lines(string(data)) {
		var reach, how string
		var f Fact
		if _, err := fmt.Sscanf(line, "%s %s %q %q\n", &reach, &how, &f.Repository, &f.Module); err != nil {
			return nil, fmt.Errorf("%.100q is no fact: %w", line, err)
		}
		word := slices.Index(words, how)
		if f.Public = reach == "public"; word < 0 || !f.Public && reach != "private" {
			return nil, fmt.Errorf("%.100q is no fact", line)
		}
		f.How = How(word)
		facts = append(facts, f)
	}
	return facts, nil
}
