package content

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// facts are the facts about repositories, which access rules need.
//
// Another replica may note a fact, pin a version and store it. Facts are noted before their version is pinned,
// and entries of the own log are in order: whatever shows a version of the log's first n entries knows enough
// if its facts were read after the log had n entries. Answers have no entry, so they say which facts there were.
// So what this replica has served before needs no request, and neither does anything while no replica pins.
type facts struct {
	table  *bindings.Table
	own    *pinlog.Log // nil: there is none
	shared bool
	log    *slog.Logger

	begun atomic.Int64 // reads that have begun

	mu      sync.Mutex // held over I/O
	covered int64      // the facts about so many entries of the own log are known
	err     error      // of the last read
}

// newFacts reads the facts about repositories, and adds those that only the own log
// has.
func newFacts(ctx context.Context, c Config) (*facts, error) {
	f := &facts{own: c.Log, shared: c.News.Shared(), log: c.Logger}
	f.covered = f.entries() // before the facts are read
	var err error
	if f.table, err = bindings.Load(ctx, c.Store, c.News); err != nil || c.Log == nil || c.Log.Size() == f.table.Log() {
		return f, err
	}
	known := f.table.Log()
	if c.Log.Size() < known {
		known = 0 // the log is another one, or an older state of it
	}
	err = f.table.Learn(ctx, factsOf(c.Log, known), c.Log.Size())
	if errors.Is(err, storage.ErrReadOnly) {
		err = nil // they are known as long as we run
	}
	return f, err
}

// entries returns the number of entries of the own log.
func (f *facts) entries() int64 {
	if f.own == nil {
		return 0
	}
	return f.own.Size()
}

// cover makes sure that the facts about all versions that the own log shows now are known.
func (f *facts) cover(ctx context.Context) error {
	if !f.shared {
		return nil
	}
	entries := f.entries()
	f.mu.Lock()
	defer f.mu.Unlock()
	if entries <= f.covered {
		return nil
	}
	return f.read(ctx)
}

// renew makes sure that all facts are known that any replica noted before the call. Callers share a read that
// begins after their calls.
func (f *facts) renew(ctx context.Context) error {
	if !f.shared {
		return nil
	}
	begun := f.begun.Load()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun.Load() > begun && f.err == nil {
		return nil
	}
	return f.read(ctx)
}

// read reads what other replicas have noted. The caller holds mu.
func (f *facts) read(ctx context.Context) error {
	f.begun.Add(1)
	entries := f.entries() // first: more may be pinned meanwhile
	if f.err = f.table.Refresh(ctx); f.err != nil {
		return fmt.Errorf("what protects a private module is not known: %w", f.err)
	}
	f.covered = max(f.covered, entries)
	return nil
}

// generation returns that of the facts, for an answer that other replicas read; 0 if there are none.
func (f *facts) generation() int64 {
	if !f.shared {
		return 0
	}
	return f.table.Generation()
}

// save notes that the facts cover the whole own log, so that the next start need
// not read it.
func (f *facts) save(ctx context.Context) {
	if f.own == nil {
		return
	}
	err := f.table.Learn(ctx, func(func(bindings.Fact, error) bool) {}, f.own.Size())
	if err != nil && !errors.Is(err, storage.ErrReadOnly) {
		f.log.Warn("the next start must read the whole private checksum log", "err", err)
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
