package sumdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 300)
	mod := sumdbtest.Filler(17)

	record := lookup(t, m, mod)
	if want := sumdbtest.Text(mod, sumdbtest.Hash(mod.Path), sumdbtest.Hash(mod.Path+"/go.mod")); record.ID != 17 || !bytes.Equal(record.Text, want) {
		t.Errorf("Lookup = %d %q, want 17 %q", record.ID, record.Text, want)
	}
	zip, gomod, err := record.Hashes(mod)
	if err != nil || zip != sumdbtest.Hash(mod.Path) || gomod != sumdbtest.Hash(mod.Path+"/go.mod") {
		t.Errorf("Hashes = %q, %q, %v", zip, gomod, err)
	}
	if m.Size() != 300 {
		t.Errorf("Size = %d, want that of the head in the reply", m.Size())
	}
	body, err := m.Reply(t.Context(), record)
	if want, _ := log.ServeFile("lookup/" + mod.Path + "@" + mod.Version); err != nil || !bytes.Equal(body, want) {
		t.Errorf("Reply = %q, %v, want %q", body, err, want)
	}

	before := log.Requests("")
	lookup(t, m, mod)
	if _, err := m.Held(t.Context(), mod); err != nil {
		t.Errorf("Held: %v", err)
	}
	if n := log.Requests("") - before; n != 0 {
		t.Errorf("%d requests to upstream for what is held", n)
	}
	if _, err := m.Held(t.Context(), sumdbtest.Filler(18)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Held of what is not: %v, want fs.ErrNotExist", err)
	}
	checkStore(t, store, log)
}

// Unusual names work like others: uppercase, toolchains, versions from before modules, and a
// database with a path.
func TestNames(t *testing.T) {
	t.Parallel()
	log := sumdbtest.NewLog(t, "sum.corp.example/go/2")
	shown := log
	store, evidence := newStore(t), t.TempDir()
	m := open(t, log, store, evidence, fetchFrom(&shown))
	mods := []module.Version{
		{Path: "github.com/BurntSushi/toml", Version: "v1.6.0"},
		{Path: "golang.org/toolchain", Version: "v0.0.1-go1.26.8.linux-amd64"},
		{Path: "example.com/old", Version: "v4.0.0+incompatible"},
		{Path: "example.com/Pseudo/v2", Version: "v2.0.0-20261120101500-0123456789AB"},
	}
	for id, mod := range mods {
		log.Add(mod, sumdbtest.Hash(mod.Path), sumdbtest.Hash(mod.Version))
		if record := lookup(t, m, mod); record.ID != int64(id) {
			t.Errorf("Lookup(%v) = %d, want %d", mod, record.ID, id)
		}
	}
	m.Close()
	store.reopen()
	m = open(t, log, store, evidence, fetchFrom(&shown))
	for _, mod := range mods {
		if _, err := m.Held(t.Context(), mod); err != nil {
			t.Errorf("Held(%v): %v", mod, err)
		}
	}
	shown = forkOf(log, 2, 10)
	if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Refresh = %v, want ErrFrozen", err)
	}
	if _, frozen := open(t, log, store, evidence, nil).Frozen(); !frozen {
		t.Error("not frozen after a restart")
	}
}

// A reply carries our newest head, not the one that came with the record.
func TestReplyHasOurHead(t *testing.T) {
	t.Parallel()
	log, _, m := mirrored(t, 40)
	record := lookup(t, m, sumdbtest.Filler(3))
	log.Fill(600)
	refresh(t, m)
	log.ShowLookup(50)
	for _, r := range []sumdb.Record{record, lookup(t, m, sumdbtest.Filler(4))} {
		body, err := m.Reply(t.Context(), r)
		if err != nil || !bytes.HasSuffix(body, log.Head(600)) {
			t.Errorf("Reply(%d) = %q, %v, want the head of size 600", r.ID, body, err)
		}
	}
	latest, err := m.Latest(t.Context())
	if err != nil || !bytes.Equal(latest, log.Head(600)) {
		t.Errorf("Latest = %q, %v", latest, err)
	}
}

