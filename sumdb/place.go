package sumdb

import (
	"cmp"
	"maps"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

const fullTile = tlog.HashSize << TileHeight // bytes

// place is the position of a hash tile, without its width.
type place struct {
	level  int
	number int64
}

func placeOf(t tlog.Tile) place { return place{t.L, t.N} }

// leavesOf returns the place of the hashes of t. For a data tile these are the hashes of its
// records.
func leavesOf(t tlog.Tile) place { return place{max(t.L, 0), t.N} }

// tile returns the tile of width w at p.
func (p place) tile(w int) tlog.Tile {
	return tlog.Tile{H: TileHeight, L: p.level, N: p.number, W: w}
}

// full returns the full tile at p.
func (p place) full() tlog.Tile { return p.tile(1 << TileHeight) }

// width returns how many hashes the tile at p has in a tree of the given size, 0 if the tree does
// not reach it.
func (p place) width(size int64) int { return TileWidth(p.full(), size) }

// fullTiles are proved, and not objects in the store yet.
type fullTiles map[place][]byte

// places returns the places of tiles, parents first.
func (tiles fullTiles) places() []place {
	return slices.SortedFunc(maps.Keys(tiles), func(a, b place) int {
		return cmp.Or(cmp.Compare(b.level, a.level), cmp.Compare(a.number, b.number))
	})
}
