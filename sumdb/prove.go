package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/storage"
)

// parallelTiles is how many tiles of one proof are read at once. A proof needs a handful.
const parallelTiles = 8

// prover verifies tiles, from the store and from upstream, against the root of a signed head. It
// does not decide whether the head is accepted.
type prover struct {
	client  *client
	objects *objects
	log     *slog.Logger

	// waiting has full tiles that are proved and wait to be stored. Other proofs need not fetch them
	// again, and store them too. It only saves requests: what it drops is fetched again.
	waiting memo.Map[place, []byte]

	// recent has the places of tiles that were stored a moment ago: a proof that was told that they are
	// not held looks again.
	recent memo.Map[place, struct{}]
}

// maxWaitingTiles is how many tiles may wait, 8 KiB each.
const maxWaitingTiles = 64

// source is a set of places that a reader may read tiles from.
type source int

const (
	fromHeld     source = 1 << iota // the head, the store
	fromUpstream                    // the FetchFunc
)

// prove runs f with a reader of the hashes of tree and returns the tiles that f used and that are
// not objects in the store. Every hash that f sees is authenticated to tree, which may be a head
// that is not accepted yet: therefore prove stores nothing; the caller does that when it has
// decided.
//
// prove reads held tiles first; base, which may be nil, is the head that has some of them. If they
// do not authenticate, it reads everything again from upstream, for two reasons: held tiles may be
// damaged; and if tree is of a fork, the held tiles of the true log cannot authenticate to it, but
// those of upstream do, which proves the fork.
//
// missed, which may be nil, is a place whose tile the caller did not find in the store: it is not looked
// for again.
//
// The error is ErrInvalid if tiles do not authenticate.
func (p *prover) prove(ctx context.Context, tree tlog.Tree, base *head, missed *place, f func(tlog.HashReader) error) (map[place][]byte, error) {
	from := fromHeld
	if p.client.connected() {
		from |= fromUpstream
	}
	r := p.newReader(ctx, base, from)
	r.missed = missed
	err := f(tlog.TileHashReader(tree, r))
	if err != nil && r.err == nil && r.usedHeld && from&fromUpstream != 0 {
		r = p.newReader(ctx, base, fromUpstream)
		err = f(tlog.TileHashReader(tree, r))
	}
	switch {
	case err == nil:
		return r.proved, nil
	case r.err != nil:
		return nil, r.err
	default:
		return nil, fmt.Errorf("%w: tree %d of %s: %v", ErrInvalid, tree.N, p.client.name, err)
	}
}

// checkTiles proves all tiles of h, from held tiles only.
func (p *prover) checkTiles(ctx context.Context, h *head) error {
	var indexes []int64
	for at := range h.tiles {
		indexes = append(indexes, tlog.StoredHashIndex(TileHeight*at.level, at.number<<TileHeight))
	}
	if len(indexes) == 0 {
		return nil
	}
	r := p.newReader(ctx, h, fromHeld)
	_, err := tlog.TileHashReader(h.tree, r).ReadHashes(indexes)
	return err
}

// comparison is the result of comparing two trees.
type comparison struct {
	older, newer tlog.Tree
	root         tlog.Hash      // of the first older.N records of newer
	proof        tlog.TreeProof // of root, if it is not that of older
	tiles        map[place][]byte
}

// compare computes the root that newer had at the size of older, from tiles that authenticate to
// newer. base is the head whose tiles are held. If newer is not one of our heads, its edge is among
// the tiles.
func (p *prover) compare(ctx context.Context, older, newer tlog.Tree, base *head) (comparison, error) {
	found := comparison{older: older, newer: newer}
	tiles, err := p.prove(ctx, newer, base, nil, func(r tlog.HashReader) error {
		var err error
		if found.root, err = tlog.TreeHash(older.N, r); err != nil {
			return err
		}
		if older.N == 0 {
			_, err = tlog.TreeHash(newer.N, r) // reads the edge, as above for other sizes
			return err
		}
		if found.root != older.Hash {
			found.proof, err = tlog.ProveTree(newer.N, older.N, r)
		}
		return err
	})
	found.tiles = tiles
	return found, err
}