// Signatures of other keys and text around the record never reach a client.
func TestNothingUnverifiedIsKept(t *testing.T) {
	t.Parallel()
	log := newLog(t, 20)
	mod := sumdbtest.Filler(5)
	log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
		if path == "latest" || strings.HasPrefix(path, "lookup/") {
			data = append(bytes.Clone(data), "— foreign.example AAAAAAAAAAA=\n"...)
		}
		return data, err
	})
	store := newStore(t)
	m := open(t, log, store, "", log.Fetch)
	body, err := m.Reply(t.Context(), lookup(t, m, mod))
	if err != nil || bytes.Contains(body, []byte("foreign")) {
		t.Errorf("Reply = %q, %v", body, err)
	}
	for _, key := range store.keys() {
		data := readObject(t, store, key)
		if bytes.Contains(data, []byte("foreign")) {
			t.Errorf("%s has foreign text: %q", key, data)
		}
	}
	if bytes.Contains(store.head(), []byte("foreign")) {
		t.Error("stored head has foreign text")
	}
}

// Concurrent lookups of one module cause one request to upstream. A caller that leaves early does
// not disturb the others; when the last one leaves, the work ends.
func TestLookupIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 30)
		mod := sumdbtest.Filler(9)
		answer := make(chan struct{})
		ended := 0
		m := open(t, log, newMemory(t), "", func(ctx context.Context, path string, limit int64) ([]byte, error) {
			if strings.HasPrefix(path, "lookup/") {
				select {
				case <-answer:
				case <-ctx.Done():
					ended++
					return nil, ctx.Err()
				}
			}
			return log.Fetch(ctx, path, limit)
		})
		left := make(chan error, 2)
		lookupUntil := func() context.CancelFunc {
			ctx, leave := context.WithCancel(t.Context())
			go func() {
				_, err := m.Lookup(ctx, mod)
				left <- err
			}()
			synctest.Wait()
			return leave
		}
		first, second := lookupUntil(), lookupUntil()
		first()
		synctest.Wait()
		if err := <-left; !errors.Is(err, context.Canceled) || ended != 0 {
			t.Errorf("the caller that left got %v, want context.Canceled; %d requests ended", err, ended)
		}
		second()
		synctest.Wait()
		if err := <-left; !errors.Is(err, context.Canceled) || ended != 1 {
			t.Errorf("the last caller got %v, want context.Canceled; %d requests ended, want 1", err, ended)
		}

		leave := lookupUntil()
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if _, err := m.Lookup(t.Context(), mod); err != nil {
					t.Errorf("Lookup: %v", err)
				}
			})
		}
		synctest.Wait()
		leave()
		close(answer)
		group.Wait()
		if n := log.Requests("lookup/"); n != 1 {
			t.Errorf("%d lookups upstream, want 1", n)
		}
	})
}

// Concurrent lookups of different modules with different heads.
func TestLookupsAtOnce(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 10)
	var group sync.WaitGroup
	for id := range int64(200) {
		group.Go(func() {
			mod := module.Version{Path: fmt.Sprintf("example.com/Grows%d", id), Version: "v1.0.0"}
			log.Add(mod, sumdbtest.Hash(mod.Path), sumdbtest.Hash(mod.Version))
			record := lookup(t, m, mod)
			if body, err := m.Reply(t.Context(), record); err != nil || len(body) == 0 {
				t.Errorf("Reply: %v", err)
			}
		})
	}
	group.Wait()
	if file, frozen := m.Frozen(); frozen {
		t.Errorf("frozen: %s", file)
	}
	checkStore(t, store, log)
}

