package pinlog

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/sumdb"
)

// Find returns the entry of mod. The error is fs.ErrNotExist if there is none, sumdb.ErrInvalid if
// the entry is damaged on disk. In a log that refuses, Find also finds entries that no head covers,
// because their hashes were the first ones; an entry that it does not find may be lost. In a bucket, Find
// looks for what other replicas have written, before it says that there is none; ctx bounds that look.
func (l *Log) Find(ctx context.Context, mod module.Version) (Entry, error) {
	v, id, ok := l.book.visible(mod)
	if !ok && l.lookout != nil {
		if err := l.lookout.glance(ctx); err != nil {
			return Entry{}, fmt.Errorf("%s: the log %s: %w", mod, l.Name(), err)
		}
		v, id, ok = l.book.visible(mod)
	}
	if !ok {
		return Entry{}, fmt.Errorf("%s: not in the log %s, which has %d entries: %w", mod, l.Name(), v.size(), fs.ErrNotExist)
	}
	e, err := l.book.entries.read(v.tree, id)
	if err == nil && e.Module != mod {
		err = fmt.Errorf("%w: entry %d of the log %s is %s, not %s", sumdb.ErrInvalid, id, l.Name(), e.Module, mod)
	}
	return e, err
}

// Shows reports whether Find finds the entry of mod. It reads nothing from disk. An entry that is shown
// once is shown as long as the log is open.
func (l *Log) Shows(mod module.Version) bool {
	_, _, ok := l.book.visible(mod)
	return ok
}

// Latest returns the newest signed head; an empty log has one, too. The error is sumdb.ErrFrozen if
// the log refuses and has lost all its heads.
func (l *Log) Latest(ctx context.Context) ([]byte, error) {
	v, err := l.book.signed(ctx)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), v.head.note...), nil
}

// Reply returns the body of the response to a lookup: the record and the newest head. The error is
// sumdb.ErrBeyond if the head does not cover the record, sumdb.ErrInvalid if the log has another
// record in its place.
func (l *Log) Reply(ctx context.Context, r sumdb.Record) ([]byte, error) {
	v, err := l.reaching(ctx, func(size int64) bool { return r.ID < size })
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

// reaching returns the view, which has a head. If its size is not enough, another replica may have signed
// more.
func (l *Log) reaching(ctx context.Context, enough func(size int64) bool) (*view, error) {
	v, err := l.book.signed(ctx)
	if l.lookout == nil || err == nil && enough(v.size()) {
		return v, err
	}
	if err := l.lookout.glance(ctx); err != nil {
		return nil, fmt.Errorf("the log %s: %w", l.Name(), err)
	}
	return l.book.signed(ctx)
}

// Tile returns the tile t; with L = -1, the records themselves. The errors are notfound.Stated for a
// tile that no log has (a height other than 8, for example), sumdb.ErrBeyond, and sumdb.ErrInvalid
// if a record is damaged on disk.
func (l *Log) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if !sumdb.KnownTile(t) {
		return nil, fmt.Errorf("%s has tiles of height %d: %w", l.Name(), sumdb.TileHeight, notfound.Stated)
	}
	v, err := l.reaching(ctx, func(size int64) bool { return t.W <= sumdb.TileWidth(t, size) })
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
	for e, err := range l.book.entries.scan(v.tree, t.N<<sumdb.TileHeight, t.N<<sumdb.TileHeight+int64(t.W)) {
		if err != nil {
			return nil, err
		}
		records = append(records, e.Record().Text)
	}
	return sumdb.FormatDataTile(records), nil
}

// Entries yields the entries of modules whose path is prefix or below it, all of them for "", in
// the order of the log. It reads the whole file. If that fails, it yields an error and ends:
// sumdb.ErrInvalid if an entry is damaged on disk. It does not yield entries that are appended
// meanwhile.
func (l *Log) Entries(prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		v := l.book.view.Load()
		for e, err := range l.book.entries.scan(v.tree, 0, v.visible) {
			if (err != nil || below(e.Module.Path, prefix)) && !yield(e, err) {
				return
			}
		}
	}
}

// below reports whether path is prefix or a path below it.
func below(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (prefix == "" || rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}
