package pinlog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
)

// Find returns the entry of mod. The error is fs.ErrNotExist if there is none,
// sumdb.ErrInvalid if the disk has changed it. A log that refuses finds also what no
// head covers: its hashes were the first ones all the same. What it does not find
// it may have lost.
func (l *Log) Find(mod module.Version) (Entry, error) {
	v := l.view.Load()
	id, ok := l.find(mod)
	if !ok || id >= v.visible {
		return Entry{}, fmt.Errorf("%s: not in the log %s, which has %d entries: %w", mod, l.Name(), v.size(), fs.ErrNotExist)
	}
	e, err := l.readEntry(v.tree, id)
	if err == nil && e.Module != mod {
		err = fmt.Errorf("%w: entry %d of the log %s is %s, not %s", sumdb.ErrInvalid, id, l.Name(), e.Module, mod)
	}
	return e, err
}

// readEntry reads entry id of tree from the file, and compares it with its hash.
func (l *Log) readEntry(tree hashTree, id int64) (Entry, error) {
	frame := make([]byte, tree.offsets[id+1]-tree.offsets[id])
	if _, err := l.entries.ReadAt(frame, tree.offsets[id]); err != nil {
		return Entry{}, fmt.Errorf("entry %d of the log %s: %w", id, l.Name(), err)
	}
	e, err := decodeFrame(frame)
	if err == nil {
		err = checkEntry(e, tree, id)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("entry %d of the log %s: %w", id, l.Name(), err)
	}
	return e, nil
}

// checkEntry compares e with what tree has at id.
func checkEntry(e Entry, tree hashTree, id int64) error {
	if e.ID != id || e.leaf() != tree.leaf(id) {
		return fmt.Errorf("%w: the disk has another entry than was written", sumdb.ErrInvalid)
	}
	return nil
}

// Latest is the newest signed head, also of a log that is empty. It is an
// sumdb.ErrFrozen only if the log refuses and has lost all its heads.
func (l *Log) Latest(ctx context.Context) ([]byte, error) {
	v, err := l.shown(ctx)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), v.head.note...), nil
}

// shown is the view, which has a head.
func (l *Log) shown(ctx context.Context) (*view, error) {
	v := l.view.Load()
	if v.head == nil {
		return nil, l.Refuses()
	}
	return v, ctx.Err()
}

// Reply is the body of the answer to a lookup: the record and the newest head.
// The error is sumdb.ErrBeyond if the head does not cover it, sumdb.ErrInvalid if the log has
// another record in its place.
func (l *Log) Reply(ctx context.Context, r sumdb.Record) ([]byte, error) {
	v, err := l.shown(ctx)
	if err != nil {
		return nil, err
	}
	if r.ID >= v.size() {
		return nil, fmt.Errorf("record %d of %s: %w, which is tree %d", r.ID, l.Name(), sumdb.ErrBeyond, v.size())
	}
	if r.ID < 0 || tlog.RecordHash(r.Text) != v.tree.leaf(r.ID) {
		return nil, fmt.Errorf("%w: record %d is not what is in the log %s", sumdb.ErrInvalid, r.ID, l.Name())
	}
	body, err := tlog.FormatRecord(r.ID, r.Text)
	if err != nil {
		return nil, fmt.Errorf("record %d of %s: %w", r.ID, l.Name(), err)
	}
	return append(body, v.head.note...), nil
}

// Tile returns the tile t, with L = -1 the records themselves. The errors are
// fs.ErrNotExist for a tile that no log has (height not 8, say), sumdb.ErrBeyond, and
// sumdb.ErrInvalid if the disk has changed a record.
func (l *Log) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if !sumdb.KnownTile(t) {
		return nil, fmt.Errorf("%s has tiles of height %d: %w", l.Name(), sumdb.TileHeight, fs.ErrNotExist)
	}
	v, err := l.shown(ctx)
	if err != nil {
		return nil, err
	}
	if t.W > sumdb.TileWidth(t, v.size()) {
		return nil, fmt.Errorf("%s of %s: %w: this log ends at tree %d", t.Path(), l.Name(), sumdb.ErrBeyond, v.size())
	}
	if t.L >= 0 {
		return tlog.ReadTileData(t, v.tree)
	}
	records := make([][]byte, 0, t.W)
	for e, err := range l.scan(v.tree, t.N<<sumdb.TileHeight, t.N<<sumdb.TileHeight+int64(t.W)) {
		if err != nil {
			return nil, err
		}
		records = append(records, e.Record().Text)
	}
	return sumdb.FormatDataTile(records), nil
}

// Entries yields the entries of modules whose path is prefix or below it, all of
// them for "", in the order of the log. It reads all of the file, and yields an
// error, the last thing it yields, if that fails: sumdb.ErrInvalid if the disk has
// changed an entry. What is appended meanwhile is not yielded.
func (l *Log) Entries(prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		v := l.view.Load()
		for e, err := range l.scan(v.tree, 0, v.visible) {
			if (err != nil || below(e.Module.Path, prefix)) && !yield(e, err) {
				return
			}
		}
	}
}

// below says whether path is prefix or a path below it.
func below(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (prefix == "" || rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

// scan yields the entries from first up to before end, which are in tree.
func (l *Log) scan(tree hashTree, first, end int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		from := tree.offsets[first]
		in := bufio.NewReaderSize(io.NewSectionReader(l.entries, from, tree.offsets[end]-from), 64<<10)
		for id := first; id < end; id++ {
			e, err := scanEntry(in, tree, id)
			if err != nil {
				yield(Entry{}, fmt.Errorf("entry %d of the log %s: %w", id, l.Name(), err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func scanEntry(in *bufio.Reader, tree hashTree, id int64) (Entry, error) {
	text, err := readFrame(in)
	if err != nil {
		return Entry{}, tornFrame(err)
	}
	e, err := decodeEntry(text)
	if err != nil {
		return Entry{}, err
	}
	return e, checkEntry(e, tree, id)
}
