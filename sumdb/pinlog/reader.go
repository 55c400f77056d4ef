package pinlog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-proxy/assay/sumdb"
)

// reader reads the files of a log, and the states of it in the store. It changes nothing.
type reader struct {
	at  location
	key keyPair
	all bool // verify all heads, not the newest ones only
}

// read reads everything. It reads guards and heads before the entries: a process that appends
// meanwhile writes in the opposite order.
func (r reader) read(ctx context.Context) (*findings, error) {
	entries, err := os.Open(r.at.path("entries"))
	if errors.Is(err, fs.ErrNotExist) {
		// The file is created before the key, so the log exists and has lost the file.
		return nil, frozen("there is a key but no %s, all entries of the log are lost: put back a copy of them, then adopt it; "+
			"if there is none, begin a new log under a new name in an empty directory", r.at.path("entries"))
	}
	if err != nil {
		return nil, err
	}
	defer entries.Close()
	file, err := identify(entries)
	if err != nil {
		return nil, err
	}
	found := newFindings()
	if err := r.readInside(found, file); err != nil {
		return nil, err
	}
	r.readOutside(found)
	err = errors.Join(r.readSigned(ctx, found), r.readStore(ctx, found))
	if err == nil {
		err = readEntries(ctx, entries, &found.entries)
	}
	if err != nil {
		return nil, err
	}
	if found.entries.torn != nil || found.guards.changed && found.guards.newest.size != found.entries.index.tree.size() {
		found.guards.changed = false // this program appended meanwhile
	}
	found.judge()
	r.judgeHistory(found)
	return found, r.judgeComplete(found)
}

// readInside adds the guards in the directory. entries is the file of entries. Only the newest
// guard must be in its own file and beside its own entries: an older one may be left from a crash,
// or come from a backup in which nothing else is older.
func (r reader) readInside(found *findings, entries identity) error {
	files, err := readGuards(r.at.dir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		if !exists(r.at.path(BackupMark)) { // a backup has no guards, and readSigned says that it is one
			found.damaged("the guard %s is gone, or was never there", r.at.path(guardPrefix+"SIZE"))
		}
		return nil
	}
	for _, file := range files {
		if errors.Is(file.err, sumdb.ErrInvalid) {
			found.guards.named = max(found.guards.named, file.size)
		}
		r.addGuard(found, file.path, file.guard, file.err)
	}
	newest := &files[len(files)-1]
	found.guards.count, found.guards.newest = len(files), newest
	if newest.err != nil {
		return nil
	}
	if why := newest.copied(entries); why != "" {
		found.damaged("%s is a copy: %s", r.at.path("entries"), why)
	}
	found.guards.changed = newest.changed(entries)
	return nil
}

// readOutside adds the guard outside, if one is configured.
func (r reader) readOutside(found *findings) {
	if r.at.guard == "" {
		return
	}
	text, err := os.ReadFile(r.at.guard)
	if errors.Is(err, fs.ErrNotExist) {
		found.damaged("the guard %s is gone, or was never there", r.at.guard)
		return
	}
	var g guard
	if err == nil {
		g, err = decodeGuard(text)
	}
	r.addGuard(found, r.at.guard, g, err)
}

// addGuard adds g, which was found at path, or err instead.
func (r reader) addGuard(found *findings, path string, g guard, err error) {
	switch {
	case errors.Is(err, sumdb.ErrInvalid):
		found.damaged("%s: %w", path, err)
	case err != nil:
		found.unread = fmt.Errorf("the guard cannot be read: %w", err)
		found.damage = append(found.damage, found.unread)
	case g.key != r.key.public:
		found.foreign = fmt.Errorf("the guard %s is that of the log with the key %s", path, g.key)
		found.damage = append(found.damage, found.foreign)
	default:
		found.claims = append(found.claims, claim{file: path, tree: g.tree})
	}
}

