package sumdb_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// fuzzLog has a record for each of the two tiles of its first level.
func fuzzLog(f *testing.F) *sumdbtest.Log { return newLog(f, 300) }

// For any response of upstream to a lookup, the mirror returns the true record or an error, and
// stores nothing wrong.
func FuzzLookupReply(f *testing.F) {
	log := fuzzLog(f)
	mod := sumdbtest.Filler(7)
	path := "lookup/" + mod.Path + "@" + mod.Version
	good, err := log.ServeFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-30])
	f.Add(bytes.Replace(good, []byte("7\n"), []byte("8\n"), 1))
	f.Add(bytes.Replace(good, []byte("\n\n"), []byte("\nextra\n\n"), 1))
	f.Add([]byte("<html></html>"))
	f.Add([]byte("-1\n\n\n"))
	f.Add([]byte("7\n\n\n\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		store := newMemory(t)
		m := open(t, log, store, "", func(ctx context.Context, p string, limit int64) ([]byte, error) {
			if p == path {
				return answer, nil
			}
			return log.Fetch(ctx, p, limit)
		})
		record, err := m.Lookup(t.Context(), mod)
		want := sumdbtest.Text(mod, sumdbtest.Hash(mod.Path), sumdbtest.Hash(mod.Path+"/go.mod"))
		if err == nil && (record.ID != 7 || !bytes.Equal(record.Text, want)) {
			t.Errorf("Lookup = %d %q", record.ID, record.Text)
		}
		checkStore(t, store, log)
	})
}

// For any requested tile and any response of upstream, the mirror returns the true bytes or an
// error.
func FuzzTile(f *testing.F) {
	log := fuzzLog(f)
	for _, path := range []string{"tile/8/0/000", "tile/8/0/001.p/44", "tile/8/1/000.p/1", "tile/8/data/000", "tile/8/data/001.p/2"} {
		tile, err := tlog.ParseTilePath(path)
		if err != nil {
			f.Fatal(err)
		}
		data, err := log.Tile(tile)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(path, data)
		f.Add(path, []byte("Not found"))
	}
	f.Add("tile/8/7/x999/999", []byte{})
	f.Add("tile/4/0/000", []byte("x"))
	f.Fuzz(func(t *testing.T, path string, answer []byte) {
		tile, err := tlog.ParseTilePath(path)
		if err != nil {
			return
		}
		store := newMemory(t)
		m := open(t, log, store, "", func(ctx context.Context, p string, limit int64) ([]byte, error) {
			if base, _, _ := strings.Cut(path, ".p/"); strings.HasPrefix(p, base) {
				return answer, nil
			}
			return log.Fetch(ctx, p, limit)
		})
		got, err := m.Tile(t.Context(), tile)
		want, unknown := log.Tile(tile)
		if err == nil && unknown == nil && !bytes.Equal(got, want) {
			t.Errorf("Tile(%s) = %q", path, got)
		}
		checkStore(t, store, log)
	})
}
