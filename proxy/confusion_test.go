package proxy_test

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// A fill that is under way when the module becomes private is not what those get who
// ask for the private one.
func TestPrivateConfusionUnderWay(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	large := make([]byte, 1<<20)
	rand.NewChaCha8(sha256.Sum256(nil)).Read(large)
	h.world.AddModule(module.Version{Path: "corp.example/lib", Version: "v1.0.0"}, []txtar.File{{Name: "evil", Data: large}})
	chain, err := fetch.New(fetch.Config{List: h.world.URL("gated")})
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	const key = "corp.example/lib/@v/v1.0.0.zip"
	h.server.Reload(chain, noPolicy(t), h.vcs)
	public := make(chan answer)
	go func() { public <- h.get(key) }()
	for h.world.Count(key) == 0 {
		time.Sleep(time.Millisecond)
	}

	h.server.Reload(chain, policyOf(t, "corp.example"), h.vcs)
	private := h.ok(key)
	if len(private) > 10<<10 {
		t.Error("the public module is served as the private one")
	}
	h.world.OpenGate()
	if a := <-public; a.err == nil { // its last part is held back for good
		t.Errorf("who asked before has all of it: %d, %d bytes", a.status, len(a.body))
	}
	if again := h.ok(key); again != private {
		t.Error("the private module has changed")
	}
}

// storeWithHook calls a function when an object is opened.
type storeWithHook struct {
	storage.Store
	opened func()
}

func (s *storeWithHook) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Store.Open(ctx, key)
	if s.opened != nil {
		s.opened()
	}
	return object, err
}

// What comes into memory while the module becomes private is not, either.
func TestPrivateConfusionInMemory(t *testing.T) {
	var store *storeWithHook
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		store = &storeWithHook{Store: c.Store}
		c.Store = store
	})
	h.code.Module("lib", lib)
	h.world.Add("-- corp.example/lib@v1.0.0/go.mod --\nmodule corp.example/lib\n\n// evil\n")
	const key = "corp.example/lib/@v/v1.0.0.mod"
	h.server.Reload(h.chain, noPolicy(t), h.vcs)
	h.ok(key)
	store.opened = func() {
		store.opened = nil
		h.server.Reload(h.chain, policyOf(t, "corp.example"), h.vcs)
	}
	h.ok(key)
	if store.opened != nil {
		t.Fatal("nothing was opened")
	}
	for range 2 {
		if got := h.ok(key); strings.Contains(got, "evil") {
			t.Error("the public module is served as the private one")
		}
	}
}
