package sumdb_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// tamperSizes returns all small tree sizes, and those around the edges of tiles.
func tamperSizes() []int64 {
	var sizes []int64
	for size := int64(1); size <= 20; size++ {
		sizes = append(sizes, size)
	}
	return append(sizes, 255, 256, 257, 300, 511, 512, 513, 600)
}

// flip makes upstream serve one wrong byte in one hash, in every width of the tile.
func flip(log *sumdbtest.Log, tile tlog.Tile, hash, offset int) {
	place := strings.TrimSuffix(tlog.Tile{H: 8, L: tile.L, N: tile.N, W: 256}.Path(), ".p")
	log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
		base, _, _ := strings.Cut(path, ".p/")
		at := hash*tlog.HashSize + offset
		if err != nil || base != place || at >= len(data) {
			return data, err
		}
		data = bytes.Clone(data)
		data[at] ^= 0x40
		return data, nil
	})
}

// Upstream serves each stored hash of each tile wrong in turn. A mirror without a head, one with
// the newest head and one with an older head then return the truth or an error, and nothing wrong
// is ever stored.
func TestTamper(t *testing.T) {
	for _, size := range tamperSizes() {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			log, evidence := newLog(t, size), t.TempDir()
			var tiles []tlog.Tile
			for level := 0; size>>(8*level) > 0; level++ {
				for n := int64(0); n<<8 < size>>(8*level); n++ {
					tiles = append(tiles, tlog.Tile{H: 8, L: level, N: n, W: int(min(size>>(8*level)-n<<8, 256))})
				}
			}
			for _, tile := range tiles {
				for hash := 0; hash < tile.W; hash += step(tile.W, hash) {
					for i, offset := range []int{0, 15, tlog.HashSize - 1} {
						if size > 8 && i != hash%3 {
							continue // one of the three kinds of mirror
						}
						tamper(t, log, evidence, size, tile, hash, offset)
					}
				}
			}
			if files := evidenceFiles(t, evidence); len(files) > 0 {
				t.Errorf("evidence of a fork, though nothing but tiles was wrong: %q", files)
			}
		})
	}
}

// step makes the loop over a wide tile visit its ends and samples between.
func step(w, at int) int {
	if w <= 32 || at < 2 || at >= w-3 {
		return 1
	}
	return min(41, w-2-at)
}

func tamper(t *testing.T, log *sumdbtest.Log, evidence string, size int64, tile tlog.Tile, hash, offset int) {
	t.Helper()
	what := fmt.Sprintf("size %d, %s, hash %d, byte %d", size, tile.Path(), hash, offset)
	for _, known := range []int64{0, size / 2, size} {
		log.Tamper(nil)
		store := newMemory(t)
		m := open(t, log, store, evidence, log.Fetch)
		if known > 0 {
			log.ShowLatest(known)
			refresh(t, m)
			log.ShowLatest(-1)
		}
		flip(log, tile, hash, offset)
		before := m.Size()
		read(t, what, m, log, size, tile, hash)
		log.Tamper(nil)
		checkStore(t, store, log)
		if _, frozen := m.Frozen(); frozen {
			t.Fatalf("%s: frozen, though nothing but tiles was wrong", what)
		}
		if m.Size() < before {
			t.Fatalf("%s: the head went back to %d", what, m.Size())
		}
		// No error is remembered.
		refresh(t, m)
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, trueTile(t, log, tile)) {
			t.Fatalf("%s: Tile afterwards = %d bytes, %v", what, len(got), err)
		}
		lookup(t, m, sumdbtest.Filler(min(tile.N<<(8*(tile.L+1))+int64(hash)<<(8*tile.L), size-1)))
		m.Close()
	}
}

// read reads everything that depends on the wrong hash.
func read(t *testing.T, what string, m *sumdb.Mirror, log *sumdbtest.Log, size int64, tile tlog.Tile, hash int) {
	t.Helper()
	_ = m.Refresh(t.Context()) // may fail, must not accept the wrong hash
	if head, err := m.Latest(t.Context()); err == nil && !bytes.Equal(head, log.Head(m.Size())) {
		t.Fatalf("%s: wrong head %q", what, head)
	}
	if got, err := m.Tile(t.Context(), tile); err == nil && m.Size() == size && !bytes.Equal(got, trueTile(t, log, tile)) {
		t.Fatalf("%s: a wrong tile was answered", what)
	}
	first := (tile.N<<8 + int64(hash)) << (8 * tile.L)
	for _, id := range slices.Compact([]int64{first, min(first+1<<(8*tile.L)-1, size-1), 0, size - 1}) {
		record, err := m.Lookup(t.Context(), sumdbtest.Filler(id))
		want := sumdbtest.Text(sumdbtest.Filler(id), sumdbtest.Hash(sumdbtest.Filler(id).Path), sumdbtest.Hash(sumdbtest.Filler(id).Path+"/go.mod"))
		if err == nil && (record.ID != id || !bytes.Equal(record.Text, want)) {
			t.Fatalf("%s: Lookup of record %d = %d %q", what, id, record.ID, record.Text)
		}
	}
}

