package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

const (
	hotLookup = "sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.0.0"
	hotTiles  = "sumdb/" + proxytest.Database + "/tile/8/"
	hotZip    = "example.com/small/@v/v1.0.0.zip"
)

// startHot starts a server with a zip of some 20 KB, and a database with a full tile, and requests
// each of the files until they are in memory.
func startHot(t *testing.T, o option) *fixture {
	world := newWorld(t)
	world.AddModule(module.Version{Path: "example.com/small", Version: "v1.0.0"}, []txtar.File{
		{Name: "go.mod", Data: []byte("module example.com/small\n")}, {Name: "text", Data: incompressible(20 << 10)},
	})
	world.Log.Fill(300)
	f := start(t, world, world.URL("ok"), o)
	for range 3 {
		for _, path := range hotFiles() {
			if a := f.get(path); a.status != http.StatusOK {
				t.Fatalf("GET %s = %v", path, a)
			}
		}
	}
	return f
}

func hotFiles() []string {
	return []string{hotZip, hotLookup, hotTiles + "0/000", hotTiles + "0/001.p/44", hotTiles + "0/000.p/9"}
}

// incompressible returns n bytes that do not repeat.
func incompressible(n int) []byte {
	data, state := make([]byte, n), uint32(1)
	for i := range data {
		state = state*1664525 + 1013904223
		data[i] = byte(state >> 24)
	}
	return data
}

// A response from memory is that of the store, and needs no store.
func TestHotFiles(t *testing.T) {
	t.Parallel()
	f := startHot(t, verified())
	f.close()
	f.open("off", verified())
	stored := map[string]response{}
	for _, path := range hotFiles() {
		stored[path] = f.get(path)
	}
	for range 3 {
		for _, path := range hotFiles() {
			same := f.get(path)
			want := stored[path]
			same.header.Del("Date")
			want.header.Del("Date")
			if want.status != http.StatusOK || same.status != want.status || !bytes.Equal(same.body, want.body) || !sameHeader(same.header, want.header) {
				t.Errorf("%s is %v from memory, %v from the store", path, same.header, want.header)
			}
		}
	}
	f.store.Close()
	if a := f.get("example.com/hello/@v/v1.0.0.zip"); a.status < 500 {
		t.Errorf("the store is in use: %v", a)
	}
	for _, path := range hotFiles() {
		want := stored[path]
		if a := f.get(path); a.status != http.StatusOK || !bytes.Equal(a.body, want.body) {
			t.Errorf("GET %s without the store: %.300v", path, a)
		}
		if a := f.get("cached-only/" + path); a.status != http.StatusOK || !bytes.Equal(a.body, want.body) {
			t.Errorf("GET cached-only/%s: %.300v", path, a)
		}
		if a := f.do(http.MethodGet, path, "Range", "bytes=2-5"); a.status != http.StatusPartialContent || !bytes.Equal(a.body, want.body[2:6]) {
			t.Errorf("a part of %s: %.300v", path, a)
		}
		if a := f.do(http.MethodGet, path, "If-None-Match", want.header.Get("Etag")); a.status != http.StatusNotModified || len(a.body) > 0 {
			t.Errorf("%s, not modified: %.300v", path, a)
		}
		head := f.do(http.MethodHead, path)
		head.header.Del("Date")
		if head.status != http.StatusOK || len(head.body) > 0 || !sameHeader(head.header, want.header) {
			t.Errorf("HEAD %s: %v, want %v", path, head.header, want.header)
		}
	}
}

// Whole responses, parts and conditional responses are the same from memory and from the store.
func TestHotConditional(t *testing.T) {
	t.Parallel()
	f := startHot(t, verified())
	tagOf := func(path string) string { return f.get(path).header.Get("Etag") }
	for _, path := range hotFiles() {
		tag := tagOf(path)
		for _, header := range [][]string{
			{}, {"Range", "bytes=2-5"}, {"Range", "bytes=-3"}, {"Range", "bytes=1-2,4-5"}, {"Range", "bytes=99999999-"}, {"Range", "x"},
			{"If-None-Match", tag}, {"If-None-Match", `"other"`}, {"If-Match", tag}, {"If-Match", `"other"`},
			{"If-Range", tag, "Range", "bytes=2-5"}, {"If-Range", `"other"`, "Range", "bytes=2-5"},
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				f.server.Reload(content.Settings{Upstream: f.chain, Policy: noPolicy(t)}) // drops what is in memory
				stored := f.do(method, path, header...)
				for range 2 {
					f.get(path)
				}
				hot := f.do(method, path, header...)
				stored.header.Del("Date")
				hot.header.Del("Date")
				if hot.status != stored.status || !bytes.Equal(hot.body, stored.body) || !sameHeader(hot.header, stored.header) {
					t.Errorf("%s %s with %q is %d %v from memory, %d %v from the store", method, path, header, hot.status, hot.header, stored.status, stored.header)
				}
			}
		}
	}
}

func sameHeader(a, b http.Header) bool {
	for name := range b {
		if strings.Join(a[name], "\n") != strings.Join(b[name], "\n") {
			return false
		}
	}
	return len(a) == len(b)
}

// A record in memory is answered with the newest head.
func TestHotLookupHasNewestHead(t *testing.T) {
	t.Parallel()
	f := startHot(t, verified())
	old := f.get(hotLookup)
	for size := int64(400); size < 700; size += 100 {
		f.world.Log.Fill(size)
		if err := f.mirror.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		head := f.get("sumdb/" + proxytest.Database + "/latest").body
		for range 3 {
			a := f.get(hotLookup)
			if a.status != http.StatusOK || !bytes.HasSuffix(a.body, head) || a.header.Get("Etag") == old.header.Get("Etag") {
				t.Errorf("at size %d: %v", size, a)
			}
		}
	}
}

