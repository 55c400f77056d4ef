package proxy_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
)

// pausingStore is a store whose objects are not read before goOn is closed. It says on
// reading that one is about to be read.
type pausingStore struct {
	storage.Store
	reading, goOn chan struct{}
}

func (s *pausingStore) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Store.Open(ctx, key)
	return &pausingObject{object, s}, err
}

type pausingObject struct {
	storage.Object
	store *pausingStore
}

func (o *pausingObject) Read(b []byte) (int, error) {
	select {
	case o.store.reading <- struct{}{}:
	case <-o.store.goOn:
	}
	<-o.store.goOn
	return o.Object.Read(b)
}

// startReading starts a server without upstream that has stored path, and lets a client read it as far
// as its first byte. goOn lets all clients read on, and returns the response to the first.
func startReading(t *testing.T, path string) (f *fixture, goOn func() response) {
	t.Helper()
	world := newWorld(t)
	f = start(t, world, world.URL("ok"), option{})
	f.want(path)
	f.close()
	store := &pausingStore{reading: make(chan struct{}), goOn: make(chan struct{})}
	f.open("off", option{config: func(c *proxy.Config) {
		store.Store = c.Content.Store
		c.Content.Store = store
	}})
	read := make(chan response, 1)
	go func() { read <- f.get(path) }()
	<-store.reading
	return f, func() response {
		close(store.goOn)
		return <-read
	}
}

// What is purged while a client reads it does not stay in memory.
func TestPurgeWhileRead(t *testing.T) {
	t.Parallel()
	const path = "example.com/hello/@v/v1.0.0.mod"
	f, goOn := startReading(t, path)
	items, err := content.Purge(t.Context(), f.store, module.Version{Path: "example.com/hello", Version: "v1.0.0"})
	if err != nil || len(items) != 1 {
		t.Fatalf("Purge = %v, %v", items, err)
	}
	f.server.Content().Forget(items)
	if a := goOn(); a.status != http.StatusOK || string(a.body) != string(f.world.File(path)) {
		t.Errorf("what was open = %v", a)
	}
	f.wantStatus(path, http.StatusNotFound)
}

// What is replaced while a client reads it does not stay in memory.
func TestReplaceWhileRead(t *testing.T) {
	t.Parallel()
	const path = "example.com/hello/@v/v1.0.0.info"
	f, goOn := startReading(t, path)
	const now = `{"Version":"v1.0.0","Time":"2021-01-02T03:04:05Z"}`
	info, err := f.store.Stat(t.Context(), keyOf(path))
	if err != nil {
		t.Fatal(err)
	}
	info.Size, info.Hash = int64(len(now)), fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(now)))
	if err := f.store.Replace(t.Context(), info, strings.NewReader(now)); err != nil {
		t.Fatal(err)
	}
	if a := goOn(); a.status != http.StatusOK || string(a.body) != string(f.world.File(path)) {
		t.Errorf("what was open = %v", a)
	}
	if a := f.get(path); string(a.body) != now {
		t.Errorf("after it was replaced = %v, want %s", a, now)
	}
}
