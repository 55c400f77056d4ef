package sumdb

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/notfound"
)

// hashTiles answers requests for hash tiles under one of our heads, from the store or from
// upstream. Tiles of upstream are proved and stored first.
type hashTiles struct {
	client  *client
	prover  *prover
	freezer *freezer
}

// mayFetch returns an error if the file at path, which is not held, cannot be fetched.
func (t *hashTiles) mayFetch(path string) error {
	if err := t.freezer.check(); err != nil {
		return err
	}
	if !t.client.connected() {
		return fmt.Errorf("%s of %s is not in this mirror, which has no upstream: %w", path, t.client.name, notfound.Stated)
	}
	return nil
}

// held returns tile, which h covers, or nil if it is not held.
func (t *hashTiles) held(ctx context.Context, h *head, tile tlog.Tile) ([]byte, error) {
	data, _, err := t.prover.held(ctx, h, placeOf(tile), tile.W)
	return data, err
}

// get returns tile, which h covers. It fetches the widest form under h, so that one request to
// upstream serves all widths.
func (t *hashTiles) get(ctx context.Context, h *head, tile tlog.Tile) (data []byte, result string, err error) {
	data, err = t.held(ctx, h, tile)
	if err != nil || data != nil {
		return data, "hit", err
	}
	if err := t.mayFetch(tile.Path()); err != nil {
		return nil, "", err
	}
	data, err = t.fetch(ctx, h, placeOf(tile))
	if err != nil {
		return nil, "", err
	}
	end := tile.W * tlog.HashSize
	return data[:end:end], "miss", nil
}

// fetch returns the widest form under h of the tile at p. It proves and stores it, once for all
// callers that need the same tile.
func (t *hashTiles) fetch(ctx context.Context, h *head, p place) ([]byte, error) {
	return share(ctx, t.client, "stored "+t.key(h, p), lookupTime, func(ctx context.Context) ([]byte, error) {
		proved, err := t.proveMissing(ctx, h, p, &p)
		if err != nil {
			return nil, err
		}
		return proved.data, t.prover.save(ctx, proved.tiles)
	})
}

// key names the widest form under h of the tile at p. Two heads of one size may be of two logs.
func (t *hashTiles) key(h *head, p place) string {
	return fmt.Sprintf("%s of tree %d %s", p.tile(p.width(h.tree.N)).Path(), h.tree.N, h.tree.Hash)
}

// provedTile is a tile, and what must be stored before an answer may depend on it.
type provedTile struct {
	data  []byte
	tiles fullTiles
}

// prove authenticates the widest form under h of the tile at p. Callers that need the same tile share
// the work. It stores nothing: until a caller does, the tiles wait in the prover, so that no proof
// sends a second request.
func (t *hashTiles) prove(ctx context.Context, h *head, p place) (provedTile, error) {
	return t.proveMissing(ctx, h, p, nil)
}

// proveMissing is prove for a caller that has missed a tile in the store.
func (t *hashTiles) proveMissing(ctx context.Context, h *head, p place, missed *place) (provedTile, error) {
	return share(ctx, t.client, t.key(h, p), lookupTime, func(ctx context.Context) (proved provedTile, err error) {
		tiles, err := t.prover.prove(ctx, h.tree, h, missed, func(r tlog.HashReader) (err error) {
			proved.data, err = tlog.ReadTileData(p.tile(p.width(h.tree.N)), r)
			return err
		})
		if err != nil {
			return provedTile{}, err
		}
		proved.tiles = t.prover.toStore(tiles)
		return proved, nil
	})
}
