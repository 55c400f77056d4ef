package sumdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/defect"
)

const (
	fullTile = tlog.HashSize << TileHeight // bytes

	// parallelTiles is how many tiles of one proof are asked for at once. A
	// proof needs a handful.
	parallelTiles = 8
)

// place is where a hash tile is, whatever its width.
type place struct {
	level  int
	number int64
}

func placeOf(t tlog.Tile) place { return place{t.L, t.N} }

// tile is the tile of width w at p.
func (p place) tile(w int) tlog.Tile {
	return tlog.Tile{H: TileHeight, L: p.level, N: p.number, W: w}
}

// width is how many hashes the tile at p has in a tree of the given size, 0 if
// the tree does not reach it.
func (p place) width(size int64) int {
	return TileWidth(p.tile(1<<TileHeight), size)
}

// source says where a reader may take tiles from.
type source int

const (
	held     source = 1 << iota // the head, the store
	upstream                    // the FetchFunc
)

// prove runs f with a reader of the hashes of tree and returns the tiles it used
// that are no objects in the store. Every hash that f sees is authenticated to
// tree, which may be a head that nobody accepted yet: therefore nothing is stored
// here, that is for the caller to do when it has decided.
//
// What is held is read first; base, which may be nil, is the head whose tiles
// that are. If tiles do not authenticate, everything is read from upstream once
// more, for two reasons: what is held may be damaged, and what is held of the
// true log must not hide that a fork is one.
//
// The error is ErrInvalid if tiles do not authenticate.
func (m *Mirror) prove(ctx context.Context, tree tlog.Tree, base *head, f func(tlog.HashReader) error) (map[place][]byte, error) {
	from := held
	if m.connected() {
		from |= upstream
	}
	r := newReader(ctx, m, base, from)
	err := f(tlog.TileHashReader(tree, r))
	if err != nil && r.err == nil && r.usedHeld && from&upstream != 0 {
		r = newReader(ctx, m, base, upstream)
		err = f(tlog.TileHashReader(tree, r))
	}
	switch {
	case err == nil:
		return r.proved, nil
	case r.err != nil:
		return nil, r.err
	default:
		return nil, fmt.Errorf("%w: tree %d of %s: %v", ErrInvalid, tree.N, m.name, err)
	}
}

// reader is a tlog.TileReader for one proof. Nothing it reads leaves it but
// through proved.
type reader struct {
	ctx  context.Context // TileReader has none; a reader ends with its proof
	m    *Mirror
	base *head // may be nil
	from source

	tiles    map[tlog.Tile][]byte // read so far, suspect
	stored   map[tlog.Tile]bool   // those that are objects in the store
	usedHeld bool
	proved   map[place][]byte // authenticated, and not in the store
	err      error            // why a tile could not be read
}

func newReader(ctx context.Context, m *Mirror, base *head, from source) *reader {
	return &reader{
		ctx: ctx, m: m, base: base, from: from,
		tiles:  make(map[tlog.Tile][]byte),
		stored: make(map[tlog.Tile]bool),
		proved: make(map[place][]byte),
	}
}

// Height implements tlog.TileReader.
func (r *reader) Height() int { return TileHeight }

// ReadTiles implements tlog.TileReader.
func (r *reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data, err := r.readTiles(tiles)
	if err != nil {
		r.err = err // tlog does not say which of its errors are those of the TileReader
	}
	return data, err
}