func trueTile(t *testing.T, log *sumdbtest.Log, tile tlog.Tile) []byte {
	t.Helper()
	data, err := log.Tile(tile)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A response that is not a tile is refused, and the tile is fetched again next time.
func TestTileTrouble(t *testing.T) {
	t.Parallel()
	log := newLog(t, 600)
	tile := tlog.Tile{H: 8, L: 0, N: 0, W: 256}
	for name, answer := range map[string]string{
		"empty":      "",
		"error text": "Not found",
		"HTML":       "<html>" + strings.Repeat("please sign in ", 600) + "</html>",
		"too short":  strings.Repeat("x", 8191),
		"too long":   strings.Repeat("x", 8193),
		"random":     strings.Repeat("x", 8192),
	} {
		t.Run(name, func(t *testing.T) {
			store := newMemory(t)
			m := open(t, log, store, "", log.Fetch)
			refresh(t, m)
			log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
				if strings.HasPrefix(path, "tile/8/0/000") {
					return []byte(answer), nil
				}
				return data, err
			})
			got, err := m.Tile(t.Context(), tile)
			if err == nil {
				t.Errorf("Tile = %.40q, want an error", got)
			}
			if len(answer) <= 8192 { // the FetchFunc itself refuses longer responses
				checkInvalid(t, err)
			}
			_, err = m.Lookup(t.Context(), sumdbtest.Filler(3))
			if err == nil {
				t.Error("Lookup succeeded without a proof")
			}
			log.Tamper(nil)
			checkStore(t, store, log)
			if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, trueTile(t, log, tile)) {
				t.Errorf("Tile afterwards = %d bytes, %v", len(got), err)
			}
			lookup(t, m, sumdbtest.Filler(3))
		})
	}
}

// Data tiles: each record wrong in turn, and malformed data tiles.
func TestDataTileTrouble(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	store := newMemory(t)
	m := open(t, log, store, "", log.Fetch)
	refresh(t, m)
	full, edge := tlog.Tile{H: 8, L: -1, N: 0, W: 256}, tlog.Tile{H: 8, L: -1, N: 1, W: 44}
	for _, tile := range []tlog.Tile{full, edge} {
		data := trueTile(t, log, tile)
		other := trueTile(t, log, tlog.Tile{H: 8, L: -1, N: 1 - tile.N, W: 44})
		bad := map[string][]byte{
			"empty":       {},
			"error text":  []byte("Not found\n"),
			"cut":         data[:len(data)/2],
			"more":        append(bytes.Clone(data), "more\n\n"...),
			"control":     append([]byte{0}, data...),
			"another one": other,
			"with ids":    append([]byte("0\n"), data...),
		}
		for i := 0; i < len(data); i += len(data)/40 + 1 {
			changed := bytes.Clone(data)
			changed[i] ^= 1
			bad[fmt.Sprint("byte ", i)] = changed
		}
		for name, answer := range bad {
			log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
				if strings.HasPrefix(path, "tile/8/data/") {
					return answer, nil
				}
				return data, err
			})
			_, err := m.Tile(t.Context(), tile)
			if err == nil {
				t.Errorf("%s, %s: accepted", tile.Path(), name)
			}
			checkInvalid(t, err)
		}
		log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
			if strings.HasPrefix(path, "tile/8/data/") {
				return nil, fs.ErrNotExist
			}
			return data, err
		})
		checkInvalid(t, second(m.Tile(t.Context(), tile))) // not absence: it is under a signed head
		// The form of other servers: nothing after the last record.
		log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
			return bytes.TrimSuffix(data, []byte("\n")), err
		})
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, data) {
			t.Errorf("Tile(%s) in the short form = %d bytes, %v", tile.Path(), len(got), err)
		}
		log.Tamper(nil)
	}
	checkStore(t, store, log)
	before := log.Requests("")
	narrow := full
	narrow.W = 77
	if got, err := m.Tile(t.Context(), narrow); err != nil || !bytes.Equal(got, trueTile(t, log, narrow)) {
		t.Errorf("narrow data tile = %d bytes, %v", len(got), err)
	}
	if log.Requests("") != before {
		t.Error("a narrow data tile was asked for, though the full one is held")
	}
}
