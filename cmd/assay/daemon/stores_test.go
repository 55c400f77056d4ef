package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A start that fails because of the stored head of a checksum database says so, and names the
// database once.
func TestDamagedHeadStopsTheStart(t *testing.T) {
	t.Parallel()
	c := config.Config{Data: t.TempDir(), SumDB: "sum.golang.org", MemoryBudget: 256}
	store, err := bolt.Open(c.Data, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SetState(t.Context(), "sumdb/sum.golang.org/latest", []byte("no head")); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = openStores(t.Context(), c, newInForce(c), divide(c.MemoryBudget, c.Store != ""), slog.New(slog.DiscardHandler), nil)
	if err == nil || strings.Count(err.Error(), "checksum database sum.golang.org") != 1 || !strings.Contains(err.Error(), "stored tree head") {
		t.Errorf("error %v", err)
	}
}

// bucketStores opens the store in the bucket of server, with the local copies in dir.
func bucketStores(t *testing.T, server *s3test.Server, dir string) *stores {
	t.Helper()
	c := config.Config{Data: dir, MemoryBudget: 256, Store: "s3://bucket/store?region=us-east-1&path-style=true&endpoint=" + server.URL}
	s, err := openObjects(t.Context(), c, divide(c.MemoryBudget, c.Store != ""), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.objects.Close() }) // perhaps the test did
	return s
}

// What was purged while a server was stopped is not served from its local copy, also before there were any news.
func TestPurgedWhileStopped(t *testing.T) {
	bucketCredentials(t)
	server, dir := s3test.Start(t), t.TempDir()
	s := bucketStores(t, server, dir)
	if err := s.objects.Create(t.Context(), storage.Info{Key: "key", Size: 7}, strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	if err := s.objects.Close(); err != nil {
		t.Fatal(err)
	}
	other := bucketStores(t, server, t.TempDir())
	if err := other.objects.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	s = bucketStores(t, server, dir)
	if _, err := s.local.Stat(t.Context(), "key"); err != nil {
		t.Fatalf("there is no local copy: %v", err)
	}
	if o, err := s.objects.Open(t.Context(), "key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v, %v, want fs.ErrNotExist", o, err)
	}
}

// bucketCredentials sets those of stores in buckets.
func bucketCredentials(t *testing.T) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
}
