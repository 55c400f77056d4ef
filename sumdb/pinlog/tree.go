package pinlog

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// hashTree has the hashes of a log and the offsets of its entries. It only grows: a copy does not
// change when the original grows.
type hashTree struct {
	hashes  []tlog.Hash // by tlog.StoredHashIndex
	offsets []int64     // of the entries in their file, and of the end of the last one
}

func newHashTree() hashTree { return hashTree{offsets: []int64{0}} }

// size returns the number of entries.
func (t hashTree) size() int64 { return int64(len(t.offsets) - 1) }

// end returns where the next entry begins in the file.
func (t hashTree) end() int64 { return t.offsets[len(t.offsets)-1] }

// add appends an entry with the hash leaf and a frame of length bytes.
func (t *hashTree) add(leaf tlog.Hash, length int) error {
	hashes, err := tlog.StoredHashesForRecordHash(t.size(), leaf, t)
	if err != nil {
		return err
	}
	t.hashes = append(t.hashes, hashes...)
	t.offsets = append(t.offsets, t.end()+int64(length))
	return nil
}

// ReadHashes implements tlog.HashReader.
func (t hashTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index < 0 || index >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("no hash %d in a log of %d hashes", index, len(t.hashes))
		}
		hashes[i] = t.hashes[index]
	}
	return hashes, nil
}

// leaf returns the hash of entry id.
func (t hashTree) leaf(id int64) tlog.Hash { return t.hashes[tlog.StoredHashIndex(0, id)] }

// at returns the tree of the first size entries, which must exist.
func (t hashTree) at(size int64) (tlog.Tree, error) {
	hash, err := tlog.TreeHash(size, t)
	return tlog.Tree{N: size, Hash: hash}, err
}

// contains reports whether other is a prefix of t, or t itself.
func (t hashTree) contains(other tlog.Tree) bool {
	if other.N < 0 || other.N > t.size() {
		return false
	}
	ours, err := t.at(other.N)
	return err == nil && ours == other
}