func (r *reader) readTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	var missing []int
	for i, t := range tiles {
		var err error
		if data[i], err = r.readHeld(t); err != nil {
			return nil, err
		}
		if data[i] == nil {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 && r.from&upstream == 0 {
		return nil, fmt.Errorf("%s is not held: %w", tiles[missing[0]].Path(), ErrBeyond)
	}
	group, ctx := errgroup.WithContext(r.ctx)
	group.SetLimit(parallelTiles)
	for _, i := range missing {
		group.Go(func() error {
			return defect.Catch(func() (err error) {
				data[i], err = r.m.fetchTile(ctx, tiles[i])
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, i := range missing {
		r.tiles[tiles[i]] = data[i]
	}
	return data, nil
}

// readHeld returns nil if t is not held.
func (r *reader) readHeld(t tlog.Tile) ([]byte, error) {
	if data := r.tiles[t]; data != nil {
		return data, nil
	}
	if r.from&held == 0 {
		return nil, nil
	}
	data, stored, err := r.m.heldTile(r.ctx, r.base, placeOf(t), t.W)
	if err != nil || data == nil {
		return nil, err
	}
	r.usedHeld = true
	r.tiles[t] = data
	r.stored[t] = stored
	return data, nil
}

// SaveTiles implements tlog.TileReader: tiles are authenticated.
func (r *reader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		if !r.stored[t] {
			r.proved[placeOf(t)] = data[i]
		}
	}
}

// heldTile returns the first w hashes of the tile at p from base, which may be
// nil, or the store, and nil if neither has that many.
func (m *Mirror) heldTile(ctx context.Context, base *head, p place, w int) (data []byte, stored bool, err error) {
	if base != nil {
		if data := base.tile(p, w); data != nil {
			return data, false, nil
		}
		if p.width(base.tree.N) < 1<<TileHeight {
			return nil, false, nil // not full: it cannot be an object
		}
	}
	path := p.tile(1 << TileHeight).Path()
	data, err = m.held(ctx, path)
	if err == nil && len(data) != fullTile {
		m.log.Error("stored tile has a wrong length; it will be fetched again", "tile", path, "len", len(data))
		err = m.drop(ctx, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s of %s: %w", path, m.name, err)
	}
	end := w * tlog.HashSize
	return data[:end:end], true, nil
}

// fetchTile gets t from upstream. Only its length is checked. Those who ask for
// the same tile at the same time share one request.
func (m *Mirror) fetchTile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	data, err := m.share(ctx, t.Path(), fileTime, func(ctx context.Context) (any, error) {
		data, err := m.fetchHashes(ctx, t)
		if full := placeOf(t).tile(1 << TileHeight); err != nil && t != full && ctx.Err() == nil {
			// When a tile has been completed, upstream need not keep its
			// narrower forms.
			if wide, err := m.fetchHashes(ctx, full); err == nil {
				return wide[:t.W*tlog.HashSize], nil
			}
		}
		return data, err
	})
	if err != nil {
		return nil, err
	}
	return data.([]byte), nil
}

func (m *Mirror) fetchHashes(ctx context.Context, t tlog.Tile) ([]byte, error) {
	want := t.W * tlog.HashSize
	data, err := m.fetch(ctx, t.Path(), int64(want))
	if err == nil && len(data) != want {
		return nil, fmt.Errorf("%w: %s of %s has %d bytes, not %d", ErrInvalid, t.Path(), m.name, len(data), want)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// The absence of a tile that a signed head promises is not the
		// absence of a module, and must not look like it.
		return nil, fmt.Errorf("%w: %w of %s: %v", ErrInvalid, errNoTile, m.name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), m.name, err)
	}
	return data, nil
}

// errNoTile is what becomes of fs.ErrNotExist for a tile.
var errNoTile = errors.New("upstream has no such tile")

// save stores the full ones of tiles, which are proved to be of our log.
func (m *Mirror) save(ctx context.Context, tiles map[place][]byte) error {
	for p, data := range tiles {
		if len(data) != fullTile {
			continue // a part of our edge, which is kept with the head
		}
		if err := m.saveTile(ctx, p, data); err != nil {
			return err
		}
	}
	return nil
}

// saveTile makes data, which is proved, the object of the tile at p. Other bytes
// that are there already are wrong, and are replaced.
func (m *Mirror) saveTile(ctx context.Context, p place, data []byte) error {
	return m.replace(ctx, p.tile(1<<TileHeight).Path(), data)
}

func (m *Mirror) replace(ctx context.Context, path string, data []byte) error {
	const attempts = 3 // against somebody who does the same
	var err error
	for range attempts {
		if err = m.create(ctx, path, data); !errors.Is(err, fs.ErrExist) {
			break
		}
		stored, err := m.held(ctx, path)
		if err == nil && bytes.Equal(stored, data) {
			return nil
		}
		if err == nil {
			m.log.Error("stored object differs from its proved record; it will be replaced", "key", m.key(path))
			err = m.drop(ctx, path)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("store %s: %w", path, err)
		}
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	return nil
}
