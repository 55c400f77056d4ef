package content_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/sumdb/pinlog"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// pacedStore is a store each of whose batches with a swap waits for a value, if there is a channel.
type pacedStore struct {
	storage.Store
	next chan struct{}
}

func (s *pacedStore) Apply(ctx context.Context, b storage.Batch) error {
	if s.next != nil && b.Swap != nil {
		<-s.next
	}
	return s.Store.Apply(ctx, b)
}

// A fill that gives up while another one stores its files is noticed when they are stored: a list that was
// made in between is not remembered.
func TestListAfterPinGaveUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		db, err := bolt.Open(filepath.Join(dir, "data"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		store := &pacedStore{Store: db}
		log, err := pinlog.Open(t.Context(), pinlog.Config{Dir: filepath.Join(dir, "log"), Name: "log.corp.example", Store: store})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		chain, err := fetch.New(fetch.Config{List: "off"})
		if err != nil {
			t.Fatal(err)
		}
		defer chain.Close()
		policy, err := privacy.New("corp.example")
		if err != nil {
			t.Fatal(err)
		}
		library, err := content.New(t.Context(), content.Config{Store: store, Log: log, Scratch: filepath.Join(dir, "scratch")},
			content.Settings{Upstream: chain, Policy: policy})
		if err != nil {
			t.Fatal(err)
		}
		defer library.Close(t.Context())

		put := func(ctx context.Context, path, version string) error {
			zip, err := os.CreateTemp(dir, "zip")
			if err != nil {
				return err
			}
			defer zip.Close()
			of := module.Version{Path: path, Version: version}
			return library.PutVersion(ctx, of, zip, sumdbtest.Hash(of.String()))
		}
		begin := func(ctx context.Context, path, version string) <-chan error {
			done := make(chan error, 1)
			go func() { done <- put(ctx, path, version) }()
			synctest.Wait()
			return done
		}
		const path = "corp.example/lib"
		wantVersions := func(want string) {
			t.Helper()
			for range 2 {
				if got, err := library.Origin(path).Catalog().Versions(t.Context(), path); err != nil || string(got.Text()) != want {
					t.Errorf("versions %q, %v, want %q", got.Text(), err, want)
				}
			}
		}
		if err := put(t.Context(), path, "v1.0.0"); err != nil {
			t.Fatal(err)
		}
		wantVersions("v1.0.0\n")

		store.next = make(chan struct{})
		first := begin(t.Context(), "corp.example/a", "v1.0.0")
		second := begin(t.Context(), "corp.example/b", "v1.0.0") // waits for the log, and is the next that writes it
		ctx, cancel := context.WithCancel(t.Context())
		third := begin(ctx, path, "v1.1.0")
		store.next <- struct{}{}
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the second one writes the log with what the third one waits for
		cancel()
		if err := <-third; !errors.Is(err, context.Canceled) {
			t.Fatalf("PutVersion = %v: the third fill wrote the log itself, nothing is tested", err)
		}
		wantVersions("v1.0.0\n")
		store.next <- struct{}{}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		wantVersions("v1.0.0\nv1.1.0\n")
	})
}
