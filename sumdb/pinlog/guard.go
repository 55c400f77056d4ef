package pinlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/sumdb"
)

// guard says which tree a log is about to sign. It is on disk before anything is
// signed, so a log that does not contain the tree of its guard has lost entries.
type guard struct {
	key  string // verifier key of the log
	tree tlog.Tree

	// What follows is known to the guard in the directory of the log alone. The
	// guard outside and the record in the store outlive the disk of the log.
	inside bool
	file   identity // the file of entries when the guard was written
	self   identity // the file of the guard
}

const (
	guardStart  = "assay log guard"
	guardFormat = guardStart + "\nkey %s\nsize %d\nroot %s\nfile %d %d\n"

	// insideFormat follows in a guard in the directory. The guards of the first
	// version of this program did not have it.
	insideFormat = "changed %d\nself %d %d\n"
)

// encode is the text of g, which a person can read.
func (g guard) encode() []byte {
	text := fmt.Appendf(nil, guardFormat, g.key, g.tree.N, g.tree.Hash, g.file.inode, g.file.born)
	if g.inside {
		text = fmt.Appendf(text, insideFormat, g.file.changed, g.self.inode, g.self.born)
	}
	return text
}

// decodeGuard is the inverse of encode. The error is sumdb.ErrInvalid.
func decodeGuard(text []byte) (guard, error) {
	var g guard
	var root string
	format, fields := guardFormat, []any{&g.key, &g.tree.N, &root, &g.file.inode, &g.file.born}
	if g.inside = strings.Count(string(text), "\n") > strings.Count(format, "\n"); g.inside {
		format, fields = format+insideFormat, append(fields, &g.file.changed, &g.self.inode, &g.self.born)
	}
	_, err := fmt.Sscanf(string(text), format, fields...)
	if err == nil {
		g.tree.Hash, err = tlog.ParseHash(root)
	}
	if err != nil || string(g.encode()) != string(text) {
		return guard{}, fmt.Errorf("%w: not the text of a guard", sumdb.ErrInvalid)
	}
	return g, nil
}

// The guard in the directory of a log has the size of its tree in its name,
// guard-SIZE, and each tree has a new file: a backup that is copied over the
// directory brings an old name back and leaves the newest one where it is. A copy
// that also removes what the backup does not have writes the old guard into another
// file than the guard says that it is.
const (
	guardPrefix = "guard-"
	oldGuard    = "guard" // the name that the first version of this program gave it
)

// mark is a guard as it was found in the directory of a log.
type mark struct {
	path  string
	size  int64 // what the name says; for oldGuard what the text says
	guard guard
	self  identity // the file in which it was found
	err   error    // sumdb.ErrInvalid if the text is not that of a guard with this name
}

// markName returns the size in the name of a guard, -1 for oldGuard.
func markName(name string) (size int64, ok bool) {
	if name == oldGuard {
		return -1, true
	}
	digits, ok := strings.CutPrefix(name, guardPrefix)
	size, err := strconv.ParseInt(digits, 10, 64)
	return size, ok && err == nil && size >= 0 && digits == strconv.FormatInt(size, 10)
}

// readMarks returns the guards in dir, the newest last. There is more than one after
// a crash between two writes, or after a backup was copied over the directory. A
// process that appends may rename them meanwhile: then it looks again.
func readMarks(dir string) (marks []mark, err error) {
	for range 10 {
		if marks, err = listMarks(dir); err != nil {
			return nil, err
		}
		moved := func(m mark) bool { return errors.Is(m.err, fs.ErrNotExist) }
		if len(marks) > 0 && !slices.ContainsFunc(marks, moved) {
			break
		}
	}
	slices.SortStableFunc(marks, func(a, b mark) int { return cmp.Compare(a.size, b.size) })
	return marks, nil
}

// listMarks is one look of readMarks. os.ReadDir sorts, so oldGuard is before a guard
// of the same size.
func listMarks(dir string) (marks []mark, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if size, ok := markName(file.Name()); ok {
			marks = append(marks, readMark(filepath.Join(dir, file.Name()), size))
		}
	}
	return marks, nil
}

func readMark(path string, size int64) mark {
	m := mark{path: path, size: size}
	f, err := os.Open(path)
	if err != nil {
		m.err = err
		return m
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10)) // a guard has some 300 bytes
	if err == nil {
		m.self, err = identify(f)
	}
	if err == nil {
		m.guard, err = decodeGuard(text)
	}
	if err == nil && m.size < 0 {
		m.size = m.guard.tree.N
	}
	if err == nil && m.size != m.guard.tree.N {
		err = fmt.Errorf("%w: the text of the guard is about %d entries", sumdb.ErrInvalid, m.guard.tree.N)
	}
	m.err = err
	return m
}

// copied says how the directory of m shows that it is a copy, "" if it does not.
// entries is the file of entries.
func (m mark) copied(entries identity) string {
	switch {
	case m.guard.file.differs(entries):
		return "the guard beside it was written for another file"
	case m.guard.inside && m.guard.self.differs(m.self):
		return "the guard beside it is not in the file in which it was written"
	}
	return ""
}

// touched says whether something but this program changed the file of entries, or its
// owner, mode or links, after m was written. Without a change of owner or the like
// this may have been a copy, but only m.copied and a tree that is not there prove one.
func (m mark) touched(entries identity) bool {
	return m.guard.inside && m.guard.file.changed != 0 && entries.changed != 0 && m.guard.file.changed != entries.changed
}

