package bolt_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

func openReadOnly(t *testing.T, dir string) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(dir, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// sums returns the hash of each file of a store.
func sums(t *testing.T, dir string) (all string) {
	t.Helper()
	for _, name := range []string{"meta.db", "blobs.db"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		all += fmt.Sprintf("%s %x\n", name, hash.Sum(nil))
	}
	return all
}

// A read-only store serves its objects, and its files do not change.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	dir := verifyStore(t)
	before := sums(t, dir)
	db, second := openReadOnly(t, dir), openReadOnly(t, dir)
	for key, content := range verifyObjects {
		expectContent(t, db, key, content)
		expectContent(t, second, key, content)
	}
	if v, found := verify(t, db, false); found != nil || int(v.Objects) != len(verifyObjects) {
		t.Errorf("%+v, %v", v, found)
	}
	for name, err := range writes(t, db) {
		if !errors.Is(err, storage.ErrReadOnly) {
			t.Errorf("%s = %v, want ErrReadOnly", name, err)
		}
	}
	if _, err := bolt.Open(dir, &bolt.Options{LockTimeout: time.Millisecond}); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("opening it to write = %v, want ErrInUse", err)
	}
	backup := t.TempDir()
	if err := backUp(t.Context(), db, backup); err != nil {
		t.Fatal(err)
	}
	if _, found := verify(t, openDB(t, backup), false); found != nil {
		t.Errorf("found %v in the backup", found)
	}
	db.Close()
	second.Close()
	if after := sums(t, dir); after != before {
		t.Errorf("the files were %s and are %s", before, after)
	}
}

// writes returns the errors of all operations that change a store.
func writes(t *testing.T, db *bolt.DB) map[string]error {
	ctx, key := t.Context(), "a.example/@v/v1.0.0.zip"
	large := storagetest.Content(1, 100_000)
	_, compact := db.Compact(ctx)
	return map[string]error{
		"Create":       db.Create(ctx, storage.Info{Key: "new"}, strings.NewReader("")),
		"Create large": db.Create(ctx, storage.Info{Key: "new", Size: int64(len(large))}, bytes.NewReader(large)),
		"Replace":      db.Replace(ctx, storage.Info{Key: key}, strings.NewReader("")),
		"Delete":       db.Delete(ctx, key),
		"Move":         db.Move(ctx, key, "new", ""),
		"Apply":        db.Apply(ctx, storage.Batch{Create: []storage.Small{{Info: storage.Info{Key: "new"}}}}),
		"SetState":     db.SetState(ctx, "head", nil),
		"SwapState":    db.SwapState(ctx, "head", []byte("tree 17"), nil),
		"DeleteState":  db.DeleteState(ctx, "head"),
		"Compact":      compact,
	}
}

// A store is served read-only in the state that a kill has left.
func TestReadOnlyAfterKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	killed(t, "churn", dir, 30, func(string) bool { return true })
	before := sums(t, dir)
	db := openReadOnly(t, dir)
	contents := newChurnContents()
	for info, err := range db.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		expectContent(t, db, info.Key, contents.of(info.Key))
	}
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("found %v", found)
	}
	db.Close()
	if after := sums(t, dir); after != before {
		t.Errorf("the files were %s and are %s", before, after)
	}
}

func TestReadOnlyRefuses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := bolt.Open(dir, &bolt.Options{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing = %v, want fs.ErrNotExist", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	for _, name := range []string{"meta.db", "blobs.db"} {
		dir := verifyStore(t)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Open(dir, &bolt.Options{ReadOnly: true}); !errors.Is(err, storage.ErrDamaged) || !strings.Contains(err.Error(), name) {
			t.Errorf("Open without %s = %v, want ErrDamaged", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made: %v", name, err)
		}
	}
	dir = verifyStore(t)
	db := openDB(t, dir)
	if _, err := bolt.Open(dir, &bolt.Options{ReadOnly: true, LockTimeout: time.Millisecond}); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("Open of a store that is in use = %v, want ErrInUse", err)
	}
	db.Close()
}
