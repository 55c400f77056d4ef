package pinlog

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// indexKey is a module version in the index: a part of a SHA-256 that nobody finds
// a second text for, and smaller than the text.
type indexKey [16]byte

func keyOf(mod module.Version) (key indexKey) {
	sum := sha256.Sum256([]byte(mod.Path + "@" + mod.Version))
	copy(key[:], sum[:])
	return key
}

// claim is a tree that a file of the log says the log has.
type claim struct {
	file   string
	tree   tlog.Tree
	signed bool   // else it is only a guard's
	note   []byte // if it is signed
}

// disk is all that the files of a log say, and what is wrong with it. Reading
// changes nothing.
type disk struct {
	claims  []claim
	tree    hashTree
	index   map[indexKey]int64
	tail    error // why the file of entries does not end with the last entry; nil if it does
	foreign error // a guard is that of another log
	unread  error // a guard is there and cannot be read
	damage  []error

	newest  *mark     // the guard in the directory that has the largest tree
	marks   int       // guards there
	misname int64     // the largest size in the name of a guard whose text says something else
	touched bool      // entries changed after that guard was written
	pinned  []pinned  // versions in the store, if nothing there says how large the log was
	missing error     // some of them are not in the log
	began   time.Time // of the first entry

	unverified error // something that should be a signed head and is none of our key

	headsSize int64 // of the file of heads, up to the end of the last whole one
	settled   bool  // guards and heads are about the whole of tree: nothing is left to sign
}

// diskReader reads the files of a log.
type diskReader struct {
	dir, guard string        // guard may be ""
	store      storage.Store // may be nil
	key        string
	verifier   note.Verifier
	all        bool // verify all heads, not the newest ones only
}

// read reads everything. What claims something is read before the entries: a
// process that appends meanwhile writes in the other order.
func (r diskReader) read(ctx context.Context) (*disk, error) {
	d := &disk{tree: newHashTree(), index: make(map[indexKey]int64)}
	f, err := os.Open(filepath.Join(r.dir, "entries"))
	if errors.Is(err, fs.ErrNotExist) {
		// They were made before the key, so there is a log, which has lost them.
		return nil, frozen("there is a key but no %s, all entries of the log are lost: put back a copy of them, then adopt it; "+
			"if there is none, begin a new log under a new name in an empty directory", filepath.Join(r.dir, "entries"))
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, err := identify(f)
	if err != nil {
		return nil, err
	}
	if err := r.readMarks(d, file); err != nil {
		return nil, err
	}
	if r.guard != "" {
		r.readGuard(d, r.guard)
	}
	err = errors.Join(r.readSigned(ctx, d), r.readStore(ctx, d))
	if err == nil {
		err = r.readEntries(ctx, d, f)
	}
	if err != nil {
		return nil, err
	}
	d.touched = d.touched && d.tail == nil && d.newest.size == d.tree.size() // else it was our own append
	d.judge()
	d.judgePinned()
	r.judgeHistory(d)
	return d, r.settle(d)
}

// judgeHistory adds to the damage that heads are gone which must have been there:
// each was in the history before it was the newest, and the empty log has one
// before the first entry is guarded.
func (r diskReader) judgeHistory(d *disk) {
	end := make(map[string]int64) // by file: the largest tree, -1 if there is none
	for _, name := range []string{"heads", "head"} {
		end[name] = -1
		for _, c := range d.claims {
			if c.file == filepath.Join(r.dir, name) {
				end[name] = max(end[name], c.tree.N)
			}
		}
	}
	if end["heads"] < end["head"] || end["heads"] < 0 && d.newest != nil && d.newest.size > 0 {
		d.damaged("%s has lost heads: it ends before the newest one", filepath.Join(r.dir, "heads"))
	}
}

// settle finds out whether all files say the same.
func (r diskReader) settle(d *disk) error {
	whole, err := d.tree.at(d.tree.size())
	files := make(map[string]bool)
	for _, c := range d.claims {
		if c.tree == whole {
			files[filepath.Clean(c.file)] = true
		}
	}
	d.settled = files[filepath.Join(r.dir, "head")] && files[filepath.Join(r.dir, "heads")] &&
		d.marks == 1 && d.newest.guard.inside && files[d.newest.path] && !d.touched &&
		(r.guard == "" || files[filepath.Clean(r.guard)]) && (r.store == nil || files[storeFile])
	return err
}

// readMarks adds what the guards in the directory say. entries is the file of entries.
// Only the newest guard must be in its own file and beside its own entries: an older one
// may be left from a crash, or come from a backup that holds nothing else which is older.
func (r diskReader) readMarks(d *disk, entries identity) error {
	marks, err := readMarks(r.dir)
	if err != nil {
		return err
	}
	if d.marks = len(marks); d.marks == 0 {
		d.damaged("the guard %s is gone, or was never there", filepath.Join(r.dir, guardPrefix+"SIZE"))
		return nil
	}
	for _, m := range marks {
		if errors.Is(m.err, sumdb.ErrInvalid) {
			d.misname = max(d.misname, m.size)
		}
		r.addGuard(d, m.path, m.guard, m.err)
	}
	d.newest = &marks[len(marks)-1]
	if d.newest.err != nil {
		return nil
	}
	if why := d.newest.copied(entries); why != "" {
		d.damaged("%s is a copy: %s", filepath.Join(r.dir, "entries"), why)
	}
	d.touched = d.newest.touched(entries)
	return nil
}

// readGuard adds what the guard outside, at path, says.
func (r diskReader) readGuard(d *disk, path string) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		d.damaged("the guard %s is gone, or was never there", path)
		return
	}
	var g guard
	if err == nil {
		g, err = decodeGuard(text)
	}
	r.addGuard(d, path, g, err)
}

