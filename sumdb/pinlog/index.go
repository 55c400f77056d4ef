package pinlog

import (
	"crypto/sha256"

	"golang.org/x/mod/module"
)

// entryMemory is what an entry takes in memory: two hashes, an offset, and its place in
// the index.
const entryMemory = 120

// indexKey stands for a module version: half of a SHA-256, which is smaller than the
// text and still without collisions.
type indexKey [16]byte

func keyOf(mod module.Version) (key indexKey) {
	sum := sha256.Sum256([]byte(mod.Path + "@" + mod.Version))
	copy(key[:], sum[:])
	return key
}

// entryIndex is what is in memory of the entries of a log: their hashes, their offsets,
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
