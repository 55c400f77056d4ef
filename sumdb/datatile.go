package sumdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"
)

// dataTiles answers requests for data tiles, which contain the records themselves, under one of our
// heads.
type dataTiles struct {
	client  *client
	objects *objects
	hashes  *hashTiles
}

// get returns the data tile, which h covers. Only full data tiles are stored; a narrower one is cut
// from the full one if h covers that.
func (t *dataTiles) get(ctx context.Context, h *head, tile tlog.Tile) (data []byte, result string, err error) {
	data, err = t.held(ctx, h, tile)
	if err != nil || data != nil {
		return data, "hit", err
	}
	if err := t.hashes.mayFetch(tile.Path()); err != nil {
		return nil, "", err
	}
	wide, full := fullData(h, tile)
	if !full {
		wide = tile // it is not stored, so a wider one would be of no use
	}
	records, err := t.client.records(ctx, wide)
	if errors.Is(err, errNoTile) {
		err = fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if err != nil {
		return nil, "", err
	}
	if err := t.check(ctx, h, tile.N, records); err != nil {
		return nil, "", err
	}
	if !full {
		return FormatDataTile(records), "relayed", nil
	}
	if err := t.objects.put(ctx, wide.Path(), FormatDataTile(records)); err != nil {
		return nil, "", err
	}
	return FormatDataTile(records[:tile.W]), "miss", nil
}

// fullData returns tile as wide as it is under h, and whether that is its full width.
func fullData(h *head, tile tlog.Tile) (wide tlog.Tile, full bool) {
	wide = tile
	wide.W = leavesOf(tile).width(h.tree.N)
	return wide, wide.W == 1<<TileHeight
}

// held returns the data tile, which h covers, or nil if it is not held.
func (t *dataTiles) held(ctx context.Context, h *head, tile tlog.Tile) ([]byte, error) {
	wide, full := fullData(h, tile)
	if !full {
		return nil, nil
	}
	data, err := t.objects.read(ctx, wide.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || tile == wide {
		return data, err
	}
	records, err := parseDataTile(data, wide.W)
	if err != nil {
		return nil, err
	}
	return FormatDataTile(records[:tile.W]), nil
}

// check compares records with the level-0 hashes under h. The records are the first ones of data
// tile number n, and h covers them all.
func (t *dataTiles) check(ctx context.Context, h *head, n int64, records [][]byte) error {
	hashes, _, err := t.hashes.get(ctx, h, place{0, n}.tile(len(records)))
	if err != nil {
		return err
	}
	for i, text := range records {
		hash := tlog.RecordHash(text)
		if !bytes.Equal(hash[:], hashes[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			return fmt.Errorf("%w: record %d in a data tile of %s is not what is in its tree",
				ErrInvalid, n<<TileHeight+int64(i), t.client.name)
		}
	}
	return nil
}
