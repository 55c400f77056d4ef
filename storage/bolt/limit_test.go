package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// limited is a store whose files have the smallest limit.
func limited(t *testing.T, dir string) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(dir, &bolt.Options{FileLimit: bolt.LeastLimit})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func createSized(db *bolt.DB, i, size int) error {
	content := bytes.NewReader(storagetest.Content(uint64(i), size))
	return db.Create(context.Background(), storage.Info{Key: fmt.Sprint(i), Size: int64(size)}, content)
}

// The metric of a limit is the used space at which objects are refused, and 0 where none are for that
// reason.
func TestFileLimitMetric(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	byDefault := int64(0)
	if math.MaxInt == math.MaxInt32 {
		byDefault = 1<<30 - bolt.LeastLimit/2
	}
	for _, test := range []struct {
		options bolt.Options
		want    int64
	}{
		{bolt.Options{FileLimit: bolt.LeastLimit}, bolt.LeastLimit / 2},
		{bolt.Options{}, byDefault},
		{bolt.Options{FileLimit: bolt.LeastLimit, ReadOnly: true}, 0},
	} {
		db, err := bolt.Open(dir, &test.options)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`
# HELP assay_storage_file_limit_bytes Used space of a file at which no new object fits: 64 MiB less than store-limit; 0 if there is no limit.
# TYPE assay_storage_file_limit_bytes gauge
assay_storage_file_limit_bytes{file="blobs"} %[1]d
assay_storage_file_limit_bytes{file="meta"} %[1]d
`, test.want)
		registry := prometheus.NewRegistry()
		registry.MustRegister(db.Metrics()...)
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "assay_storage_file_limit_bytes"); err != nil {
			t.Errorf("%+v: %v", test.options, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that reaches its limit is like a full disk: what is stored can be read, and the space of
// deleted objects is used again.
func TestFileLimit(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"blobs.db": 4 << 20, "meta.db": 32 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			db := limited(t, dir)
			stored, err := 0, error(nil)
			for ; err == nil && stored < 2*bolt.LeastLimit/size; stored++ {
				err = createSized(db, stored, size)
			}
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "limit of the store") || stored < 8 {
				t.Fatalf("after %d objects: %v, want ENOSPC that names the limit", stored, err)
			}
			if nothing := errors.Is(err, storage.ErrUnwritable); nothing != (size <= storage.MaxSmall) {
				t.Errorf("an object of %d bytes finds no room. Nothing can be stored: %v", size, nothing)
			}
			if large := errors.Is(err, storage.ErrNoLarge); large != (size > storage.MaxSmall) {
				t.Errorf("an object of %d bytes finds no room. No large one can be stored: %v", size, large)
			}
			stored--
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() > bolt.LeastLimit {
				t.Errorf("the file has %d bytes: %v", info.Size(), err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = limited(t, dir)
			defer db.Close()
			for i := range stored {
				wantContent(t, db, i, size)
			}
			for i := range stored / 2 {
				if err := db.Delete(context.Background(), fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			waitReaped(t, db)
			for i := range stored / 4 {
				if err := createSized(db, i, size); err != nil {
					t.Fatalf("in the space of deleted objects: %v", err)
				}
			}
			v, err := db.Verify(context.Background(), storage.VerifyOptions{})
			if err != nil || v.Damaged > 0 {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

func wantContent(t *testing.T, db *bolt.DB, i, size int) {
	t.Helper()
	o, err := db.Open(context.Background(), fmt.Sprint(i))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, storagetest.Content(uint64(i), size)) {
		t.Errorf("object %d has other bytes, or %v", i, err)
	}
}

// waitReaped waits until the space of deleted objects is free.
func waitReaped(t *testing.T, db *bolt.DB) {
	t.Helper()
	for s := (storage.Stats{Orphans: 1}); s.Orphans > 0; {
		var err error
		if s, err = db.Stats(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFileLimitRefused(t *testing.T) {
	t.Parallel()
	_, err := bolt.Open(t.TempDir(), &bolt.Options{FileLimit: bolt.LeastLimit - 1})
	if err == nil || !strings.Contains(err.Error(), "at least 128") {
		t.Errorf("too small: %v", err)
	}
}

// A file that is larger than a new limit is used, and does not grow.
func TestFileAboveLimit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := limited(t, dir)
	if err := createSized(db, 1, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	blobs := filepath.Join(dir, "blobs.db")
	if err := os.Truncate(blobs, 2*bolt.LeastLimit); err != nil { // grows by a hole
		t.Fatal(err)
	}
	var log bytes.Buffer
	db, err := bolt.Open(dir, &bolt.Options{FileLimit: bolt.LeastLimit, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if !strings.Contains(log.String(), "larger than its limit") {
		t.Errorf("no warning: %s", log.String())
	}
	wantContent(t, db, 1, 1<<20)
	if err := createSized(db, 2, bolt.LeastLimit); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("above the limit: %v, want ENOSPC", err)
	}
	if info, err := os.Stat(blobs); err != nil || info.Size() != 2*bolt.LeastLimit {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
}

// On 32 bits larger limits and files than can be mapped safely are refused, with what to do, before
// bbolt sees the file; without a limit there is one.
func TestFileLimit32Bit(t *testing.T) {
	t.Parallel()
	if math.MaxInt > math.MaxInt32 {
		t.Skip("for programs of 32 bits")
	}
	dir := t.TempDir()
	limit := int64(1<<30 + 1<<20)
	if _, err := bolt.Open(dir, &bolt.Options{FileLimit: limit}); err == nil || !strings.Contains(err.Error(), "at most 1024") {
		t.Errorf("a limit of 1025 MiB: %v", err)
	}
	if err := limited(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"blobs.db", "meta.db"} {
		path := filepath.Join(dir, name)
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, limit); err != nil {
			t.Fatal(err)
		}
		for _, o := range []bolt.Options{{}, {ReadOnly: true}} {
			if _, err := bolt.Open(dir, &o); err == nil || !strings.Contains(err.Error(), "use a program for 64 bits") {
				t.Errorf("%s of 1025 MiB: %v", name, err)
			}
		}
		if err := os.Truncate(path, before.Size()); err != nil {
			t.Fatal(err)
		}
	}
}