// held returns the first w hashes of a tile from base, which may be nil, or from the store; nil if
// neither has that many. stored reports whether they are from the store.
func (p *prover) held(ctx context.Context, base *head, at place, w int) (data []byte, stored bool, err error) {
	if base != nil {
		if data := base.tile(at, w); data != nil {
			return data, false, nil
		}
		if at.width(base.tree.N) < 1<<TileHeight {
			return nil, false, nil // not full: it cannot be an object
		}
	}
	path := at.full().Path()
	data, err = p.objects.read(ctx, path)
	if err == nil && len(data) != fullTile {
		p.log.Error("stored tile has a wrong length; it will be fetched again", "tile", path, "len", len(data))
		err = p.objects.remove(ctx, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s of %s: %w", path, p.client.name, err)
	}
	end := w * tlog.HashSize
	return data[:end:end], true, nil
}

// available is held, or else a tile that waits to be stored. A proof may use it, an answer may not. It
// reads the store once, after the tiles that wait: a tile that waits no more is stored. If the caller has
// missed the tile there, it is read only if it was stored since.
func (p *prover) available(ctx context.Context, base *head, at place, w int, missed bool) (data []byte, stored bool, err error) {
	if base != nil {
		if data := base.tile(at, w); data != nil {
			return data, false, nil
		}
	}
	if full, ok := p.waiting.Get(at); ok {
		end := w * tlog.HashSize
		return full[:end:end], false, nil
	}
	if _, recent := p.recent.Get(at); missed && !recent {
		return nil, false, nil
	}
	return p.held(ctx, base, at, w)
}

// toStore returns the full ones of tiles, which are proved and wait to be stored from now on. The
// others are parts of our edge, which is kept with the head.
func (p *prover) toStore(tiles map[place][]byte) fullTiles {
	full := fullTiles{}
	for at, data := range tiles {
		if len(data) == fullTile {
			full[at] = data
			p.waiting.Put(at, data)
		}
	}
	return full
}

// tileObjects returns the tiles as objects, parents first: no part of a batch has a tile without its
// parents.
func (p *prover) tileObjects(tiles fullTiles) (all []storage.Small) {
	for _, at := range tiles.places() {
		all = append(all, p.objects.object(at.full().Path(), tiles[at]))
	}
	return all
}

// save stores tiles, which are proved to be of our log.
func (p *prover) save(ctx context.Context, tiles fullTiles) error {
	if len(tiles) == 0 {
		return nil
	}
	err := p.objects.apply(ctx, storage.Batch{Create: p.tileObjects(tiles)})
	if blocked(err) {
		err = p.saveEach(ctx, tiles)
	}
	if err == nil {
		p.stored(tiles)
	}
	return err
}

// saveEach is save without a batch, in the same order. It replaces wrong bytes.
func (p *prover) saveEach(ctx context.Context, tiles fullTiles) error {
	for _, at := range tiles.places() {
		if err := p.saveTile(ctx, at, tiles[at]); err != nil {
			return err
		}
	}
	return nil
}

// stored notes that tiles are objects now.
func (p *prover) stored(tiles fullTiles) {
	for at := range tiles {
		p.recent.Put(at, struct{}{})
		p.waiting.Delete(at)
	}
}

// saveTile stores data, which is proved, as the object of its tile. If the stored object has other
// bytes, they are wrong, and saveTile replaces them.
func (p *prover) saveTile(ctx context.Context, at place, data []byte) error {
	return p.objects.put(ctx, at.full().Path(), data)
}

// reader is a tlog.TileReader for one proof. It returns tiles only through proved.
type reader struct {
	ctx  context.Context // TileReader has no context parameter; a reader ends with its proof
	held func(ctx context.Context, base *head, p place, w int, missed bool) (data []byte, stored bool, err error)
	get  func(context.Context, tlog.Tile) ([]byte, error)
	base *head // may be nil
	from source

	missed *place // is not in the store; may be nil

	tiles    map[tlog.Tile][]byte // read so far, not authenticated
	stored   map[tlog.Tile]bool   // those of tiles that are objects in the store
	usedHeld bool
	proved   map[place][]byte // authenticated, and not in the store
	err      error            // why a tile could not be read
}

func (p *prover) newReader(ctx context.Context, base *head, from source) *reader {
	return &reader{
		ctx: ctx, held: p.available, get: p.client.tile, base: base, from: from,
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
		r.err = err // tlog does not distinguish errors of its TileReader from its own
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
	if len(missing) > 0 && r.from&fromUpstream == 0 {
		return nil, fmt.Errorf("%s is not held: %w", tiles[missing[0]].Path(), ErrBeyond)
	}
	group, ctx := errgroup.WithContext(r.ctx)
	group.SetLimit(parallelTiles)
	for _, i := range missing {
		group.Go(func() error {
			return panics.Catch(func() (err error) {
				data[i], err = r.get(ctx, tiles[i])
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
	if r.from&fromHeld == 0 {
		return nil, nil
	}
	at := placeOf(t)
	data, stored, err := r.held(r.ctx, r.base, at, t.W, r.missed != nil && *r.missed == at)
	if err != nil || data == nil {
		return nil, err
	}
	r.usedHeld = true
	r.tiles[t] = data
	r.stored[t] = stored
	return data, nil
}

// SaveTiles implements tlog.TileReader. tlog calls it with authenticated tiles.
func (r *reader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		if !r.stored[t] {
			r.proved[placeOf(t)] = data[i]
		}
	}
}
