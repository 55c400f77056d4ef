package sumdb

import (
	"fmt"

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