// writeGuards says in all guards that tree is about to be signed. entries is the
// file that has it.
func (l *Log) writeGuards(tree tlog.Tree, entries *os.File) error {
	if err := l.writeMark(tree, entries); err != nil {
		return err
	}
	outer := guard{key: l.key, tree: tree}
	if l.config.Guard != "" {
		if err := durable.Replace(l.config.Guard, outer.encode(), 0o600); err != nil {
			return err
		}
	}
	if err := l.writeStore(outer); err != nil {
		return err
	}
	l.guarded = tree
	return nil
}

// writeMark writes the guard in the directory. Those of older trees are removed when
// it is durable, so that there is always one.
func (l *Log) writeMark(tree tlog.Tree, entries *os.File) error {
	file, err := identify(entries)
	if err != nil {
		return err
	}
	name := guardPrefix + strconv.FormatInt(tree.N, 10)
	err = durable.ReplaceWith(l.path(name), 0o600, func(f *os.File) ([]byte, error) {
		self, err := identify(f)
		return guard{key: l.key, tree: tree, inside: true, file: file, self: self}.encode(), err
	})
	if err != nil {
		return err
	}
	files, err := os.ReadDir(l.config.Dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, ok := markName(strings.TrimSuffix(file.Name(), durable.NewSuffix)); !ok || file.Name() == name {
			continue
		}
		if err := os.Remove(l.path(file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// checkAlone makes the log refuse if another process signs it, or if its files were
// replaced or written to: a lock that does not hold, a copy that was adopted while
// this process runs, and a backup that was put back under it are found before there
// is a second continuation, or an entry that no start would find. The turn is ours.
func (l *Log) checkAlone() error {
	err := l.checkFiles()
	if err == nil {
		err = l.checkMarks()
	}
	if err == nil && l.config.Guard != "" {
		err = l.checkOutside()
	}
	if err == nil && l.clean {
		err = l.checkEnds()
	}
	return l.refuseUnlessAlone(err)
}

// refuseUnlessAlone makes the log refuse if err is an errNotAlone. It returns err.
func (l *Log) refuseUnlessAlone(err error) error {
	if errors.Is(err, errNotAlone) {
		return l.refuse(l.refusal(err, nil))
	}
	return err
}

// errNotAlone says that something else than this process wrote to the files.
var errNotAlone = errors.New("this process is not alone with the files")

// checkFiles looks whether entries is still the file that is open.
func (l *Log) checkFiles() error {
	ours, err := l.entries.Stat()
	if err != nil {
		return err
	}
	file, err := os.Stat(l.path("entries"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !os.SameFile(ours, file) {
		return fmt.Errorf("%w: %s is another file than when it was opened", errNotAlone, l.path("entries"))
	}
	return nil
}

// checkEnds looks whether entries and heads end where this process left them. What a
// failed write may have left behind the last head is written over.
func (l *Log) checkEnds() error {
	entries, err := l.entries.Stat()
	if err != nil {
		return err
	}
	heads, err := l.heads.Stat()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name        string
		size, end   int64
		mayBeLonger bool
	}{{"entries", entries.Size(), l.tree.end(), false}, {"heads", heads.Size(), l.headsEnd, true}} {
		if f.size < f.end || f.size > f.end && !f.mayBeLonger {
			return fmt.Errorf("%w: %s has %d bytes, this process left it with %d", errNotAlone, l.path(f.name), f.size, f.end)
		}
	}
	return nil
}

// checkMarks looks whether the newest guard in the directory is the one that this
// process wrote last.
func (l *Log) checkMarks() error {
	marks, err := readMarks(l.config.Dir)
	if err != nil {
		return err
	}
	if len(marks) == 0 {
		return fmt.Errorf("%w: its guard in %s is gone", errNotAlone, l.config.Dir)
	}
	for _, m := range marks {
		if m.err != nil && !errors.Is(m.err, sumdb.ErrInvalid) {
			return fmt.Errorf("guard: %w", diskError(m.err))
		}
	}
	newest := marks[len(marks)-1]
	if newest.err != nil {
		return fmt.Errorf("%w: the guard %s is not as it was left: %w", errNotAlone, newest.path, newest.err)
	}
	if why := newest.copied(identity{}); why != "" {
		return fmt.Errorf("%w: %s was replaced: %s", errNotAlone, l.config.Dir, why)
	}
	return l.checkGuard(newest.path, newest.guard)
}

// checkOutside is checkMarks for the guard outside. One that is gone is written with
// the next tree.
func (l *Log) checkOutside() error {
	text, err := os.ReadFile(l.config.Guard)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guard: %w", diskError(err))
	}
	g, err := decodeGuard(text)
	if err != nil {
		return fmt.Errorf("%w: the guard %s is not as it was left: %w", errNotAlone, l.config.Guard, err)
	}
	return l.checkGuard(l.config.Guard, g)
}

// checkGuard looks whether g, found at path, is of this log and not older than what
// this process wrote into all guards.
func (l *Log) checkGuard(path string, g guard) error {
	var why string
	switch {
	case g.key != l.key:
		why = fmt.Sprintf("it is that of the log with the key %s", g.key)
	case !l.tree.contains(g.tree):
		why = fmt.Sprintf("it is of another process, with a tree of %d entries that is not of the %d entries here", g.tree.N, l.tree.size())
	case g.tree.N < l.guarded.N:
		why = fmt.Sprintf("it has the tree of %d entries, this process left it with %d: an older copy was put back", g.tree.N, l.guarded.N)
	default:
		return nil
	}
	return fmt.Errorf("%w: the guard %s is not as it was left: %s", errNotAlone, path, why)
}
