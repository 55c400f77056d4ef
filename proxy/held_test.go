package proxy_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

const heldList = "cached-only/example.com/hello/@v/list"

// The versions of a module are listed from the store once. Afterwards the list has what is
// fetched, and has not what is removed.
func TestHeldVersions(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	store := &listedStore{}
	f := start(t, world, world.URL("ok"), option{config: func(c *proxy.Config) { store.Store, c.Content.Store = c.Content.Store, store }})
	lists := int64(0)
	wantList := func(want string) {
		t.Helper()
		before := store.lists.Load()
		for range 3 {
			if a := f.get(heldList); a.status != http.StatusOK || string(a.body) != want {
				t.Errorf("list = %v, want %q", a, want)
			} else if tag := a.header.Get("Etag"); tag != content.ETag(sha256.Sum256(a.body)) {
				t.Errorf("the entity tag of %q is %s", a.body, tag)
			} else if same := f.do(http.MethodGet, heldList, "If-None-Match", tag); same.status != http.StatusNotModified {
				t.Errorf("with its entity tag, the list is %v", same)
			}
		}
		if lists = store.lists.Load() - before; lists > 1 {
			t.Errorf("listed %d times from the store, want once", lists)
		}
	}
	f.want("example.com/hello/@v/v1.1.0.info")
	f.want("example.com/hello/@v/v0.0.0-20200101000000-abcdefabcdef.info")
	f.want("example.com/old/@v/v1.5.0.info")
	wantList("v1.1.0\n")
	f.want("example.com/hello/@v/v1.0.0.info")
	wantList("v1.0.0\nv1.1.0\n")
	f.want("example.com/hello/@v/v1.0.0.mod") // says nothing about the list
	if wantList("v1.0.0\nv1.1.0\n"); lists > 0 {
		t.Error("listed again after a go.mod was stored")
	}

	items, err := content.Purge(t.Context(), f.store, module.Version{Path: "example.com/hello", Version: "v1.1.0"})
	if err != nil || len(items) != 1 {
		t.Fatalf("Purge = %v, %v", items, err)
	}
	f.server.Content().Forget(items)
	wantList("v1.0.0\n")

	chain := chainOf(t, world.URL("ok")) // a version that is stored after a reload
	f.server.Reload(content.Settings{Upstream: chain, Policy: noPolicy(t)})
	f.want("example.com/hello/@v/v1.1.0.info")
	wantList("v1.0.0\nv1.1.0\n")

	info, err := f.store.Stat(t.Context(), keyOf("example.com/hello/@v/v1.1.0.info"))
	if err != nil {
		t.Fatal(err)
	}
	f.server.Content().Origin("example.com/hello").Drop(t.Context(), info, storage.ErrDamaged)
	wantList("v1.0.0\n")
}

// A version that is stored while the others are listed is not missing from later lists,
// even if a fill stores it that began before a reload.
func TestHeldVersionsWhileStored(t *testing.T) {
	t.Parallel()
	for name, reload := range map[string]bool{"the same settings": false, "after a reload": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			store := &listedStore{}
			asked, answer := make(chan struct{}), make(chan struct{})
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/hello/@v/v1.1.0.info") {
					close(asked)
					<-answer
				}
				world.ServeHTTP(w, r)
			}))
			t.Cleanup(upstream.Close)
			f := start(t, world, upstream.URL+"/ok", option{config: func(c *proxy.Config) { store.Store, c.Content.Store = c.Content.Store, store }})
			f.want("example.com/hello/@v/v1.0.0.info")
			filled := make(chan struct{})
			go func() { defer close(filled); f.get("example.com/hello/@v/v1.1.0.info") }()
			<-asked
			if reload {
				f.server.Reload(content.Settings{Upstream: f.chain, Policy: noPolicy(t)})
			}
			store.listed.Store(new(sync.OnceFunc(func() { // all keys have been read, and the list is not made yet
				close(answer)
				<-filled
			})))
			f.get(heldList)
			if a := f.get(heldList); string(a.body) != "v1.0.0\nv1.1.0\n" {
				t.Errorf("list = %v, want both versions", a)
			}
		})
	}
}

// listedStore is a store that counts its lists, and calls listed at the end of each.
type listedStore struct {
	storage.Store
	lists  atomic.Int64
	listed atomic.Pointer[func()] // nil: nothing
}

func (s *listedStore) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	s.lists.Add(1)
	return func(yield func(string, error) bool) {
		for key, err := range s.Store.Keys(ctx, prefix) {
			if !yield(key, err) {
				return
			}
		}
		if listed := s.listed.Load(); listed != nil {
			(*listed)()
		}
	}
}

// BenchmarkHeldList requests the list of a module with 10,000 held versions.
func BenchmarkHeldList(b *testing.B) {
	store, err := bolt.Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	for minor := range 10 {
		var batch storage.Batch
		for patch := range 1000 {
			key := storage.Upstream.Key(fmt.Sprintf("example.com/hello/@v/v1.%d.%d.info", minor, patch))
			batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: key}, Content: []byte("{}")})
		}
		if err := store.Apply(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	chain, err := fetch.New(fetch.Config{List: "off"})
	if err != nil {
		b.Fatal(err)
	}
	defer chain.Close()
	policy, err := privacy.New("")
	if err != nil {
		b.Fatal(err)
	}
	server, err := proxy.New(proxy.Config{
		Content:  content.Config{Store: store, Scratch: filepath.Join(b.TempDir(), "scratch")},
		Settings: content.Settings{Upstream: chain, Policy: policy},
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		w := httptest.NewRecorder()
		if server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/example.com/hello/@v/list", nil)); w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
}
