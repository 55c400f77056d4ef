package sumdb

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// head is an accepted tree head. It does not change.
type head struct {
	tree tlog.Tree
	note []byte    // the text and the signature of the database only
	time time.Time // when it was accepted

	// tiles holds the partial tiles of the right edge, which are never objects of their own because
	// they change with every head. It also holds the full tiles that were proved together with this
	// head until they are stored as objects: that must not happen before the head is stored, and
	// they must not be lost after it.
	tiles map[place][]byte

	state []byte // the stored bytes; nil if the head is not stored
}

// headState is the stored form of a head. Entries of the history have no tiles.
type headState struct {
	Time  time.Time         `json:"time"`
	Note  string            `json:"note"`
	Tiles map[string][]byte `json:"tiles,omitempty"` // by path
}

// openHead parses a head that key signed. It keeps no other signatures.
func openHead(msg []byte, key note.Verifier) (*head, error) {
	n, err := note.Open(msg, note.VerifierList(key))
	if err != nil {
		return nil, err
	}
	tree, err := tlog.ParseTree([]byte(n.Text))
	if err != nil {
		return nil, err
	}
	empty, _ := tlog.TreeHash(0, nil)
	if tree.N > MaxTree || tree.N == 0 && tree.Hash != empty {
		return nil, fmt.Errorf("impossible tree of size %d", tree.N)
	}
	n.UnverifiedSigs = nil
	signed, err := note.Sign(n)
	if err != nil {
		return nil, err
	}
	return &head{tree: tree, note: signed, time: time.Now().UTC()}, nil
}

// stored returns the stored bytes of h, nil if h is nil or not stored.
func (h *head) stored() []byte {
	if h == nil {
		return nil
	}
	return h.state
}

func (h *head) encode(withTiles bool) ([]byte, error) {
	state := headState{Time: h.time, Note: string(h.note)}
	if withTiles {
		state.Tiles = make(map[string][]byte, len(h.tiles))
		for p, data := range h.tiles {
			state.Tiles[p.tile(len(data)/tlog.HashSize).Path()] = data
		}
	}
	return json.Marshal(state)
}

// decodeHead is the inverse of encode. The head is verified, its tiles are not.
func decodeHead(data []byte, key note.Verifier) (*head, error) {
	var state headState
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, err
	}
	h, err := openHead([]byte(state.Note), key)
	if err != nil {
		return nil, err
	}
	h.time = state.Time
	h.tiles = make(map[place][]byte, len(state.Tiles))
	for path, data := range state.Tiles {
		t, err := tlog.ParseTilePath(path)
		if err != nil || !KnownTile(t) || t.L < 0 || !h.covers(t) || len(data) != t.W*tlog.HashSize {
			return nil, fmt.Errorf("malformed tile %s", path)
		}
		h.tiles[placeOf(t)] = data
	}
	return h, nil
}

// complete reports whether h has all tiles of its right edge.
func (h *head) complete() bool {
	for level := 0; h.tree.N>>(TileHeight*level) > 0; level++ {
		count := h.tree.N >> (TileHeight * level) // of the hashes at the level
		if w := int(count % (1 << TileHeight)); w > 0 && h.tile(place{level, count >> TileHeight}, w) == nil {
			return false
		}
	}
	return true
}

// tile returns the first w hashes of the tile at p, or nil if h does not have that many.
func (h *head) tile(p place, w int) []byte {
	data, end := h.tiles[p], w*tlog.HashSize
	if len(data) < end {
		return nil
	}
	return data[:end:end]
}

// covers reports whether the tree of h has all of t.
func (h *head) covers(t tlog.Tile) bool { return t.W <= leavesOf(t).width(h.tree.N) }

// full returns the full tiles of h, which are not objects yet.
func (h *head) full() fullTiles {
	full := fullTiles{}
	for at, data := range h.tiles {
		if len(data) == fullTile {
			full[at] = data
		}
	}
	return full
}

// archived returns h without the tiles that are objects now.
func (h *head) archived(stored fullTiles) *head {
	rest := *h
	rest.tiles = maps.Clone(h.tiles)
	for at := range stored {
		delete(rest.tiles, at)
	}
	return &rest
}

// replacing returns h as a head whose next commit replaces state, whatever it contains.
func (h *head) replacing(state []byte) *head {
	same := *h
	same.state = state
	return &same
}

// with returns h, which may be nil, with the tiles of other too: those that proved it once.
func (h *head) with(other *head) *head {
	if h == nil || other.tiles == nil {
		return h
	}
	both := *h
	both.tiles = make(map[place][]byte)
	maps.Copy(both.tiles, h.tiles)
	maps.Copy(both.tiles, other.tiles)
	return &both
}

// inherit takes over the full tiles of old that are not in the store yet.
func (h *head) inherit(old *head) {
	for p, data := range old.tiles {
		if len(data) == fullTile && h.tiles[p] == nil {
			h.tiles[p] = data
		}
	}
}
