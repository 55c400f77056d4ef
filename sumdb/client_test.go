package sumdb_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	modsumdb "golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// verify looks up modules of log in m, like a go command whose newest head is latest, which may be
// empty.
func verify(t *testing.T, m *sumdb.Mirror, log *sumdbtest.Log, latest []byte, ids ...int64) {
	t.Helper()
	ops := &sumdbtest.Client{Key: log.Key, Seen: latest, Cached: true, Remote: func(path string) ([]byte, error) {
		return answers(t.Context(), m, strings.TrimPrefix(path, "/"))
	}}
	c := modsumdb.NewClient(ops)
	for _, id := range ids {
		mod := sumdbtest.Filler(id)
		lines, err := c.Lookup(mod.Path, mod.Version)
		want := fmt.Sprintf("%s %s %s", mod.Path, mod.Version, sumdbtest.Hash(mod.Path))
		if err != nil || len(lines) != 1 || lines[0] != want {
			t.Fatalf("a client with the head %.30q looks up record %d at size %d: %q, %v", latest, id, m.Size(), lines, err)
		}
	}
	if err := ops.Broken(); err != nil {
		t.Fatalf("security error: %v", err)
	}
}

// An answer, once given, can be given again forever, without upstream and after a restart, across
// any number of advances of any width: to a new client, to clients with any of our heads, and tile
// by tile.
func TestEverythingSeenStaysAnswerable(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			log := newLog(t, 1+random.Int64N(300))
			store := newStore(t)
			var heads []int64               // that were ours
			seen := map[int64]bool{0: true} // records that were looked up
			for range 10 {
				m := open(t, log, store, "", log.Fetch)
				log.ShowLookup(random.Int64N(log.Size()) + 1)
				for range random.IntN(4) {
					id := random.Int64N(log.Size())
					if _, err := m.Lookup(t.Context(), sumdbtest.Filler(id)); err == nil {
						seen[id] = true
					} else if id < m.Size() {
						t.Fatalf("Lookup of record %d at size %d: %v", id, m.Size(), err)
					}
					heads = append(heads, m.Size())
				}
				log.ShowLookup(-1)
				refresh(t, m)
				lookup(t, m, sumdbtest.Filler(0))
				heads = append(heads, m.Size())
				m.Close()
				store.reopen()
				checkOffline(t, random, log, store, heads, seen)
				grow(random, log)
			}
			checkStore(t, store, log)
		})
	}
}

// grow makes log larger by an amount near a tile boundary, or by a random one.
func grow(random *rand.Rand, log *sumdbtest.Log) {
	size := log.Size()
	switch random.IntN(4) {
	case 0:
		log.Fill(size + 1)
	case 1:
		log.Fill(size + random.Int64N(200))
	case 2:
		log.Fill((size>>8+1)<<8 + random.Int64N(3) - 1)
	case 3:
		log.Fill(size + random.Int64N(2000))
	}
}

func checkOffline(t *testing.T, random *rand.Rand, log *sumdbtest.Log, store *realStore, heads []int64, seen map[int64]bool) {
	t.Helper()
	m := open(t, log, store, "", nil)
	var ids []int64
	for id := range seen {
		ids = append(ids, id)
	}
	verify(t, m, log, nil, ids...)
	for _, size := range heads {
		if size == 0 {
			continue
		}
		verify(t, m, log, log.Head(size), ids[random.IntN(len(ids))])
		for level := 0; size>>(8*level) > 0; level++ {
			count := size >> (8 * level)
			widest := int(count & 255)
			for _, w := range []int{1, widest / 2, widest} {
				if w == 0 || widest == 0 {
					continue
				}
				tile := tlog.Tile{H: 8, L: level, N: count >> 8, W: w}
				want, _ := log.Tile(tile)
				if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("at size %d, %s of the head %d: %d bytes, %v", m.Size(), tile.Path(), size, len(got), err)
				}
			}
		}
	}
}

// The same test across the step into the third level of tiles.
func TestThirdLevelStaysAnswerable(t *testing.T) {
	if testing.Short() {
		t.Skip("a log of 66,000 records")
	}
	t.Parallel()
	log, store, m := mirrored(t, 300)
	lookup(t, m, sumdbtest.Filler(7))
	lookup(t, m, sumdbtest.Filler(290))
	log.Fill(65000)
	refresh(t, m)
	log.Fill(65536 + 300)
	refresh(t, m)
	lookup(t, m, sumdbtest.Filler(40000))
	m.Close()
	store.reopen()
	checkOffline(t, rand.New(rand.NewPCG(1, 1)), log, store, []int64{300, 65000, 65836},
		map[int64]bool{7: true, 290: true, 40000: true})
	checkStore(t, store, log)
}

// A client whose head is newer than ours, and a client with a head of a log that did not grow from
// ours.
func TestClientAhead(t *testing.T) {
	t.Parallel()
	log := newLog(t, 500)
	log.ShowLatest(300)
	log.ShowLookup(300)
	m := open(t, log, newStore(t), "", log.Fetch)
	lookup(t, m, sumdbtest.Filler(3))
	verify(t, m, log, log.Head(500), 3, 299)
	if m.Size() != 300 {
		t.Errorf("Size = %d, want 300", m.Size())
	}
	log.ShowLatest(-1)
	log.ShowLookup(-1)
	verify(t, m, log, log.Head(500), 4, 499)
}
