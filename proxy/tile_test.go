package proxy_test

import (
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

// A relayed tile is not proved, so no cache between us and the client may store it like a
// proved one.
func TestRelayedTileIsNotKept(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	world.Log.Fill(300)
	f := start(t, world, world.URL("ok"), verified())
	tiles := "sumdb/" + proxytest.Database + "/tile/8/"
	world.Log.ShowLatest(300)
	f.get("sumdb/" + proxytest.Database + "/latest")
	world.Log.Fill(600)

	for range 3 { // the proved ones are in memory then
		for tile, want := range map[string]string{
			"0/000": "public, max-age=31536000, immutable", "0/001.p/44": "public, max-age=86400", "data/000.p/9": "public, max-age=86400",
			"0/001": "no-store", "0/002.p/44": "no-store", "1/000.p/2": "no-store", "data/001": "no-store",
		} {
			a := f.get(tiles + tile)
			if got := a.header.Get("Cache-Control"); a.status != 200 || got != want {
				t.Errorf("%s: status %d, Cache-Control %q, want %q", tile, a.status, got, want)
			}
		}
	}
	world.Log.ShowLatest(-1)
	if err := f.mirror.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := f.get(tiles + "0/001"); !strings.HasSuffix(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("a tile that is proved now: Cache-Control %q", a.header.Get("Cache-Control"))
	}
}