// While the database is frozen, memory answers as the store does.
func TestHotFrozen(t *testing.T) {
	t.Parallel()
	f := startHot(t, verified())
	evidence := filepath.Join(f.dir, "evidence")
	file := filepath.Join(evidence, "fork-"+proxytest.Database+"-20260102T030405.000000000Z.txt")
	if err := errors.Join(os.MkdirAll(evidence, 0o755), os.WriteFile(file, []byte("two heads"), 0o644), f.mirror.Recheck(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, frozen := f.mirror.Frozen(); !frozen {
		t.Fatal("the database is not frozen")
	}
	for _, path := range hotFiles() {
		hot := f.get(path)
		f.server.Reload(content.Settings{Upstream: f.chain, Policy: noPolicy(t)}) // drops what is in memory
		stored := f.get(path)
		if hot.status != stored.status || !bytes.Equal(hot.body, stored.body) {
			t.Errorf("GET %s = %.200v from memory, %.200v from the store", path, hot, stored)
		}
	}
	f.world.Log.Fill(400)
	if err := f.mirror.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Refresh = %v", err)
	}
}

// After a reload nothing in memory is answered that the new settings refuse.
func TestHotAfterReload(t *testing.T) {
	t.Parallel()
	f := startHot(t, verified())
	f.server.Reload(content.Settings{Upstream: f.chain, Policy: policyOf(t, "example.com")})
	f.wantStatus(hotZip, http.StatusNotFound, "is private here")
	f.wantStatus(hotLookup, http.StatusForbidden, "GONOSUMDB")
	f.server.Reload(content.Settings{Upstream: f.chain, Policy: noPolicy(t)})
	f.want(hotZip)
	if a := f.get(hotLookup); a.status != http.StatusOK {
		t.Errorf("GET %s = %v", hotLookup, a)
	}
}

// A purged zip is not answered from memory.
func TestHotPurged(t *testing.T) {
	t.Parallel()
	f := startHot(t, verified())
	items, err := content.Purge(t.Context(), f.store, module.Version{Path: "example.com/small"})
	if err != nil || len(items) == 0 {
		t.Fatal(items, err)
	}
	f.server.Content().Forget(items)
	before := f.world.Count(hotZip)
	f.want(hotZip)
	if n := f.world.Count(hotZip); n != before+1 {
		t.Errorf("the zip was requested %d times from upstream after the purge", n-before)
	}
}

// Without memory for responses, a zip in memory is answered from the store, in pieces.
func TestHotWithoutMemory(t *testing.T) {
	t.Parallel()
	answers := memory.New(16 << 10)
	f := startHot(t, option{database: true, config: func(c *proxy.Config) { c.Answers = answers }})
	refused := answers.Refused()
	f.want(hotZip)
	if answers.Refused() == refused {
		t.Error("the zip was not in memory, or its memory is not counted")
	}
	if used := answers.Used(); used != 0 {
		t.Errorf("%d bytes are used after the response", used)
	}
}

// openedStore counts how often each object is opened.
type openedStore struct {
	storage.Store
	mu     sync.Mutex
	opened map[string]int // by key
}

func (s *openedStore) Open(ctx context.Context, key string) (storage.Object, error) {
	s.mu.Lock()
	s.opened[key]++
	s.mu.Unlock()
	return s.Store.Open(ctx, key)
}

// What some clients request again and again stays in memory while another client requests thousands of
// modules, for which there is not enough memory.
func TestHotScannedByOther(t *testing.T) {
	t.Parallel()
	store := &openedStore{opened: map[string]int{}}
	wrap := func(inner storage.Store) storage.Store { store.Store = inner; return store }
	f := start(t, newWorld(t), "off", option{store: wrap, config: func(c *proxy.Config) { c.Content.Memory.Hot = 1 << 20 }})
	const scanned, working = 3000, 100
	module := func(name string, i int) string { return fmt.Sprintf("example.com/%s%d/@v/v1.0.0.mod", name, i) }
	var batch storage.Batch
	add := func(path string) {
		content := []byte("module " + strings.TrimSuffix(path, "/@v/v1.0.0.mod") + "\n")
		batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: storage.Upstream.Key(path), Size: int64(len(content))}, Content: content})
	}
	for i := range scanned {
		add(module("scanned", i))
	}
	for i := range working {
		add(module("popular", i))
	}
	if err := f.store.Apply(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	get := func(path string) {
		if a := f.get(path); a.status != http.StatusOK {
			t.Fatalf("GET %s = %v", path, a)
		}
	}
	next, others := 0, 0
	scan := func() { get(module("scanned", next)); next++ }
	popular := func() { get(module("popular", others%working)); others++ }
	for range 2 * working { // the scan has begun
		popular()
		scan()
	}
	for next < scanned {
		scan()
		if next%20 == 0 {
			popular()
		}
	}
	for range working {
		popular()
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	for i := range working {
		if n := store.opened[storage.Upstream.Key(module("popular", i))]; n != 1 {
			t.Errorf("%s was read %d times from the store, want once", module("popular", i), n)
		}
	}
	if n := store.opened[storage.Upstream.Key(module("scanned", scanned-1))]; n != 1 {
		t.Errorf("the last module of the scan was read %d times from the store, want once", n)
	}
}