// addGuard adds g, which was found at path, or err instead.
func (r diskReader) addGuard(d *disk, path string, g guard, err error) {
	switch {
	case errors.Is(err, sumdb.ErrInvalid):
		d.damaged("%s: %w", path, err)
	case err != nil:
		d.unread = fmt.Errorf("the guard cannot be read: %w", err)
		d.damage = append(d.damage, d.unread)
	case g.key != r.key:
		d.foreign = fmt.Errorf("the guard %s is that of the log with the key %s", path, g.key)
		d.damage = append(d.damage, d.foreign)
	default:
		d.claims = append(d.claims, claim{file: path, tree: g.tree})
	}
}

func (d *disk) damaged(format string, args ...any) {
	d.damage = append(d.damage, fmt.Errorf(format, args...))
}

// noHead adds that something in the file at path is no head. One is enough to
// know of.
func (d *disk) noHead(path string, why error) {
	if d.unverified == nil {
		d.damaged("%s: %w", path, why)
		d.unverified = d.damage[len(d.damage)-1]
	}
}

// readSigned adds what was signed: the head, the heads before it, and those that
// made the log freeze.
func (r diskReader) readSigned(ctx context.Context, d *disk) error {
	path := filepath.Join(r.dir, "head")
	head, err := os.ReadFile(path)
	if err == nil {
		r.addSigned(d, path, head)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}

	path = filepath.Join(r.dir, "heads")
	heads, damaged, size, err := readHeads(path, r.all)
	if err != nil {
		return err
	}
	if !r.all && len(heads) > 0 {
		heads = heads[len(heads)-1:]
	}
	d.headsSize = size
	if err := r.addAll(ctx, d, path, heads, damaged); err != nil {
		return err
	}

	path = filepath.Join(r.dir, "frozen")
	heads, damaged, _, err = readHeads(path, true)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		d.damaged("%s says that a signed head was seen which is not of this log", path)
	}
	return r.addAll(ctx, d, path, heads, damaged)
}