func TestUnknownModule(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 20)
	mod := module.Version{Path: "example.com/new", Version: "v1.0.0"}
	if _, err := m.Lookup(t.Context(), mod); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lookup of what is not there: %v, want fs.ErrNotExist", err)
	}
	log.OnLookup = func(mod module.Version) { log.Add(mod, sumdbtest.Hash("zip"), sumdbtest.Hash("mod")) }
	lookup(t, m, mod) // absence is not remembered

	offline := open(t, log, store, "", nil)
	_, err := offline.Lookup(t.Context(), module.Version{Path: "example.com/other", Version: "v1.0.0"})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "ends at tree 21 of 20") {
		t.Errorf("offline Lookup = %v, want fs.ErrNotExist with size and date", err)
	}
	if record := lookup(t, offline, mod); record.ID != 20 {
		t.Errorf("offline Lookup of a held record = %d", record.ID)
	}
	empty := open(t, log, newStore(t), "", nil)
	if _, err := empty.Lookup(t.Context(), mod); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lookup in an empty mirror: %v", err)
	}
	if _, err := empty.Latest(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Latest of an empty mirror: %v", err)
	}

	for _, mod := range []module.Version{
		{Path: "example.com/new", Version: "master"},
		{Path: "example.com/new", Version: "v1"},
		{Path: "example.com/new", Version: "v1.0.0/go.mod"},
		{Path: "example.com/../new", Version: "v1.0.0"},
		{Path: "", Version: "v1.0.0"},
		{Path: "example.com/new", Version: ""},
	} {
		before := log.Requests("")
		if _, err := m.Lookup(t.Context(), mod); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lookup(%q) = %v, want fs.ErrNotExist", mod, err)
		}
		if log.Requests("") != before {
			t.Errorf("Lookup(%q) asked upstream", mod)
		}
	}
}

// Each width of each tile under the head, hash or data, equals that of the log.
func TestTile(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, 2, 17, 255, 256, 257, 513, 600} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			log, store, m := mirrored(t, size)
			refresh(t, m)
			eachTile(size, 23, func(tile tlog.Tile) {
				got, err := m.Tile(t.Context(), tile)
				want, _ := log.Tile(tile)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("Tile(%s) = %d bytes, %v, want %d bytes", tile.Path(), len(got), err, len(want))
				}
			})
			checkStore(t, store, log)
		})
	}
}

// eachTile calls f for the tiles of a log of the given size: the widest ones, and narrower ones in
// steps.
func eachTile(size int64, step int, f func(tlog.Tile)) {
	for level := -1; size>>(8*max(level, 0)) > 0; level++ {
		count := size >> (8 * max(level, 0))
		for number := int64(0); number<<8 < count; number++ {
			widest := int(min(count-number<<8, 256))
			for w := widest; w > 0; w -= step {
				f(tlog.Tile{H: 8, L: level, N: number, W: w})
			}
			f(tlog.Tile{H: 8, L: level, N: number, W: 1})
		}
	}
}

// The mirror fetches one full tile once, for all requested widths.
func TestTileRequests(t *testing.T) {
	t.Parallel()
	log, _, m := mirrored(t, 600)
	refresh(t, m)
	for _, w := range []int{3, 200, 256, 1} {
		if _, err := m.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 1, W: w}); err != nil {
			t.Fatal(err)
		}
	}
	if n := log.Requests("tile/8/0/001"); n != 1 {
		t.Errorf("%d requests for one tile", n)
	}
	if n := log.Requests("tile/8/1/") + log.Requests("tile/8/0/002"); n != 2 {
		t.Errorf("%d requests for the edge, want 2: it was read with the head", n)
	}
	before := log.Requests("")
	if _, err := m.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 2, W: 50}); err != nil || log.Requests("") != before {
		t.Errorf("tile of the edge: %v, %d requests", err, log.Requests("")-before)
	}
}

