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

// guard has the tree that a log is about to sign. It is on disk before the log signs the tree, so a
// log that does not contain the tree of its guard has lost entries.
type guard struct {
	key  string // verifier key of the log
	tree tlog.Tree

	// Only the guard in the directory of the log has the fields below. The guard outside and the
	// record in the store outlive the disk of the log.
	inside bool
	file   identity // the file of entries when the guard was written
	self   identity // the file of the guard
}

const (
	guardStart  = "assay log guard"
	guardFormat = guardStart + "\nkey %s\nsize %d\nroot %s\nfile %d %d\n"

	// insideFormat is the last part of a guard in the directory. The guards of the first version of
	// this program did not have it.
	insideFormat = "changed %d\nself %d %d\n"
)

// name returns the name of the log.
func (g guard) name() string {
	name, _, _ := strings.Cut(g.key, "+")
	return name
}

// encode returns the text of g.
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

// The name of the guard in the directory of a log has the size of its tree, guard-SIZE, and each
// tree gets a new file. A backup that is copied over the directory brings an old name back and
// leaves the newest file where it is. A copy that also removes files that the backup does not have
// writes the old guard into another file than the one that the guard names.
const (
	guardPrefix    = "guard-"
	firstGuardName = "guard" // its name in the first version of this program
)

// guardFile is a guard that was found in the directory of a log.
type guardFile struct {
	path  string
	size  int64 // from the name; for firstGuardName from the text
	guard guard
	self  identity // the file in which it was found
	err   error    // sumdb.ErrInvalid if the text does not match a guard of this name
}

// guardSize returns the size in the name of a guard, -1 for firstGuardName.
func guardSize(name string) (size int64, ok bool) {
	if name == firstGuardName {
		return -1, true
	}
	digits, ok := strings.CutPrefix(name, guardPrefix)
	size, err := strconv.ParseInt(digits, 10, 64)
	return size, ok && err == nil && size >= 0 && digits == strconv.FormatInt(size, 10)
}

// readGuards returns the guards in dir, the newest last. There are several after a crash between
// two writes, or after a backup was copied over the directory. A process that appends may rename
// them meanwhile; then readGuards lists them again.
func readGuards(dir string) (guards []guardFile, err error) {
	for range 10 {
		if guards, err = listGuards(dir); err != nil {
			return nil, err
		}
		moved := func(g guardFile) bool { return errors.Is(g.err, fs.ErrNotExist) }
		if len(guards) > 0 && !slices.ContainsFunc(guards, moved) {
			break
		}
	}
	slices.SortStableFunc(guards, func(a, b guardFile) int { return cmp.Compare(a.size, b.size) })
	return guards, nil
}

// listGuards is one attempt of readGuards. os.ReadDir sorts, so firstGuardName comes before a guard
// of the same size.
func listGuards(dir string) (guards []guardFile, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if size, ok := guardSize(file.Name()); ok {
			guards = append(guards, readGuardFile(filepath.Join(dir, file.Name()), size))
		}
	}
	return guards, nil
}

func readGuardFile(path string, size int64) guardFile {
	g := guardFile{path: path, size: size}
	f, err := os.Open(path)
	if err != nil {
		g.err = err
		return g
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10)) // a guard has about 300 bytes
	if err == nil {
		g.self, err = identify(f)
	}
	if err == nil {
		g.guard, err = decodeGuard(text)
	}
	if err == nil && g.size < 0 {
		g.size = g.guard.tree.N
	}
	if err == nil && g.size != g.guard.tree.N {
		err = fmt.Errorf("%w: the text of the guard is about %d entries", sumdb.ErrInvalid, g.guard.tree.N)
	}
	g.err = err
	return g
}

// writeGuardFile writes g into a new file in dir. It removes the guards of older trees only when the new
// one is durable, so that there is always one.
func writeGuardFile(dir string, g guard) error {
	name := guardPrefix + strconv.FormatInt(g.tree.N, 10)
	err := durable.ReplaceWith(filepath.Join(dir, name), 0o600, func(f *os.File) (_ []byte, err error) {
		g.self, err = identify(f)
		return g.encode(), err
	})
	if err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, ok := guardSize(strings.TrimSuffix(file.Name(), durable.NewSuffix)); !ok || file.Name() == name {
			continue
		}
		if err := os.Remove(filepath.Join(dir, file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// copied returns the reason why g shows that its directory is a copy, "" if it does not. entries is
// the file of entries.
func (g guardFile) copied(entries identity) string {
	switch {
	case g.guard.file.differs(entries):
		return "the guard beside it was written for another file"
	case g.guard.inside && g.guard.self.differs(g.self):
		return "the guard beside it is not in the file in which it was written"
	}
	return ""
}

// changed reports whether another program changed the file of entries, or its owner, mode or links,
// after g was written. That may have been a copy; only copied, or a tree that the entries do not
// have, proves one.
func (g guardFile) changed(entries identity) bool {
	return g.guard.inside && g.guard.file.changed != 0 && entries.changed != 0 && g.guard.file.changed != entries.changed
}