func (r diskReader) addAll(ctx context.Context, d *disk, path string, heads, damaged [][]byte) error {
	for _, head := range heads {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.addSigned(d, path, head)
	}
	if len(damaged) > 0 {
		d.noHead(path, fmt.Errorf("%d parts of it are no head", len(damaged)))
	}
	return nil
}

func (r diskReader) addSigned(d *disk, path string, msg []byte) {
	head, err := openHead(msg, r.verifier)
	if err != nil {
		d.noHead(path, fmt.Errorf("does not verify with the key of the log: %w", err))
		return
	}
	d.claims = append(d.claims, claim{path, head.tree, true, head.note})
}

// readEntries adds the whole entries of f up to the first that is not one.
func (r diskReader) readEntries(ctx context.Context, d *disk, f *os.File) error {
	in := bufio.NewReaderSize(f, 256<<10)
	for {
		if d.tree.size()%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		text, err := readFrame(in)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = d.addEntry(text)
		}
		if errors.Is(err, sumdb.ErrInvalid) {
			d.tail = fmt.Errorf("%s: entry %d at byte %d: %w", f.Name(), d.tree.size(), d.tree.end(), err)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *disk) addEntry(text []byte) error {
	e, err := decodeEntry(text)
	if err != nil {
		return err
	}
	key := keyOf(e.Module)
	if e.ID != d.tree.size() {
		return fmt.Errorf("%w: it has the number %d", sumdb.ErrInvalid, e.ID)
	}
	if first, ok := d.index[key]; ok {
		return fmt.Errorf("%w: %s is entry %d already", sumdb.ErrInvalid, e.Module, first)
	}
	if err := d.tree.add(e.leaf(), frameHeader+len(text)); err != nil {
		return err
	}
	d.index[key] = e.ID
	if e.ID == 0 {
		d.began = e.Time
	}
	return nil
}

// judge adds to the damage what the entries do not bear out: of each file the
// largest tree.
func (d *disk) judge() {
	largest := make(map[string]claim)
	short := false
	for _, c := range d.claims {
		if d.tree.contains(c.tree) {
			continue
		}
		short = short || c.tree.N > d.tree.size()
		if c.tree.N >= largest[c.file].tree.N {
			largest[c.file] = c
		}
	}
	for _, file := range slices.Sorted(maps.Keys(largest)) {
		if c := largest[file]; c.tree.N > d.tree.size() {
			d.damaged("%s has the tree of %d entries, but there are only %d", file, c.tree.N, d.tree.size())
		} else {
			d.damaged("%s has another tree of %d entries than the entries make", file, c.tree.N)
		}
	}
	if short && d.tail != nil {
		d.damage = append(d.damage, d.tail)
	}
}

// lost says which trace of the log the entries do not bear out, nil if none: a signed
// head, a guard, a version in the store.
func (d *disk) lost() error {
	if d.misname > d.tree.size() {
		return fmt.Errorf("a guard with %d in its name was beside them, which is more than the %d entries here", d.misname, d.tree.size())
	}
	if d.missing != nil {
		return d.missing
	}
	for _, c := range d.claims {
		if d.tree.contains(c.tree) {
			continue
		}
		if c.signed {
			return fmt.Errorf("%s has a signed head of %d entries that is not of the %d entries here", c.file, c.tree.N, d.tree.size())
		}
		if c.file == storeFile {
			return fmt.Errorf("the store remembers a tree of %d entries that is not of the %d entries here", c.tree.N, d.tree.size())
		}
		return fmt.Errorf("the guard %s has a tree of %d entries that is not of the %d entries here "+
			"(should you know that it was never signed, move that file away)", c.file, c.tree.N, d.tree.size())
	}
	return nil
}

// newestHead is the largest signed head that the entries contain, nil if there is
// none.
func (d *disk) newestHead() *signedHead {
	var newest *signedHead
	for _, c := range d.claims {
		if c.signed && d.tree.contains(c.tree) && (newest == nil || c.tree.N > newest.tree.N) {
			newest = &signedHead{c.tree, bytes.Clone(c.note)}
		}
	}
	return newest
}
