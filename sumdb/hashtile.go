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
	data, err = t.prove(ctx, h, placeOf(tile))
	if err != nil {
		return nil, "", err
	}
	end := tile.W * tlog.HashSize
	return data[:end:end], "miss", nil
}

// prove authenticates the widest form under h of the tile at p, and stores it if it was not held.
// Callers that need the same tile share the work, from the request to upstream until the tile is
// stored, so that no caller sends a second request in between.
func (t *hashTiles) prove(ctx context.Context, h *head, p place) ([]byte, error) {
	tile := p.tile(p.width(h.tree.N))
	key := fmt.Sprintf("%s of tree %d", tile.Path(), h.tree.N)
	return share(ctx, t.client, key, lookupTime, func(ctx context.Context) ([]byte, error) {
		var data []byte
		tiles, err := t.prover.prove(ctx, h.tree, h, func(r tlog.HashReader) (err error) {
			data, err = tlog.ReadTileData(tile, r)
			return err
		})
		if err != nil {
			return nil, err
		}
		return data, t.prover.save(ctx, tiles)
	})
}
