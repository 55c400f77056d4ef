package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/sumdb"
)

// guards are all guards of a log: in its directory, outside of it, and in the store. The
// holder of the queue alone uses them.
type guards struct {
	at      location
	key     string    // verifier key of the log
	written tlog.Tree // in all of them, when they were last written or read
}

// write says in all guards that tree is about to be signed. entries is the file that
// has it.
func (g *guards) write(tree tlog.Tree, entries *os.File) error {
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
		// The append is shared, so it does not end with the context of one caller.
		if err := g.at.store.SetRecord(context.Background(), storeGuard, outside.encode()); err != nil {
			return err
		}
	}
	g.written = tree
	return nil
}

// writeInside writes the guard in the directory. Those of older trees are removed when
// it is durable, so that there is always one.
func (g *guards) writeInside(tree tlog.Tree, entries *os.File) error {
	file, err := identify(entries)
	if err != nil {
		return err
	}
	name := guardPrefix + strconv.FormatInt(tree.N, 10)
	err = durable.ReplaceWith(g.at.path(name), 0o600, func(f *os.File) ([]byte, error) {
		self, err := identify(f)
		return guard{key: g.key, tree: tree, inside: true, file: file, self: self}.encode(), err
	})
	if err != nil {
		return err
	}
	files, err := os.ReadDir(g.at.dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, ok := guardSize(strings.TrimSuffix(file.Name(), durable.NewSuffix)); !ok || file.Name() == name {
			continue
		}
		if err := os.Remove(g.at.path(file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// errNotAlone says that something else than this process wrote to the files of the log.
var errNotAlone = errors.New("another process uses the files")

// check looks whether the guards are as this process left them; entries is the tree
// that it has. The error is errNotAlone if they are not.
func (g *guards) check(entries hashTree) error {
	if err := g.checkInside(entries); err != nil || g.at.guard == "" {
		return err
	}
	return g.checkOutside(entries)
}

// checkInside looks whether the newest guard in the directory is the one that this
// process wrote last.
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

// checkOutside is checkInside for the guard outside. One that is gone is written with
// the next tree.
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

// checkGuard looks whether found, which is at path, is of this log and not older than
// what this process wrote.
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
