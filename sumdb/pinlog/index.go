package pinlog

import (
	"crypto/sha256"

	"golang.org/x/mod/module"
)

// entryMemory is the memory of one entry: two hashes, an offset, and its place in the index.
const entryMemory = 120

// indexKey is the key of a module version: half of a SHA-256, which is smaller than the text and
// still has no collisions.
type indexKey [16]byte

func keyOf(mod module.Version) (key indexKey) {
	sum := sha256.Sum256([]byte(mod.Path + "@" + mod.Version))
	copy(key[:], sum[:])
	return key
}

// entryIndex is the part of the entries of a log that is in memory: their hashes, their offsets,
// and the number of each by its version.
type entryIndex struct {
	tree hashTree
	ids  map[indexKey]int64
}

func newEntryIndex() entryIndex {
	return entryIndex{newHashTree(), make(map[indexKey]int64)}
}

// find returns the number of the entry of mod.
func (x entryIndex) find(mod module.Version) (id int64, ok bool) {
	id, ok = x.ids[keyOf(mod)]
	return id, ok
}

// add appends e, whose frame has length bytes.
func (x *entryIndex) add(e Entry, length int) error {
	if err := x.tree.add(e.leaf(), length); err != nil {
		return err
	}
	x.ids[keyOf(e.Module)] = e.ID
	return nil
}
