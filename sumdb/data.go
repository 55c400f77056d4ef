package sumdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/memory"
)

// dataLimit bounds a data tile: 256 records of 4 KiB, where real ones have
// about 200 bytes.
const dataLimit = 1 << 20

// dataCopies is how often a data tile is in memory: as it came, and as the records that
// are made of it for those who wait and for the store.
const dataCopies = 3

// dataTile returns the data tile t, which h covers. Only a full one is stored;
// narrower ones are cut from it while the tile is full under h.
func (m *Mirror) dataTile(ctx context.Context, h *head, t tlog.Tile) (data []byte, result string, err error) {
	wide := t
	wide.W = leaves(t).width(h.tree.N)
	full := wide.W == 1<<TileHeight
	if full {
		data, err := m.heldData(ctx, wide, t.W)
		if err != nil || data != nil {
			return data, "hit", err
		}
	} else {
		wide = t // not stored, so there is no reason to ask for more
	}
	if err := m.thawed(); err != nil {
		return nil, "", err
	}
	if !m.connected() {
		return nil, "", fmt.Errorf("%s of %s is not in this mirror, which has no upstream: %w", t.Path(), m.name, fs.ErrNotExist)
	}
	records, err := m.fetchData(ctx, wide)
	if errors.Is(err, errNoTile) {
		err = fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if err != nil {
		return nil, "", err
	}
	if err := m.checkData(ctx, h, t.N, records); err != nil {
		return nil, "", err
	}
	if !full {
		return FormatDataTile(records), "relayed", nil
	}
	if err := m.replace(ctx, wide.Path(), FormatDataTile(records)); err != nil {
		return nil, "", err
	}
	return FormatDataTile(records[:t.W]), "miss", nil
}

// heldData returns the first w records of the full data tile, or nil if it is
// not held.
func (m *Mirror) heldData(ctx context.Context, full tlog.Tile, w int) ([]byte, error) {
	data, err := m.held(ctx, full.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || w == full.W {
		return data, err
	}
	records, err := parseDataTile(data, full.W)
	if err != nil {
		return nil, err
	}
	return FormatDataTile(records[:w]), nil
}

// fetchData gets the records of a data tile from upstream, unverified.
func (m *Mirror) fetchData(ctx context.Context, t tlog.Tile) ([][]byte, error) {
	shared, err := m.share(ctx, t.Path(), fileTime, func(ctx context.Context) (any, error) {
		held := m.config.Memory.HoldFor(ctx) // of what has come; a database that hangs takes none from others
		defer held.Free()
		records, err := m.fetchRecords(ctx, &held, t)
		if full := (tlog.Tile{H: t.H, L: t.L, N: t.N, W: 1 << TileHeight}); err != nil && t != full && ctx.Err() == nil {
			if records, err := m.fetchRecords(ctx, &held, full); err == nil {
				return records[:t.W], nil
			}
		}
		return records, err
	})
	if err != nil {
		return nil, err
	}
	return shared.([][]byte), nil
}

func (m *Mirror) fetchRecords(ctx context.Context, held *memory.Hold, t tlog.Tile) ([][]byte, error) {
	data, err := m.fetch(held.Context(ctx), t.Path(), dataLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %v", errNoTile, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), m.name, err)
	}
	if err := held.Grow(ctx, dataCopies*int64(len(data))); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), m.name, err)
	}
	records, err := parseDataTile(data, t.W)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), m.name, err)
	}
	return records, nil
}

// checkData compares records, which begin data tile number n and are all under
// h, with the level-0 hashes under h.
func (m *Mirror) checkData(ctx context.Context, h *head, n int64, records [][]byte) error {
	hashes, _, err := m.hashTile(ctx, h, place{0, n}.tile(len(records)))
	if err != nil {
		return err
	}
	for i, text := range records {
		hash := tlog.RecordHash(text)
		if !bytes.Equal(hash[:], hashes[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			return fmt.Errorf("%w: record %d in a data tile of %s is not what is in its tree",
				ErrInvalid, n<<TileHeight+int64(i), m.name)
		}
	}
	return nil
}

// relayData is relay for a data tile.
func (m *Mirror) relayData(ctx context.Context, h *head, t tlog.Tile) ([]byte, error) {
	records, err := m.fetchData(ctx, t)
	if errors.Is(err, errNoTile) {
		return nil, m.beyond(t)
	}
	if err != nil {
		return nil, err
	}
	if w := leaves(t).width(h.tree.N); w > 0 {
		if err := m.checkData(ctx, h, t.N, records[:w]); err != nil {
			return nil, err
		}
	}
	return FormatDataTile(records), nil
}
