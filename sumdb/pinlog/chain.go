package pinlog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"

	"github.com/assay-proxy/assay/sumdb"
)

// tip is where the log ends, as this replica has read it.
type tip struct {
	next   int64             // the number of the next batch
	hash   [sha256.Size]byte // of the last batch
	closed bool              // by the last batch
	target string            // with closed: where the log goes on
	run    [][]byte          // the batches after the last whole run
	whole  [][]byte          // a whole run that may have no segment yet
}

// after returns the tip after b.
func (t tip) after(b sealed) tip {
	t.next, t.hash, t.closed, t.target = b.number+1, b.hash, b.closed, b.target
	t.run = append(t.run, b.object)
	if t.next%runLength == 0 {
		t.whole, t.run = t.run, nil
	}
	return t
}

// verifyAll returns an error unless our key signed the last of batches, and each names the one before it:
// so the signature covers all. The error is sumdb.ErrInvalid.
func verifyAll(batches []sealed, verifier note.Verifier) error {
	for i := len(batches) - 1; i > 0; i-- {
		if batches[i].previous != batches[i-1].hash {
			return fmt.Errorf("%w: batch %d does not name the one before it", sumdb.ErrInvalid, batches[i].number)
		}
	}
	return batches[len(batches)-1].verify(verifier)
}

// follow returns the tip after batches, and their entries. The error is sumdb.ErrInvalid if they are not the
// ones after at, where the entries of index end.
func follow(at tip, index entryIndex, batches []sealed) (end tip, fresh []Entry, err error) {
	tree := index.tree // a copy: the original does not grow
	seen := make(map[module.Version]bool)
	for _, b := range batches {
		entries, err := b.extend(at, &tree)
		if err != nil {
			return at, nil, err
		}
		for _, e := range entries {
			if first, known := index.find(e.Module); known || seen[e.Module] {
				return at, nil, fmt.Errorf("%w: batch %d has %s, which is entry %d already", sumdb.ErrInvalid, b.number, e.Module, first)
			}
			seen[e.Module] = true
		}
		fresh = append(fresh, entries...)
		at = at.after(b)
	}
	return at, fresh, nil
}

// extend adds the entries of b to tree, and returns them, if b is the batch after at.
func (b sealed) extend(at tip, tree *hashTree) ([]Entry, error) {
	if b.number != at.next || b.previous != at.hash {
		return nil, fmt.Errorf("%w: batch %d does not follow batch %d as it was read", sumdb.ErrInvalid, b.number, at.next-1)
	}
	if whole, err := tree.at(tree.size()); err != nil || whole != b.before {
		return nil, errors.Join(err, fmt.Errorf("%w: batch %d continues another tree of %d entries", sumdb.ErrInvalid, b.number, b.before.N))
	}
	entries, err := b.entries()
	if err != nil {
		return nil, fmt.Errorf("batch %d: %w", b.number, err)
	}
	for _, e := range entries {
		if err := tree.add(e.leaf(), 0); err != nil {
			return nil, err
		}
	}
	if whole, err := tree.at(tree.size()); err != nil || whole != b.after || b.closed && len(entries) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%w: batch %d has entries of another tree", sumdb.ErrInvalid, b.number))
	}
	return entries, nil
}

// nextBatch returns the batch after at, where the tree before ends, of which head is the signed head.
func nextBatch(at tip, before hashTree, head *signedHead, entries []Entry) (batch, error) {
	b := batch{number: at.next, time: time.Now().UTC().Truncate(time.Second), previous: at.hash}
	random := make([]byte, 16)
	rand.Read(random)
	b.writer = hex.EncodeToString(random)
	if head != nil {
		b.head = signatureLine(head)
	}
	var err error
	if b.before, err = before.at(before.size()); err != nil {
		return b, err
	}
	after := before // a copy: the original does not grow
	for _, e := range entries {
		frame := appendFrame(nil, e.encode())
		if err := after.add(e.leaf(), len(frame)); err != nil {
			return b, err
		}
		b.frames = append(b.frames, frame...)
	}
	b.after, err = after.at(after.size())
	return b, err
}
