package sumdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// guard says which tree a log is about to sign. It is on disk before anything is
// signed, so a log that does not contain the tree of its guard has lost entries.
type guard struct {
	key  string // verifier key of the log
	tree tlog.Tree

	// file is the file of entries when the guard was written. A guard outside
	// the directory does not say: it outlives the disk of the log.
	file identity
}

const guardStart = "assay log guard"

// encode is the text of g, which a person can read.
func (g guard) encode() []byte {
	return fmt.Appendf(nil, "%s\nkey %s\nsize %d\nroot %s\nfile %d %d\n",
		guardStart, g.key, g.tree.N, g.tree.Hash, g.file.inode, g.file.born)
}

// decodeGuard is the inverse of encode. The error is ErrInvalid.
func decodeGuard(text []byte) (guard, error) {
	var g guard
	var root string
	_, err := fmt.Sscanf(string(text), guardStart+"\nkey %s\nsize %d\nroot %s\nfile %d %d\n",
		&g.key, &g.tree.N, &root, &g.file.inode, &g.file.born)
	if err == nil {
		g.tree.Hash, err = tlog.ParseHash(root)
	}
	if err != nil || string(g.encode()) != string(text) {
		return guard{}, fmt.Errorf("%w: not the text of a guard", ErrInvalid)
	}
	return g, nil
}

// checkAlone makes the log refuse if somebody else signs it, or replaced its files:
// if a guard has a tree that we have not, or entries are written where nobody finds
// them. A lock that does not hold, and a copy that somebody adopted while we run,
// are found out so before they fork the log. The turn is ours.
func (l *Log) checkAlone() error {
	ours, err := l.entries.Stat()
	if err != nil {
		return err
	}
	file, err := os.Stat(l.path("entries"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !os.SameFile(ours, file) {
		return l.refuse(l.refusal(fmt.Errorf("%s is another file than when it was opened", l.path("entries"))))
	}
	for _, path := range []string{l.path("guard"), l.config.Guard} {
		if path == "" {
			continue
		}
		if err := l.checkGuard(path); err != nil {
			return err
		}
	}
	return nil
}

// checkGuard is checkAlone for the guard at path. One that is gone is written with
// the next tree.
func (l *Log) checkGuard(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guard: %w", diskError(err))
	}
	g, err := decodeGuard(text)
	switch {
	case err == nil && g.key != l.key:
		err = fmt.Errorf("it is that of the log with the key %s", g.key)
	case err == nil && !l.tree.contains(g.tree):
		err = fmt.Errorf("it is of another process, with a tree of %d entries that is not of the %d entries here", g.tree.N, l.tree.size())
	case err == nil:
		return nil
	}
	return l.refuse(l.refusal(fmt.Errorf("the guard %s is not as it was left: %w", path, err)))
}
