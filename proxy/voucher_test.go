package proxy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
)

// moduleKeys returns the keys of all module files in the store of f.
func (f *fixture) moduleKeys() (keys []string) {
	f.t.Helper()
	for info, err := range f.store.List(f.t.Context(), "") {
		if err != nil {
			f.t.Fatal(err)
		}
		if voucher, _, ok := storage.CutVoucher(info.Key); ok {
			keys = append(keys, info.Key)
			if upstream := voucher == storage.Upstream; upstream != (info.Proof == "") {
				f.t.Errorf("%s has the proof %q", info.Key, info.Proof)
			}
		}
	}
	return keys
}

// What was stored unproved is proved when it is asked for with a database in force: it
// moves, and is not fetched again. Without one in force it is found, and stays.
func TestStoredUnprovedMoves(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	version := "example.com/hello/@v/v1.0.0."
	files := []string{version + "info", version + "mod", version + "zip", big(world, 1<<20)}
	var unproved, proved []string
	for _, path := range files {
		unproved = append(unproved, storage.Upstream.Key(path))
		proved = append(proved, keyOf(path))
	}
	slices.Sort(unproved)
	slices.Sort(proved)
	f := start(t, world, world.URL("ok"), option{})
	use := func(database string, o option, want []string) {
		t.Helper()
		for range 2 {
			for _, path := range files {
				f.want(path)
			}
			if got := f.moduleKeys(); !slices.Equal(got, want) {
				t.Errorf("with database %s the keys are\n%s\nwant\n%s", database, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		f.close()
		f.open(world.URL("ok"), o)
	}
	use("off", verified(), unproved)
	use("on", option{}, proved)
	use("off again", option{}, proved)
	for _, path := range files {
		if n := world.Count(path); n != 1 {
			t.Errorf("%s was fetched %d times, want once", path, n)
		}
	}
}

// A hit is one lookup in the store.
func TestHitIsOneLookup(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 1<<20) // not one that stays in memory
	counting := &countingStore{}
	o := verified()
	o.config = func(c *proxy.Config) { counting.Store, c.Content.Store = c.Content.Store, counting }
	f := start(t, world, world.URL("ok"), o)
	f.want(path)
	before := counting.looked.Load()
	f.want(path)
	if n := counting.looked.Load() - before; n != 1 {
		t.Errorf("a hit took %d lookups, want one", n)
	}
}

// What an earlier database has proved is found, compared with the record of the one in force,
// and moved.
func TestStoredByAnotherDatabaseMoves(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	const path = "example.com/hello/@v/v1.0.0.mod"
	f := start(t, world, world.URL("ok"), verified())
	f.want(path)
	if err := f.store.Move(t.Context(), keyOf(path), storage.ProvedBy("sum.example.com").Key(path), "sum.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := storage.NoteVoucher(t.Context(), f.store, storage.ProvedBy("sum.example.com")); err != nil {
		t.Fatal(err)
	}
	f.close()
	f.open("off", verified())
	f.want(path)
	if got, want := f.moduleKeys(), []string{"proved/" + proxytest.Database + "/" + path}; !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
}
