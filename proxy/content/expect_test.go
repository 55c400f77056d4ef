package content_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage/bolt"
)

// What was predicted for a client that is forgotten meanwhile is not requested from the upstream.
func TestAheadOfForgotten(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.NotFound(w, r)
	}))
	defer upstream.Close()
	dir := t.TempDir()
	store, err := bolt.Open(filepath.Join(dir, "data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	chain, err := fetch.New(fetch.Config{List: upstream.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	policy, err := privacy.New("")
	if err != nil {
		t.Fatal(err)
	}
	library, err := content.New(t.Context(), content.Config{Store: store, Scratch: filepath.Join(dir, "scratch")}, content.Settings{Upstream: chain, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	library.Predict()
	var next []request.Request
	for i := range 10 {
		next = append(next, request.Request{Kind: request.Mod, Module: fmt.Sprintf("m.example/%d", i), Version: "v1.0.0"})
	}
	library.Ahead(t.Context(), "192.0.2.1", next...)
	if err := library.Close(t.Context()); err != nil { // what has begun ends
		t.Error(err)
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests for a client that is forgotten", n)
	}
}
