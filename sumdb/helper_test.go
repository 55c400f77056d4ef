package sumdb_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

const testName = "sum.test.example"

// newLog returns a log with size records.
func newLog(t testing.TB, size int64) *sumdbtest.Log {
	log := sumdbtest.NewLog(t, testName)
	log.Fill(size)
	return log
}

// open returns a mirror of log on store. A nil fetch is a mirror without upstream.
func open(t testing.TB, log *sumdbtest.Log, store storage.Store, evidence string, fetch sumdb.FetchFunc) *sumdb.Mirror {
	t.Helper()
	m, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: storagetest.Strict(t, store), Fetch: fetch, Evidence: evidence})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(m.Close)
	return m
}

// mirrored returns a log with size records, a store, and a mirror of the log on the store.
func mirrored(t testing.TB, size int64) (*sumdbtest.Log, *realStore, *sumdb.Mirror) {
	t.Helper()
	log, store := newLog(t, size), newStore(t)
	return log, store, open(t, log, store, "", log.Fetch)
}

// openChanging is open with a FetchFunc that set replaces; at first there is none.
func openChanging(t testing.TB, log *sumdbtest.Log, store storage.Store, evidence string) (m *sumdb.Mirror, set func(sumdb.FetchFunc)) {
	t.Helper()
	var current atomic.Pointer[sumdb.FetchFunc]
	set = func(f sumdb.FetchFunc) { current.Store(&f) }
	set(nil)
	m, err := sumdb.Open(t.Context(), sumdb.Config{
		Key: log.Key(), Store: storagetest.Strict(t, store), Evidence: evidence, Current: func() sumdb.FetchFunc { return *current.Load() },
	})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(m.Close)
	return m, set
}

// fetchFrom returns a FetchFunc that reads from the log that *from points to at that moment.
func fetchFrom(from **sumdbtest.Log) sumdb.FetchFunc {
	return func(ctx context.Context, path string, limit int64) ([]byte, error) {
		return (*from).Fetch(ctx, path, limit)
	}
}

func lookup(t testing.TB, m *sumdb.Mirror, mod module.Version) sumdb.Record {
	t.Helper()
	record, err := m.Lookup(t.Context(), mod)
	if err != nil {
		t.Fatalf("Lookup(%v): %v", mod, err)
	}
	return record
}

func refresh(t testing.TB, m *sumdb.Mirror) {
	t.Helper()
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatalf("Refresh: %v", err)
	}
}

// evidenceFiles lists the files in dir, which need not exist.
func evidenceFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// readEvidence returns the content of the one file in dir.
func readEvidence(t testing.TB, dir string) string {
	t.Helper()
	files := evidenceFiles(t, dir)
	if len(files) != 1 {
		t.Fatalf("evidence: %q, want one file", files)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkStore compares every tile and record in store with log: nothing else may ever be stored.
func checkStore(t testing.TB, store storage.Store, log *sumdbtest.Log) {
	t.Helper()
	prefix := "sumdb/" + testName + "/"
	for key, err := range store.Keys(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(key, prefix)
		data := readObject(t, store, key)
		switch {
		case strings.HasPrefix(path, "tile/"):
			tile, err := tlog.ParseTilePath(path)
			if err != nil || tile.W != 256 {
				t.Errorf("store has %s: %v", key, err)
				continue
			}
			want, err := log.Tile(tile)
			if err != nil || string(want) != string(data) {
				t.Errorf("store has a wrong %s (%v)", key, err)
			}
		case strings.HasPrefix(path, "lookup/"):
			want, err := log.ServeFile(path)
			if err != nil || !strings.HasPrefix(string(want), string(data)) {
				t.Errorf("store has a wrong %s: %q, want the start of %q (%v)", key, data, want, err)
			}
		case !strings.HasPrefix(path, "head/"):
			t.Errorf("store has a foreign object %s", key)
		}
	}
}

func readObject(t testing.TB, store storage.Store, key string) []byte {
	t.Helper()
	object, err := store.Open(t.Context(), key)
	if err != nil {
		t.Fatalf("open %s: %v", key, err)
	}
	defer object.Close()
	var b strings.Builder
	if _, err := object.WriteTo(&b); err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return []byte(b.String())
}

// answers requests a path from the mirror like a go command. It has the form of a FetchFunc.
func answers(ctx context.Context, m *sumdb.Mirror, path string) ([]byte, error) {
	if escaped, ok := strings.CutPrefix(path, "lookup/"); ok {
		escapedPath, escapedVersion, _ := strings.Cut(escaped, "@")
		modPath, err := module.UnescapePath(escapedPath)
		if err != nil {
			return nil, err
		}
		version, err := module.UnescapeVersion(escapedVersion)
		if err != nil {
			return nil, err
		}
		record, err := m.Lookup(ctx, module.Version{Path: modPath, Version: version})
		if err != nil {
			return nil, err
		}
		return m.Reply(ctx, record)
	}
	tile, err := tlog.ParseTilePath(path)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	return m.Tile(ctx, tile)
}
