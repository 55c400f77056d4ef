package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// guards are all guards of a log: in its directory, outside of it, and in the store. Only the
// holder of the queue uses them.
type guards struct {
	at      location
	key     string    // verifier key of the log
	written tlog.Tree // in all guards, when they were last written or read
}

// write writes to all guards that the log is about to sign tree. entries is the file with its
// entries; pins are those of the entries whose dependents it stores, if it can.
func (g *guards) write(tree tlog.Tree, entries *os.File, pins []*pin) error {
	if err := g.writeInside(tree, entries); err != nil {
		return err
	}
	outside := guard{key: g.key, tree: tree}
	if g.at.guard != "" {
		if err := durable.Replace(g.at.guard, outside.encode(), 0o600); err != nil {
			return err
		}
	}
	if g.at.store != nil {
		if err := g.writeInStore(outside.encode(), pins); err != nil {
			return err
		}
	}
	g.written = tree
	return nil
}

// writeInStore writes value, a guard, to the store, and the dependents of pins after it: their entries
// are on disk, so a crash leaves no object without its entry. What does not fit into the batch, or is
// refused with it, is left to the callers of Pin; it does not stop the guard.
func (g *guards) writeInStore(value []byte, pins []*pin) error {
	// Several callers share the append, so it does not end with the context of one of them.
	ctx := context.Background()
	old, err := g.at.store.State(ctx, storeGuard)
	if batch, of := batchOf(pins); len(of) > 0 && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		batch.Swap = &storage.Swap{Name: storeGuard, Old: old, New: value}
		err := g.at.store.Apply(ctx, batch)
		for _, p := range of {
			p.kept = err == nil
			p.with.noteStored()
		}
		if err == nil {
			return nil
		}
	}
	return g.at.store.SetState(ctx, storeGuard, value)
}

// batchOf returns the dependents of the first ones of pins that one batch has room for, to be stored
// after a swap.
func batchOf(pins []*pin) (batch storage.Batch, of []*pin) {
	batch.SwapFirst = true
	size := 0
	for _, p := range pins {
		if size+p.with.size() > storage.MaxBatch || !p.with.permitted() {
			continue
		}
		size += p.with.size()
		batch.Create = append(batch.Create, p.with.Objects...)
		of = append(of, p)
	}
	return batch, of
}

// writeInside writes the guard in the directory.
func (g *guards) writeInside(tree tlog.Tree, entries *os.File) error {
	file, err := identify(entries)
	if err != nil {
		return err
	}
	return writeGuardFile(g.at.dir, guard{key: g.key, tree: tree, inside: true, file: file})
}

// errNotAlone means that something other than this process wrote to the files of the log.
var errNotAlone = errors.New("another process uses the files")

// check checks that the guards are as this process left them; entries is the tree in memory. The
// error is errNotAlone if they are not.
func (g *guards) check(entries hashTree) error {
	if err := g.checkInside(entries); err != nil || g.at.guard == "" {
		return err
	}
	return g.checkOutside(entries)
}

// checkInside checks that the newest guard in the directory is the last one that this process
// wrote.
func (g *guards) checkInside(entries hashTree) error {
	files, err := readGuards(g.at.dir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%w: its guard in %s is gone", errNotAlone, g.at.dir)
	}
	for _, file := range files {
		if file.err != nil && !errors.Is(file.err, sumdb.ErrInvalid) {
			return fmt.Errorf("guard: %w", diskError(file.err))
		}
	}
	newest := files[len(files)-1]
	if newest.err != nil {
		return fmt.Errorf("%w: another program changed the guard %s: %w", errNotAlone, newest.path, newest.err)
	}
	if why := newest.copied(identity{}); why != "" {
		return fmt.Errorf("%w: %s was replaced: %s", errNotAlone, g.at.dir, why)
	}
	return g.checkGuard(newest.path, newest.guard, entries)
}

// checkOutside is checkInside for the guard outside. A missing one is written with the next tree.
func (g *guards) checkOutside(entries hashTree) error {
	text, err := os.ReadFile(g.at.guard)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guard: %w", diskError(err))
	}
	found, err := decodeGuard(text)
	if err != nil {
		return fmt.Errorf("%w: another program changed the guard %s: %w", errNotAlone, g.at.guard, err)
	}
	return g.checkGuard(g.at.guard, found, entries)
}

// checkGuard checks that found, which is at path, belongs to this log and is not older than the
// last guard that this process wrote.
func (g *guards) checkGuard(path string, found guard, entries hashTree) error {
	var why string
	switch {
	case found.key != g.key:
		why = fmt.Sprintf("it is that of the log with the key %s", found.key)
	case !entries.contains(found.tree):
		why = fmt.Sprintf("it is of another process, with a tree of %d entries that is not of the %d entries here", found.tree.N, entries.size())
	case found.tree.N < g.written.N:
		why = fmt.Sprintf("it has the tree of %d entries, this process left it with %d: an older copy was put back", found.tree.N, g.written.N)
	default:
		return nil
	}
	return fmt.Errorf("%w: another program changed the guard %s: %s", errNotAlone, path, why)
}