// Upstreams need not keep the narrow forms of a completed tile.
func TestNarrowTilesAreGone(t *testing.T) {
	t.Parallel()
	log := newLog(t, 1000)
	log.ShowLatest(300)
	log.ShowLookup(300)
	log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
		tile, bad := tlog.ParseTilePath(path)
		if bad == nil && tile.W < 256 && (tile.N+1)<<8 <= 1000>>(8*max(tile.L, 0)) {
			return nil, fs.ErrNotExist
		}
		return data, err
	})
	store := newStore(t)
	m := open(t, log, store, "", log.Fetch)
	lookup(t, m, sumdbtest.Filler(290))
	for _, tile := range []tlog.Tile{{H: 8, L: 0, N: 1, W: 44}, {H: 8, L: -1, N: 1, W: 44}, {H: 8, L: 0, N: 1, W: 60}, {H: 8, L: -1, N: 1, W: 60}} {
		want, _ := log.Tile(tile)
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Tile(%s) = %d bytes, %v", tile.Path(), len(got), err)
		}
	}
	checkStore(t, store, log)
}

func TestImpossibleTiles(t *testing.T) {
	t.Parallel()
	log, _, m := mirrored(t, 20)
	refresh(t, m)
	before := log.Requests("")
	for _, tile := range []tlog.Tile{
		{H: 4, L: 0, N: 0, W: 16}, {H: 8, L: 0, N: 0, W: 0}, {H: 8, L: 0, N: 0, W: 257}, {H: 8, L: 8, N: 0, W: 1},
		{H: 8, L: -2, N: 0, W: 1}, {H: 8, L: 0, N: -1, W: 1}, {H: 8, L: 0, N: 1 << 60, W: 1}, {},
	} {
		if _, err := m.Tile(t.Context(), tile); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Tile(%+v) = %v, want fs.ErrNotExist", tile, err)
		}
	}
	if log.Requests("") != before {
		t.Error("an impossible tile was asked for upstream")
	}
}

func TestBeyond(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 300)
	refresh(t, m)
	tiles := []tlog.Tile{
		{H: 8, L: 0, N: 1, W: 100}, {H: 8, L: 0, N: 1, W: 256}, {H: 8, L: 0, N: 2, W: 10}, {H: 8, L: 1, N: 0, W: 2},
		{H: 8, L: -1, N: 1, W: 100}, {H: 8, L: -1, N: 1, W: 256}, {H: 8, L: -1, N: 2, W: 10},
	}
	offline := open(t, log, store, "", nil)
	for _, tile := range tiles {
		_, err := offline.Tile(t.Context(), tile)
		if !errors.Is(err, sumdb.ErrBeyond) || !strings.Contains(err.Error(), "tree 300") {
			t.Errorf("offline Tile(%s) = %v, want ErrBeyond with our size", tile.Path(), err)
		}
		if _, err := m.Tile(t.Context(), tile); !errors.Is(err, sumdb.ErrBeyond) {
			t.Errorf("Tile(%s) = %v, want ErrBeyond", tile.Path(), err)
		}
	}

	// The log has grown, its latest lags: the tile is relayed and not stored.
	log.Fill(600)
	log.ShowLatest(300)
	objects := len(store.keys())
	for _, tile := range tiles {
		want, _ := log.Tile(tile)
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Tile(%s) = %d bytes, %v, want %d", tile.Path(), len(got), err, len(want))
		}
	}
	if len(store.keys()) != objects || m.Size() != 300 {
		t.Errorf("a relayed tile was stored, or moved the head to %d", m.Size())
	}
	if n := counter(t, m, "assay_sumdb_tiles_total", "relayed"); n != float64(len(tiles)) {
		t.Errorf("%v relayed tiles counted, want %d", n, len(tiles))
	}

	// A response that is not a tile is not relayed.
	for _, answer := range []string{"", "Not found", strings.Repeat("x\n", 20)} {
		log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
			if strings.HasPrefix(path, "tile/") {
				return []byte(answer), nil
			}
			return data, err
		})
		for _, tile := range tiles {
			if got, err := m.Tile(t.Context(), tile); !errors.Is(err, sumdb.ErrInvalid) {
				t.Errorf("Tile(%s) = %q, %v, want ErrInvalid", tile.Path(), got, err)
			}
		}
	}

	// A relayed tile must agree with the part that we know.
	log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
		if strings.HasPrefix(path, "tile/") {
			data = bytes.Clone(data)
			data[0] ^= 1
		}
		return data, err
	})
	for _, tile := range tiles {
		if tile.N == 2 {
			continue // we know no part of it
		}
		if _, err := m.Tile(t.Context(), tile); !errors.Is(err, sumdb.ErrInvalid) {
			t.Errorf("tampered Tile(%s) = %v, want ErrInvalid", tile.Path(), err)
		}
	}
	log.Tamper(nil)
	log.ShowLatest(-1)
	refresh(t, m)
	for _, tile := range tiles {
		want, _ := log.Tile(tile)
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Tile(%s) = %d bytes, %v, want %d", tile.Path(), len(got), err, len(want))
		}
	}
	checkStore(t, store, log)
}