// readSigned adds everything that was signed: the newest head, the history, and the heads that
// froze the log.
func (r reader) readSigned(ctx context.Context, found *findings) error {
	path := r.at.path("head")
	head, err := os.ReadFile(path)
	if err == nil {
		r.addSigned(found, path, head)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}

	path = r.at.path("heads")
	heads, damaged, end, err := readHeads(path, r.all)
	if err != nil {
		return err
	}
	if !r.all && len(heads) > 0 {
		heads = heads[len(heads)-1:]
	}
	found.headsEnd = end
	if err := r.addAll(ctx, found, path, heads, damaged); err != nil {
		return err
	}

	path = r.at.path("frozen")
	heads, damaged, _, err = readHeads(path, true)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		found.damaged("%s says that a signed head was seen which is not of this log", path)
	}
	if where, err := os.ReadFile(r.at.path(movedMark)); err == nil {
		place, _, _ := strings.Cut(string(where), "\n")
		found.moved = fmt.Errorf("%s says that this log was brought to %s", r.at.path(movedMark), place)
		found.damage = append(found.damage, found.moved)
	} else if path := r.at.path(BackupMark); exists(path) {
		found.damaged("%s says that this log is a backup that was put back", path)
	}
	return r.addAll(ctx, found, path, heads, damaged)
}

func (r reader) addAll(ctx context.Context, found *findings, path string, heads, damaged [][]byte) error {
	for _, head := range heads {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.addSigned(found, path, head)
	}
	if len(damaged) > 0 {
		found.noHead(path, fmt.Errorf("%d parts of it are no head", len(damaged)))
	}
	return nil
}

func (r reader) addSigned(found *findings, path string, msg []byte) {
	head, err := openHead(msg, r.key.verifier)
	if err != nil {
		found.noHead(path, fmt.Errorf("does not verify with the key of the log: %w", err))
		return
	}
	found.claims = append(found.claims, claim{path, head.tree, true, head.note})
}

// readStore adds the guard in the store. The first version of this program did not write one; if it
// is missing, readStore adds the pinned versions in the store.
func (r reader) readStore(ctx context.Context, found *findings) error {
	if r.at.store == nil {
		return nil
	}
	g, err := readStoreGuard(ctx, r.at.store)
	if errors.Is(err, errNoState) {
		found.pinned, err = pinnedBy(ctx, r.at.store, r.key.name())
		return err
	}
	if err != nil {
		return err
	}
	switch {
	case g.key == r.key.public:
		found.claims = append(found.claims, claim{file: inStore, tree: g.tree})
	case g.tree.N > 0 && g.name() == r.key.name():
		found.foreign = fmt.Errorf("the store records a log of the same name with the key %s", g.key)
		found.damage = append(found.damage, found.foreign)
	}
	return nil
}

// readEntries adds the whole entries of file up to the first invalid one.
func readEntries(ctx context.Context, file *os.File, found *foundEntries) error {
	in := bufio.NewReaderSize(file, 256<<10)
	for {
		if found.index.tree.size()%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		text, err := readFrame(in)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = found.add(text)
		}
		if errors.Is(err, sumdb.ErrInvalid) {
			found.torn = fmt.Errorf("%s: entry %d at byte %d: %w", file.Name(), found.index.tree.size(), found.index.tree.end(), err)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// judgeHistory adds missing heads to the damage: each head is in the history before it is the
// newest, and the empty log has one before its first entry is guarded.
func (r reader) judgeHistory(found *findings) {
	end := make(map[string]int64) // by file: the largest tree, -1 if there is none
	for _, name := range []string{"heads", "head"} {
		end[name] = -1
		for _, c := range found.claims {
			if c.file == r.at.path(name) {
				end[name] = max(end[name], c.tree.N)
			}
		}
	}
	newest := found.guards.newest
	if end["heads"] < end["head"] || end["heads"] < 0 && newest != nil && newest.size > 0 {
		found.damaged("%s has lost heads: it ends before the newest one", r.at.path("heads"))
	}
}

// judgeComplete finds out whether all files agree.
func (r reader) judgeComplete(found *findings) error {
	whole, err := found.entries.index.tree.at(found.entries.index.tree.size())
	files := make(map[string]bool)
	for _, c := range found.claims {
		if c.tree == whole {
			files[filepath.Clean(c.file)] = true
		}
	}
	found.complete = files[r.at.path("head")] && files[r.at.path("heads")] &&
		found.guards.count == 1 && found.guards.newest.guard.inside && files[found.guards.newest.path] && !found.guards.changed &&
		(r.at.guard == "" || files[filepath.Clean(r.at.guard)]) && (r.at.store == nil || files[inStore])
	return err
}
