package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Tile returns the tile t, with L = -1 the records themselves. A tile under our
// head is one that is held, or one from upstream that is proved and, if full,
// stored. A tile that our head does not reach makes the mirror ask for a newer
// head; if that does not reach it either, what upstream answers is relayed, not
// stored, after what we know of it was compared. The client verifies it.
//
// The errors are fs.ErrNotExist for a tile that no log has (height not 8, say);
// ErrBeyond; ErrInvalid if upstream's answer does not verify; ErrFrozen; and
// those of the FetchFunc and the store.
func (m *Mirror) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	data, result, err := m.tile(ctx, t)
	m.metrics.tiles.WithLabelValues(resultOf(result, err)).Inc()
	return data, err
}

// HeldTile is Tile without the upstream. The error is fs.ErrNotExist for a tile that is
// not held.
func (m *Mirror) HeldTile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	h := m.head.Load()
	if h == nil || !KnownTile(t) || !h.covers(t) {
		return nil, fmt.Errorf("%s of %s is not held: %w", t.Path(), m.name, fs.ErrNotExist)
	}
	data, err := m.heldFor(ctx, h, t)
	if err == nil && data == nil {
		err = fmt.Errorf("%s of %s is not held: %w", t.Path(), m.name, fs.ErrNotExist)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		m.metrics.tiles.WithLabelValues(resultOf("hit", err)).Inc()
	}
	return data, err
}

// heldFor returns t, which h covers, or nil if it is not held.
func (m *Mirror) heldFor(ctx context.Context, h *head, t tlog.Tile) ([]byte, error) {
	if t.L >= 0 {
		data, _, err := m.heldTile(ctx, h, placeOf(t), t.W)
		return data, err
	}
	full := t
	if full.W = leaves(t).width(h.tree.N); full.W < 1<<TileHeight {
		return nil, nil // only full data tiles are stored
	}
	return m.heldData(ctx, full, t.W)
}

func (m *Mirror) tile(ctx context.Context, t tlog.Tile) (data []byte, result string, err error) {
	if !KnownTile(t) {
		return nil, "", fmt.Errorf("%s has tiles of height %d: %w", m.name, TileHeight, fs.ErrNotExist)
	}
	h, err := m.newest(ctx)
	if err != nil {
		return nil, "", err
	}
	if !h.covers(t) {
		if h, err = m.reach(ctx, t); err != nil {
			return nil, "", err
		}
	}
	switch {
	case !h.covers(t):
		data, err = m.relay(ctx, h, t)
		return data, "relayed", err
	case t.L < 0:
		return m.dataTile(ctx, h, t)
	default:
		return m.hashTile(ctx, h, t)
	}
}

// Covers says whether t is under our head. If it is when Tile is called, what Tile
// returns is proved; else it may be relayed, and no cache should keep it.
func (m *Mirror) Covers(t tlog.Tile) bool {
	h := m.head.Load()
	return h != nil && KnownTile(t) && h.covers(t)
}

// covers says whether the tree of h has all of t.
func (h *head) covers(t tlog.Tile) bool { return t.W <= leaves(t).width(h.tree.N) }

// leaves is where the hashes of t are; those of a data tile are those of its
// records.
func leaves(t tlog.Tile) place { return place{max(t.L, 0), t.N} }

// farAhead is how many records a client's tree may have more than twice ours
// before its tiles are taken for made up. Asking upstream for each would let
// anybody make us send any number of requests.
const farAhead = 1 << 20

// implausible says whether t begins so far beyond size that no client can have
// seen a tree that has it.
func implausible(t tlog.Tile, size int64) bool {
	return leaves(t).number > (2*size+farAhead)>>(TileHeight*(leaves(t).level+1))
}

// reach returns our head after it was made as new as upstream's. An upstream
// that does not tell its latest, as some proxies do not because the go command
// never asks for it, may still have the tile.
func (m *Mirror) reach(ctx context.Context, t tlog.Tile) (*head, error) {
	if err := m.thawed(); err != nil {
		return nil, err
	}
	if !m.connected() || implausible(t, m.Size()) {
		return nil, m.beyond(t)
	}
	m.mu.Lock()
	isNew := time.Since(m.asked) < refreshGrace
	m.mu.Unlock()
	if !isNew {
		err := m.Refresh(ctx)
		if errors.Is(err, ErrFrozen) || ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			m.log.Warn("cannot refresh the head for a tile beyond it", "tile", t.Path(), "size", m.Size(), "err", err)
		}
	}
	return m.head.Load(), nil
}

func (m *Mirror) beyond(t tlog.Tile) error {
	return fmt.Errorf("%s of %s: %w: this mirror ends at tree %d", t.Path(), m.name, ErrBeyond, m.Size())
}

// relay gets t, which h does not cover, and compares what h covers of it.
func (m *Mirror) relay(ctx context.Context, h *head, t tlog.Tile) ([]byte, error) {
	if t.L < 0 {
		return m.relayData(ctx, h, t)
	}
	data, err := m.fetchTile(ctx, t)
	if errors.Is(err, errNoTile) {
		return nil, m.beyond(t)
	}
	if err != nil {
		return nil, err
	}
	p := leaves(t)
	w := p.width(h.tree.N)
	if w == 0 {
		return data, nil
	}
	ours, _, err := m.hashTile(ctx, h, p.tile(w))
	if err != nil {
		return nil, err
	}
	if string(data[:len(ours)]) != string(ours) {
		return nil, fmt.Errorf("%w: %s of %s does not continue our tree %d", ErrInvalid, t.Path(), m.name, h.tree.N)
	}
	return data, nil
}

// hashTile returns t, which h covers. It is read as wide as it is under h, so
// that one request to upstream serves all widths.
func (m *Mirror) hashTile(ctx context.Context, h *head, t tlog.Tile) (data []byte, result string, err error) {
	data, _, err = m.heldTile(ctx, h, placeOf(t), t.W)
	if err != nil || data != nil {
		return data, "hit", err
	}
	if err := m.thawed(); err != nil {
		return nil, "", err
	}
	if !m.connected() {
		return nil, "", fmt.Errorf("%s of %s is not in this mirror, which has no upstream: %w", t.Path(), m.name, fs.ErrNotExist)
	}
	data, err = m.proveTile(ctx, h, placeOf(t))
	if err != nil {
		return nil, "", err
	}
	end := t.W * tlog.HashSize
	return data[:end:end], "miss", nil
}

// proveTile authenticates the tile at p, as wide as it is under h, to h, and
// stores what was not held. Those who need the same tile share the work: between
// the request to upstream and the store there is no moment in which somebody
// else would ask again.
func (m *Mirror) proveTile(ctx context.Context, h *head, p place) ([]byte, error) {
	t := p.tile(p.width(h.tree.N))
	flight := fmt.Sprintf("%s of tree %d", t.Path(), h.tree.N)
	data, err := m.share(ctx, flight, lookupTime, func(ctx context.Context) (any, error) {
		var data []byte
		tiles, err := m.prove(ctx, h.tree, h, func(r tlog.HashReader) (err error) {
			data, err = tlog.ReadTileData(t, r)
			return err
		})
		if err != nil {
			return nil, err
		}
		return data, m.save(ctx, tiles)
	})
	if err != nil {
		return nil, err
	}
	return data.([]byte), nil
}