// The mirror does not ask upstream for a tile that no client can know of.
func TestFarBeyond(t *testing.T) {
	t.Parallel()
	log, _, m := mirrored(t, 300)
	refresh(t, m)
	before := log.Requests("tile/") + log.Requests("latest")
	for _, tile := range []tlog.Tile{
		{H: 8, L: 0, N: 1 << 13, W: 1}, {H: 8, L: -1, N: 1 << 40, W: 256}, {H: 8, L: 1, N: 17, W: 3}, {H: 8, L: 5, N: 1, W: 1},
	} {
		if _, err := m.Tile(t.Context(), tile); !errors.Is(err, sumdb.ErrBeyond) {
			t.Errorf("Tile(%s) = %v, want ErrBeyond", tile.Path(), err)
		}
	}
	if n := log.Requests("tile/") + log.Requests("latest"); n != before {
		t.Errorf("upstream was asked %d times for tiles that cannot be", n-before)
	}
}

// An upstream that does not serve latest may still have the tile.
func TestBeyondWithoutLatest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 300)
		m := open(t, log, newMemory(t), "", log.Fetch)
		lookup(t, m, sumdbtest.Filler(1))
		log.Fill(600)
		log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
			if path == "latest" {
				return nil, fs.ErrNotExist
			}
			return data, err
		})
		tile := tlog.Tile{H: 8, L: 0, N: 2, W: 10}
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, trueTile(t, log, tile)) {
			t.Errorf("Tile = %d bytes, %v", len(got), err)
		}
		if log.Requests("latest") != 1 {
			t.Errorf("%d requests for latest", log.Requests("latest"))
		}

		// While latest is recent, or has just failed, it is not fetched again for each tile.
		if _, err := m.Tile(t.Context(), tile); err != nil || log.Requests("latest") != 1 {
			t.Errorf("%v, %d requests for latest, want 1", err, log.Requests("latest"))
		}
		time.Sleep(time.Second)
		log.Tamper(nil)
		log.ShowLatest(300)
		for range 5 {
			if _, err := m.Tile(t.Context(), tile); err != nil {
				t.Error(err)
			}
		}
		if n := log.Requests("latest"); n != 2 {
			t.Errorf("%d requests for latest, want 2", n)
		}
		log.ShowLatest(-1)
		time.Sleep(2 * time.Second)
		if _, err := m.Tile(t.Context(), tile); err != nil || m.Size() != 600 {
			t.Errorf("Tile: %v, size %d, want 600", err, m.Size())
		}
		m.Close()
	})
}

// A request beyond the head of the mirror makes it fetch a newer head.
func TestBeyondAdvances(t *testing.T) {
	t.Parallel()
	log, _, m := mirrored(t, 300)
	lookup(t, m, sumdbtest.Filler(1))
	log.Fill(1000)
	tile := tlog.Tile{H: 8, L: 0, N: 3, W: 200}
	want, _ := log.Tile(tile)
	if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) || m.Size() != 1000 {
		t.Errorf("Tile = %d bytes, %v; size %d, want 1000", len(got), err, m.Size())
	}
}
