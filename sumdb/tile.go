package sumdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/notfound"
)

// tiles answers requests for any tile, also for one beyond our head.
type tiles struct {
	client   *client
	finder   *finder
	follower *follower
	freezer  *freezer
	hashes   *hashTiles
	data     *dataTiles
	log      *slog.Logger
}

// get implements Mirror.Tile; result is the label of a metric.
func (t *tiles) get(ctx context.Context, tile tlog.Tile) (data []byte, result string, err error) {
	if !KnownTile(tile) {
		return nil, "", fmt.Errorf("%s has tiles of height %d: %w", t.client.name, TileHeight, notfound.Stated)
	}
	h, err := t.finder.newest(ctx)
	if err != nil {
		return nil, "", err
	}
	if !h.covers(tile) {
		if h, err = t.advanceFor(ctx, tile); err != nil {
			return nil, "", err
		}
	}
	switch {
	case !h.covers(tile):
		data, err = t.relay(ctx, h, tile)
		return data, "relayed", err
	case tile.L < 0:
		return t.data.get(ctx, h, tile)
	default:
		return t.hashes.get(ctx, h, tile)
	}
}

// covers reports whether our head covers tile.
func (t *tiles) covers(tile tlog.Tile) bool {
	h := t.follower.head.Load()
	return h != nil && KnownTile(tile) && h.covers(tile)
}

// held returns tile, or nil if it is not held.
func (t *tiles) held(ctx context.Context, tile tlog.Tile) ([]byte, error) {
	h := t.follower.head.Load()
	if h == nil || !KnownTile(tile) || !h.covers(tile) {
		return nil, nil
	}
	if tile.L < 0 {
		return t.data.held(ctx, h, tile)
	}
	return t.hashes.held(ctx, h, tile)
}

// farAhead bounds the size of a client's tree: more than twice ours plus farAhead records is
// implausible. Without the bound, a client could make us send any number of requests to upstream.
const farAhead = 1 << 20

// implausible reports whether tile begins so far beyond size that no client can have a tree with
// it.
func implausible(tile tlog.Tile, size int64) bool {
	p := leavesOf(tile)
	return p.number > (2*size+farAhead)>>(TileHeight*(p.level+1))
}

// advanceFor finds a newer head because of a request for tile, and returns ours. An upstream that
// does not serve latest may still have the tile: some proxies do not serve it, because the go
// command never requests it.
func (t *tiles) advanceFor(ctx context.Context, tile tlog.Tile) (*head, error) {
	if err := t.freezer.check(); err != nil {
		return nil, err
	}
	if implausible(tile, t.follower.size()) {
		return nil, t.beyond(tile)
	}
	if !t.finder.looks.recent() {
		if err := t.finder.catchUp(ctx); err != nil {
			return nil, err
		}
		if h := t.follower.head.Load(); h.covers(tile) {
			return h, nil
		}
	}
	if !t.client.connected() {
		return nil, t.beyond(tile)
	}
	if !t.finder.polls.recent() {
		err := t.finder.refresh(ctx)
		if errors.Is(err, ErrFrozen) || ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			t.log.Warn("cannot refresh the head for a tile beyond it", "tile", tile.Path(), "size", t.follower.size(), "err", err)
		}
	}
	return t.follower.head.Load(), nil
}

func (t *tiles) beyond(tile tlog.Tile) error {
	return fmt.Errorf("%s of %s: %w: this mirror ends at tree %d", tile.Path(), t.client.name, ErrBeyond, t.follower.size())
}

// relay fetches tile, which h does not cover, and compares the part that h covers. It does not
// store the tile: only the client that requested it can verify it.
func (t *tiles) relay(ctx context.Context, h *head, tile tlog.Tile) ([]byte, error) {
	if tile.L < 0 {
		return t.relayData(ctx, h, tile)
	}
	data, err := t.client.tile(ctx, tile)
	if errors.Is(err, errNoTile) {
		return nil, t.beyond(tile)
	}
	if err != nil {
		return nil, err
	}
	p := placeOf(tile)
	w := p.width(h.tree.N)
	if w == 0 {
		return data, nil
	}
	ours, _, err := t.hashes.get(ctx, h, p.tile(w))
	if err != nil {
		return nil, err
	}
	if string(data[:len(ours)]) != string(ours) {
		return nil, fmt.Errorf("%w: %s of %s does not continue our tree %d", ErrInvalid, tile.Path(), t.client.name, h.tree.N)
	}
	return data, nil
}

// relayData is relay for a data tile.
func (t *tiles) relayData(ctx context.Context, h *head, tile tlog.Tile) ([]byte, error) {
	records, err := t.client.records(ctx, tile)
	if errors.Is(err, errNoTile) {
		return nil, t.beyond(tile)
	}
	if err != nil {
		return nil, err
	}
	if w := leavesOf(tile).width(h.tree.N); w > 0 {
		if err := t.data.check(ctx, h, tile.N, records[:w]); err != nil {
			return nil, err
		}
	}
	return FormatDataTile(records), nil
}
