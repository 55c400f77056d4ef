package sumdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
)

// maxOlder is how many smaller heads are remembered as proved. Upstream's caches
// show a few dozen at a time.
const maxOlder = 4096

// head is a tree head that was accepted. It does not change.
type head struct {
	tree tlog.Tree
	note []byte    // the text and the signature of the database, nothing else
	time time.Time // when it was accepted

	// tiles holds the partial tiles of the right edge, which are never objects
	// of their own because they change with every head. It also holds the full
	// tiles that were proved together with this head, until they are objects:
	// they must not reach the store before the head does, and must not be lost
	// after it.
	tiles map[place][]byte

	record []byte // what is stored; nil if nothing is
}

// headRecord is a head as it is stored: the record of the head, and without
// tiles an entry of the history.
type headRecord struct {
	Time  time.Time         `json:"time"`
	Note  string            `json:"note"`
	Tiles map[string][]byte `json:"tiles,omitempty"` // by path
}

// openHead takes a signed head apart. Only our key counts, and of all its
// signatures only that one is kept.
func (m *Mirror) openHead(msg []byte) (*head, error) {
	n, err := note.Open(msg, note.VerifierList(m.verifier))
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

func (h *head) encode(withTiles bool) ([]byte, error) {
	record := headRecord{Time: h.time, Note: string(h.note)}
	if withTiles {
		record.Tiles = make(map[string][]byte, len(h.tiles))
		for p, data := range h.tiles {
			record.Tiles[p.tile(len(data)/tlog.HashSize).Path()] = data
		}
	}
	return json.Marshal(record)
}

// decodeHead is the inverse of encode. The head is verified, its tiles are not.
func (m *Mirror) decodeHead(data []byte) (*head, error) {
	var record headRecord
	if err := json.Unmarshal(data, &record); err != nil {
		return nil, err
	}
	h, err := m.openHead([]byte(record.Note))
	if err != nil {
		return nil, err
	}
	h.time = record.Time
	h.tiles = make(map[place][]byte, len(record.Tiles))
	for path, data := range record.Tiles {
		t, err := tlog.ParseTilePath(path)
		if err != nil || !KnownTile(t) || t.L < 0 || !h.covers(t) || len(data) != t.W*tlog.HashSize {
			return nil, fmt.Errorf("malformed tile %s", path)
		}
		h.tiles[placeOf(t)] = data
	}
	return h, nil
}

// complete says whether h has all tiles of its right edge.
func (h *head) complete() bool {
	for level := 0; h.tree.N>>(8*level) > 0; level++ {
		count := h.tree.N >> (8 * level)
		if w := int(count & 255); w > 0 && h.tile(place{level, count >> 8}, w) == nil {
			return false
		}
	}
	return true
}

// tile returns the first w hashes of the tile at p, or nil if h has not got
// that many.
func (h *head) tile(p place, w int) []byte {
	data, end := h.tiles[p], w*tlog.HashSize
	if len(data) < end {
		return nil
	}
	return data[:end:end]
}

// load reads the stored head. If it is damaged or gone, but others were
// accepted before, the newest of these takes its place: the log may grow from
// there, but not shrink or change.
func (m *Mirror) load(ctx context.Context) error {
	record, err := m.store.Record(ctx, m.key("latest"))
	var damage error
	if errors.Is(err, storage.ErrDamaged) {
		damage = err // the next head replaces it
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stored tree head: %w", err)
	}
	if err == nil {
		h, err := m.decodeHead(record)
		if err == nil {
			h.record = record
			return m.resume(ctx, h)
		}
		damage = err
		if record == nil {
			record = []byte{} // there is a record, and it is empty
		}
	}
	h, err := m.recall(ctx)
	if err != nil {
		return err
	}
	if h == nil && damage != nil {
		return fmt.Errorf("stored tree head does not verify and there is no history to go back to: %w; "+
			"check that the key is that of the database, then restore the store from a backup; "+
			"an empty store would trust whatever head it is shown first", damage)
	}
	if h == nil {
		return nil
	}
	m.log.Error("stored tree head is damaged or missing; continuing from the history", "size", h.tree.N, "err", damage)
	h.record = record
	m.head.Store(h)
	return nil
}

// resume makes h, which was stored, our head again. Tiles that do not verify are
// dropped; what was interrupted is completed.
func (m *Mirror) resume(ctx context.Context, h *head) error {
	if err := m.checkTiles(ctx, h); err != nil {
		m.log.Error("stored tiles do not verify; they will be fetched again", "size", h.tree.N, "err", err)
		h.tiles = nil
	}
	m.head.Store(h)
	m.settle(ctx, h)
	return ctx.Err()
}

// checkTiles proves all tiles of h with nothing but what is held.
func (m *Mirror) checkTiles(ctx context.Context, h *head) error {
	var indexes []int64
	for p := range h.tiles {
		indexes = append(indexes, tlog.StoredHashIndex(8*p.level, p.number<<8))
	}
	if len(indexes) == 0 {
		return nil
	}
	r := newReader(ctx, m, h, held)
	_, err := tlog.TileHashReader(h.tree, r).ReadHashes(indexes)
	return err
}

// accept proves that the signed head msg and ours are of one log, and makes it
// ours if it is larger. from says where it was seen. The error is ErrInvalid if
// msg is no head of the database or cannot be proved, and ErrFrozen if it is the
// head of a fork, or one was seen before.
func (m *Mirror) accept(ctx context.Context, msg []byte, from string) error {
	theirs, err := m.openHead(msg)
	if err != nil {
		m.metrics.heads.WithLabelValues("refused").Inc()
		return fmt.Errorf("%w: tree head in %s of %s: %v", ErrInvalid, from, m.name, err)
	}
	if ours := m.head.Load(); ours != nil && theirs.tree.N <= ours.tree.N {
		return m.acceptOlder(ctx, ours, theirs, from)
	}
	if err := m.takeTurn(ctx); err != nil {
		return err
	}
	defer m.giveTurn()
	const attempts = 10 // somebody else can win a race only by moving the head
	for range attempts {
		ours := m.head.Load()
		if ours != nil && theirs.tree.N <= ours.tree.N {
			return m.acceptOlder(ctx, ours, theirs, from)
		}
		err = m.advance(ctx, ours, theirs, from)
		if !errors.Is(err, storage.ErrConflict) {
			return err
		}
		if err := m.adopt(ctx, ours); err != nil {
			return err
		}
	}
	return err
}

// acceptOlder proves that theirs, which is not larger than ours, is a prefix
// of it.
func (m *Mirror) acceptOlder(ctx context.Context, ours, theirs *head, from string) error {
	if theirs.tree == ours.tree || m.isOlder(theirs.tree) {
		return nil
	}
	if err := m.thawed(); err != nil {
		return err
	}
	found, err := m.compare(ctx, theirs.tree, ours.tree, ours)
	if err != nil {
		m.countRefused(err)
		return err
	}
	if found.root != theirs.tree.Hash {
		return m.freeze(ours, theirs, found, from)
	}
	if err := m.save(ctx, found.tiles); err != nil {
		return err
	}
	m.addOlder(theirs.tree)
	m.metrics.heads.WithLabelValues("older").Inc()
	return nil
}

// advance proves that ours, nil before the first one, is a prefix of theirs, and
// makes theirs our head. The turn is ours. By reading the tiles of the old edge
// under the new head it makes sure that whatever was answerable stays so.
func (m *Mirror) advance(ctx context.Context, ours, theirs *head, from string) error {
	if err := m.thawed(); err != nil {
		return err
	}
	var old tlog.Tree
	old.Hash, _ = tlog.TreeHash(0, nil)
	if ours != nil {
		old = ours.tree
	}
	found, err := m.compare(ctx, old, theirs.tree, ours)
	if err != nil {
		m.countRefused(err)
		return err
	}
	if found.root != old.Hash {
		return m.freeze(ours, theirs, found, from)
	}
	next := *theirs
	next.tiles = found.tiles
	if ours != nil {
		next.inherit(ours)
	}
	if err := m.commit(ctx, ours, &next); err != nil {
		return err
	}
	if ours != nil {
		m.addOlder(ours.tree)
	}
	m.metrics.heads.WithLabelValues("advanced").Inc()
	m.log.Info("tree head advanced", "size", next.tree.N, "from", old.N, "source", from)
	return nil
}

// countRefused counts a head that could not be proved, as opposed to one whose
// tiles could not be had.
func (m *Mirror) countRefused(err error) {
	if errors.Is(err, ErrInvalid) {
		m.metrics.heads.WithLabelValues("refused").Inc()
	}
}

// inherit takes over the full tiles of old that are not in the store yet.
func (h *head) inherit(old *head) {
	for p, data := range old.tiles {
		if len(data) == fullTile && h.tiles[p] == nil {
			h.tiles[p] = data
		}
	}
}

// comparison is what two trees were found to have in common.
type comparison struct {
	older, newer tlog.Tree
	root         tlog.Hash      // of the first older.N records of newer
	proof        tlog.TreeProof // of root, if it is not that of older
	tiles        map[place][]byte
}

// compare computes the root that newer had at the size of older, from tiles that
// authenticate to newer. base is the head whose tiles are held. If newer is no
// head of ours, its edge is among the tiles.
func (m *Mirror) compare(ctx context.Context, older, newer tlog.Tree, base *head) (comparison, error) {
	found := comparison{older: older, newer: newer}
	tiles, err := m.prove(ctx, newer, base, func(r tlog.HashReader) error {
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

// commit makes next our head in the place of ours: stored first, seen then, and
// what else belongs to it last. The error is storage.ErrConflict if the stored
// head is not ours.
func (m *Mirror) commit(ctx context.Context, ours, next *head) error {
	record, err := next.encode(true)
	if err != nil {
		return err
	}
	var old []byte
	if ours != nil {
		old = ours.record
	}
	if err := m.swapRecord(ctx, old, record); err != nil {
		return fmt.Errorf("store tree head %d of %s: %w", next.tree.N, m.name, err)
	}
	next.record = record
	m.head.Store(next)
	m.settle(context.WithoutCancel(ctx), next)
	return nil
}

// swapRecord makes value the stored head if that is old, or if its bytes are
// damaged: then it can be compared with nothing, and the history has what it was.
func (m *Mirror) swapRecord(ctx context.Context, old, value []byte) error {
	key := m.key("latest")
	err := m.store.SwapRecord(ctx, key, old, value)
	if !errors.Is(err, storage.ErrDamaged) {
		return err
	}
	m.log.Error("stored tree head is damaged; replacing it", "err", err)
	if err := m.store.DeleteRecord(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return m.store.SwapRecord(ctx, key, nil, value)
}

// settle does what follows from h being stored: h goes into the history, its
// full tiles become objects. What fails is logged and done at the next start;
// until then the tiles are answered from the head.
func (m *Mirror) settle(ctx context.Context, h *head) {
	if err := m.remember(ctx, h); err != nil {
		m.log.Error("tree head not in history", "size", h.tree.N, "err", err)
	}
	settled := *h
	settled.tiles = make(map[place][]byte, len(h.tiles))
	for p, data := range h.tiles {
		if len(data) == fullTile {
			err := m.saveTile(ctx, p, data)
			if err == nil {
				continue
			}
			m.log.Error("tile not stored", "tile", p.tile(256).Path(), "err", err)
		}
		settled.tiles[p] = data
	}
	m.head.CompareAndSwap(h, &settled)
}

// adopt makes the stored head ours after somebody else moved it from ours. The
// turn is ours. A stored head that is no continuation of ours is a fork like any
// other.
func (m *Mirror) adopt(ctx context.Context, ours *head) error {
	record, err := m.store.Record(ctx, m.key("latest"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stored tree head: %w", err)
	}
	var stored *head
	if err == nil {
		if stored, err = m.decodeHead(record); err == nil {
			stored.record = record
			if m.checkTiles(ctx, stored) != nil {
				stored.tiles = nil
			}
		}
	}
	switch {
	case err != nil && ours == nil:
		return fmt.Errorf("stored tree head: %w", err)
	case err != nil:
		// Gone or damaged underneath us: ours takes its place.
		m.log.Error("stored tree head is damaged or gone", "size", ours.tree.N, "err", err)
		return m.rewrite(ours, record)
	case ours == nil:
		m.head.Store(stored)
		return nil
	case stored.tree.N <= ours.tree.N:
		if err := m.acceptOlder(ctx, ours, stored, "the store"); err != nil {
			return err
		}
		return m.rewrite(ours, record)
	}
	found, err := m.compare(ctx, ours.tree, stored.tree, stored)
	if err != nil {
		return err
	}
	if found.root != ours.tree.Hash {
		return m.freeze(ours, stored, found, "the store")
	}
	next := *stored
	next.tiles = found.tiles
	next.inherit(stored)
	next.inherit(ours)
	m.head.Store(&next)
	m.addOlder(ours.tree)
	return nil
}

// rewrite makes the next commit replace record, whatever it is.
func (m *Mirror) rewrite(ours *head, record []byte) error {
	same := *ours
	same.record = record
	m.head.Store(&same)
	return nil
}

// mend gets the edge of a head that was recalled from the history, which does
// not keep it.
func (m *Mirror) mend(ctx context.Context) error {
	if h := m.head.Load(); h == nil || h.complete() {
		return nil
	}
	if err := m.takeTurn(ctx); err != nil {
		return err
	}
	defer m.giveTurn()
	ours := m.head.Load()
	if ours.complete() {
		return nil
	}
	found, err := m.compare(ctx, ours.tree, ours.tree, ours)
	if err != nil {
		return err
	}
	next := *ours
	next.tiles = found.tiles
	next.inherit(ours)
	return m.commit(ctx, ours, &next)
}

func (m *Mirror) isOlder(tree tlog.Tree) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.older[tree]
	return ok
}

// addOlder remembers that tree is a prefix of our head, and so of every later one.
func (m *Mirror) addOlder(tree tlog.Tree) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.older) >= maxOlder {
		clear(m.older)
	}
	m.older[tree] = struct{}{}
}
