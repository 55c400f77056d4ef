package pinlog

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
)

// claim is a tree that, according to a file of the log, the log has.
type claim struct {
	file   string // its path, or inStore
	tree   tlog.Tree
	signed bool   // false: only a guard claims it
	note   []byte // if it is signed
}

// against returns what the claim says that the bucket of a log contradicts, which has size entries.
func (c claim) against(size int64) error {
	if c.tree.N > size {
		return fmt.Errorf("%w: %s has the tree of %d entries, and the bucket has %d", errContradicts, c.file, c.tree.N, size)
	}
	return fmt.Errorf("%w: %s has another tree of %d entries than the bucket", errContradicts, c.file, c.tree.N)
}

// inStore replaces the path of a file in claims of the store.
const inStore = "the store"

// findings is everything that was found of a log, and all that is wrong with it.
type findings struct {
	claims  []claim
	entries foundEntries
	guards  foundGuards
	pinned  []pinned // versions in the store; only needed if the store has no size of the log

	damage     []error // why the log must not sign; contains the errors below
	foreign    error   // a guard belongs to another log
	unread     error   // a guard exists and cannot be read
	unverified error   // a file has an invalid head in place of one that our key signed
	missing    error   // some of pinned are not among the entries
	moved      error   // the log is in a bucket now

	headsEnd int64 // of the last whole head of the history
	complete bool  // guards and heads cover all entries: nothing is left to sign
}

// foundEntries is the content of the file of entries, up to the first entry that is not whole.
type foundEntries struct {
	index entryIndex
	torn  error     // why the bytes after them are not an entry; nil if there are none
	began time.Time // time of the first entry
}

// foundGuards is the content of the guards in the directory.
type foundGuards struct {
	count   int
	newest  *guardFile // nil if there is none
	changed bool       // the file of entries was changed after that guard was written
	named   int64      // the largest size in the name of a guard with another text
}

func newFindings() *findings {
	return &findings{entries: foundEntries{index: newEntryIndex()}}
}

func (f *findings) damaged(format string, args ...any) {
	f.damage = append(f.damage, fmt.Errorf(format, args...))
}

// noHead adds the error that something in the file at path is not a head. Only the first one is
// kept.
func (f *findings) noHead(path string, why error) {
	if f.unverified == nil {
		f.unverified = fmt.Errorf("%s: %w", path, why)
		f.damage = append(f.damage, f.unverified)
	}
}

// add appends the entry with the given text. The error is sumdb.ErrInvalid if it is not the next
// entry of a log.
func (f *foundEntries) add(text []byte) error {
	e, err := decodeEntry(text)
	if err != nil {
		return err
	}
	if e.ID != f.index.tree.size() {
		return fmt.Errorf("%w: it has the number %d", sumdb.ErrInvalid, e.ID)
	}
	if first, ok := f.index.find(e.Module); ok {
		return fmt.Errorf("%w: %s is entry %d already", sumdb.ErrInvalid, e.Module, first)
	}
	if e.ID == 0 {
		f.began = e.Time
	}
	return f.index.add(e, frameHeader+len(text))
}

// judge adds all claims that the entries contradict to the damage: of each file the largest tree,
// and the versions that the entries do not have.
func (f *findings) judge() {
	tree := f.entries.index.tree
	largest := make(map[string]claim)
	short := false
	for _, c := range f.claims {
		if tree.contains(c.tree) {
			continue
		}
		short = short || c.tree.N > tree.size()
		if c.tree.N >= largest[c.file].tree.N {
			largest[c.file] = c
		}
	}
	for _, file := range slices.Sorted(maps.Keys(largest)) {
		if c := largest[file]; c.tree.N > tree.size() {
			f.damaged("%s has the tree of %d entries, but there are only %d", file, c.tree.N, tree.size())
		} else {
			f.damaged("%s has another tree of %d entries than the entries make", file, c.tree.N)
		}
	}
	if short && f.entries.torn != nil {
		f.damage = append(f.damage, f.entries.torn)
	}
	f.judgePinned()
}

// judgePinned counts the versions in the store that the log must have pinned and does not have.
// Versions that were stored before the first entry of this log were pinned in an older log of the
// same name.
func (f *findings) judgePinned() {
	missing := make(map[module.Version]bool)
	for _, p := range f.pinned {
		_, ok := f.entries.index.find(p.mod)
		if !ok && (f.entries.index.tree.size() == 0 || !p.time.Before(f.entries.began.Truncate(time.Second))) {
			missing[p.mod] = true
		}
	}
	if len(missing) > 0 {
		f.missing = fmt.Errorf("the store has %d versions that this log pinned, but the log does not have them", len(missing))
		f.damage = append(f.damage, f.missing)
	}
}

// lost returns an error for the first trace of the log that its entries contradict: a signed head,
// a guard, or a version in the store. It returns nil if there is none.
func (f *findings) lost() error {
	tree := f.entries.index.tree
	if f.guards.named > tree.size() {
		return fmt.Errorf("a guard with %d in its name was beside them, more than the %d entries here", f.guards.named, tree.size())
	}
	if f.missing != nil {
		return f.missing
	}
	for _, c := range f.claims {
		if tree.contains(c.tree) {
			continue
		}
		if c.signed {
			return fmt.Errorf("%s has a signed head of %d entries that is not of the %d entries here", c.file, c.tree.N, tree.size())
		}
		if c.file == inStore {
			return fmt.Errorf("the store records a tree of %d entries that does not fit the %d entries here", c.tree.N, tree.size())
		}
		return fmt.Errorf("the guard %s has a tree of %d entries that does not fit the %d entries here "+
			"(should you know that it was never signed, move that file away)", c.file, c.tree.N, tree.size())
	}
	return nil
}

// mayAdopt returns an error if the entries of the log called name must not be continued. seen means
// that the administrator has given a head that a client has seen.
func (f *findings) mayAdopt(name string, seen bool) error {
	if f.moved != nil {
		return frozen("the log %s stays as it is: %w; it goes on there, and assay log move --back brings it back", name, f.moved)
	}
	if f.foreign != nil {
		return frozen("the log %s stays as it is: %w; name another file, or put the right key back", name, f.foreign)
	}
	if f.unread != nil {
		return frozen("the log %s stays as it is: %w; make it readable, since it may contradict what is here", name, f.unread)
	}
	if err := f.lost(); err != nil {
		return frozen("the log %s stays as it is: %w; to sign on would contradict it. "+
			"Put back a copy of the log that has it, or begin a new log under a new name", name, err)
	}
	if f.unverified != nil && !seen {
		return frozen("the log %s stays as it is: %w; with a head of the log that a client has seen it can be adopted nevertheless", name, f.unverified)
	}
	return nil
}

// newestHead returns the largest signed head that the entries contain, nil if there is none.
func (f *findings) newestHead() *signedHead {
	var newest *signedHead
	for _, c := range f.claims {
		if c.signed && f.entries.index.tree.contains(c.tree) && (newest == nil || c.tree.N > newest.tree.N) {
			newest = &signedHead{c.tree, bytes.Clone(c.note)}
		}
	}
	return newest
}

// heads returns the signed heads in the file at path, one after another.
func (f *findings) heads(path string) []byte {
	var heads []byte
	for _, c := range f.claims {
		if c.signed && c.file == path {
			heads = append(heads, c.note...)
		}
	}
	return heads
}
