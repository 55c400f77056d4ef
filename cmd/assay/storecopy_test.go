package main_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	main "github.com/assay-proxy/assay/cmd/assay"
	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// openBolt opens a store in a directory of its own.
func openBolt(t *testing.T) (db *bolt.DB, dir string) {
	t.Helper()
	dir = t.TempDir()
	db, err := bolt.Open(dir, &bolt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, dir
}

// clientOf returns a client of a server of a store.
func clientOf(t *testing.T, store storage.Store) *admin.Client {
	t.Helper()
	client := admin.Local(&admin.Server{Store: store, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { client.Close() })
	return client
}

func mustCreate(t *testing.T, store storage.Store, key string, content []byte) {
	t.Helper()
	info := storage.Info{Key: key, Size: int64(len(content)), Hash: "h1:" + key, Proof: "sum.example"}
	if err := store.Create(t.Context(), info, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

func mustSetState(t *testing.T, store storage.Store, name, value string) {
	t.Helper()
	if err := store.SetState(t.Context(), name, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// Another object at a key, and a state that the servers of the target have changed, end a copy; answers of theirs stay.
// What belongs to a store itself, and the own log, are not copied.
func TestStoreCopy(t *testing.T) {
	t.Parallel()
	from, _ := openBolt(t)
	to, _ := openBolt(t)
	client := clientOf(t, from)
	mustCreate(t, from, "proved/sum.example/a", []byte("a"))
	mustCreate(t, from, "proved/sum.example/large", storagetest.Content(1, 1<<20))
	mustCreate(t, from, "log/own/entry", []byte("of the own log"))
	for _, name := range []string{"latest", "example.com/a/@v/list", "store", "news", "log/guard", "lease/a"} {
		mustSetState(t, from, name, "1")
	}
	copied := func(want string) {
		t.Helper()
		if done, err := main.CopyStore(t.Context(), client, to); err != nil || !strings.HasPrefix(done, want) {
			t.Fatalf("copied %s, %v, want %s", done, err, want)
		}
	}
	copied("2 objects, 0 held, 2 states")
	copied("0 objects, 2 held, 0 states")
	for _, name := range []string{"store", "news", "log/guard", "lease/a"} {
		if value, err := to.State(t.Context(), name); err == nil {
			t.Errorf("the state %s was copied: %q", name, value)
		}
	}
	if _, err := to.Stat(t.Context(), "log/own/entry"); err == nil {
		t.Error("an object of the own log was copied")
	}
	info, err := to.Stat(t.Context(), "proved/sum.example/large")
	if want, _ := from.Stat(t.Context(), "proved/sum.example/large"); err != nil || info != want {
		t.Errorf("copied as %+v, %v, want %+v", info, err, want)
	}

	mustSetState(t, from, "latest", "2")
	mustSetState(t, from, "example.com/a/@v/list", "2")
	copied("0 objects, 2 held, 2 states")
	mustSetState(t, from, "example.com/a/@v/list", "3")
	mustSetState(t, to, "example.com/a/@v/list", "of a server")
	copied("0 objects, 2 held, 0 states")
	mustSetState(t, to, "latest", "of a server")
	if done, err := main.CopyStore(t.Context(), client, to); err == nil || !strings.Contains(err.Error(), "its state latest has changed") {
		t.Errorf("a target in use: %s, %v", done, err)
	}
	mustSetState(t, to, "latest", "2")
	// The same signed head, which the stores have got at different times.
	mustCreate(t, from, "sumdb/sum.example/head/0000000000000001", []byte(`{"time":"2026-01-01T00:00:00Z","note":"head"}`))
	mustCreate(t, to, "sumdb/sum.example/head/0000000000000001", []byte(`{"time":"2026-01-02T00:00:00Z","note":"head"}`))
	copied("0 objects, 3 held, 0 states")
	mustCreate(t, from, "proved/sum.example/b", []byte("b"))
	mustCreate(t, to, "proved/sum.example/b", []byte("c"))
	if done, err := main.CopyStore(t.Context(), client, to); err == nil || !strings.Contains(err.Error(), "proved/sum.example/b: the target has another object") {
		t.Errorf("another object: %s, %v", done, err)
	}
}

// A state of the target that ends a copy does so before anything is changed, and also if a server changes it during the
// copy.
func TestStoreCopyChecksFirst(t *testing.T) {
	t.Parallel()
	from, _ := openBolt(t)
	to, _ := openBolt(t)
	client := clientOf(t, from)
	mustCreate(t, from, "proved/sum.example/a", []byte("a"))
	mustSetState(t, from, "latest", "1")
	mustSetState(t, to, "latest", "of a server")
	if done, err := main.CopyStore(t.Context(), client, to); err == nil || !strings.Contains(err.Error(), "its state latest has changed") {
		t.Errorf("a target in use: %s, %v", done, err)
	}
	for key, err := range to.Keys(t.Context(), "") {
		t.Errorf("%s was copied, %v", key, err)
	}
	if err := to.DeleteState(t.Context(), "latest"); err != nil {
		t.Fatal(err)
	}
	if done, err := main.CopyStore(t.Context(), client, usedStore{to}); err == nil || !strings.Contains(err.Error(), "its state latest has changed") {
		t.Errorf("a target that a server uses during the copy: %s, %v", done, err)
	}
}

// usedStore is a store whose state latest a server changes when an object is created.
type usedStore struct{ storage.Store }

func (u usedStore) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	return errors.Join(u.SetState(ctx, "latest", []byte("of a server")), u.Store.Create(ctx, info, r))
}

// What was purged in the source between two copies is not left in the target, and an .info that was replaced is replaced.
func TestStoreCopyAgain(t *testing.T) {
	t.Parallel()
	from, _ := openBolt(t)
	to, _ := openBolt(t)
	client := clientOf(t, from)
	if err := storage.NoteVoucher(t.Context(), from, storage.ProvedBy("sum.example")); err != nil {
		t.Fatal(err)
	}
	const dir = "proved/sum.example/example.com/a/@v/"
	for _, name := range []string{"v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip", "v1.1.0.info", "v1.1.0.mod"} {
		mustCreate(t, from, dir+name, []byte(name))
	}
	if _, err := main.CopyStore(t.Context(), client, to); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Purge(t.Context(), admin.Purge{Module: "example.com/a", Version: "v1.0.0", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	changed := []byte("another info")
	if err := from.Replace(t.Context(), storage.Info{Key: dir + "v1.1.0.info", Size: int64(len(changed))}, bytes.NewReader(changed)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if done, err := main.CopyStore(t.Context(), client, to); err != nil {
			t.Fatalf("%s, %v", done, err)
		}
	}
	if _, err := to.Stat(t.Context(), dir+"v1.0.0.zip"); err == nil {
		t.Error("what was purged is in the target")
	}
	if info, err := to.Stat(t.Context(), dir+"v1.1.0.info"); err != nil || info.Size != int64(len(changed)) {
		t.Errorf("the .info that was replaced: %+v, %v", info, err)
	}
	mustCreate(t, from, dir+"v1.0.0.mod", []byte("v1.0.0.mod")) // fetched again: a later copy does not repeat the purge
	for range 2 {
		if _, err := main.CopyStore(t.Context(), client, to); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := to.Stat(t.Context(), dir+"v1.0.0.mod"); err != nil {
		t.Errorf("what was stored again after a purge: %v", err)
	}
}

// purgedMeanwhile is a target of a copy. When it gets the object at last, it waits for all others and calls purge.
type purgedMeanwhile struct {
	storage.Store
	last  string
	all   []string
	purge func()
}

func (p purgedMeanwhile) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if info.Key == p.last {
		for _, key := range p.all {
			for ctx.Err() == nil {
				if _, err := p.Stat(ctx, key); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
		p.purge()
	}
	return p.Store.Create(ctx, info, r)
}

// What is purged in the source after it was copied, and before the copy ends, leaves the target, too.
func TestStoreCopyBesidePurge(t *testing.T) {
	t.Parallel()
	from, _ := openBolt(t)
	to, _ := openBolt(t)
	client := clientOf(t, from)
	if err := storage.NoteVoucher(t.Context(), from, storage.ProvedBy("sum.example")); err != nil {
		t.Fatal(err)
	}
	target := purgedMeanwhile{Store: to, last: "proved/sum.example/example.com/b/@v/v1.0.0.mod"}
	for _, file := range []string{"info", "mod", "zip"} {
		target.all = append(target.all, "proved/sum.example/example.com/a/@v/v1.0.0."+file)
	}
	for _, key := range append(target.all, target.last) {
		mustCreate(t, from, key, []byte(key))
	}
	target.purge = func() {
		if _, err := client.Purge(t.Context(), admin.Purge{Module: "example.com/a", Reason: "test"}); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if _, err := main.CopyStore(t.Context(), client, target); err != nil {
			t.Fatal(err)
		}
		for _, key := range target.all {
			if _, err := to.Stat(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s was purged, and is in the target: %v", key, err)
			}
		}
	}
	if _, err := to.Stat(t.Context(), target.last); err != nil {
		t.Error(err)
	}
	if err := from.SetState(t.Context(), content.PurgingState, []byte(`[{"ID":"x"}]`)); err != nil {
		t.Fatal(err)
	}
	if _, err := main.CopyStore(t.Context(), client, to); err == nil || !strings.Contains(err.Error(), "is not finished") {
		t.Errorf("a copy beside a purge: %v", err)
	}
}

// Damaged objects are named and left out; the rest is copied.
func TestStoreCopyDamaged(t *testing.T) {
	t.Parallel()
	from, dir := openBolt(t)
	content := storagetest.Content(3, 600<<10)
	mustCreate(t, from, "damaged", content)
	mustCreate(t, from, "sound", storagetest.Content(4, 600<<10))
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "blobs.db")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, content[300<<10:300<<10+64])
	if at < 0 {
		t.Fatal("the content is not in the file")
	}
	data[at] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if from, err = bolt.Open(dir, &bolt.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.Close() })
	to, _ := openBolt(t)
	done, err := main.CopyStore(t.Context(), clientOf(t, from), to)
	if err != nil || done != `1 objects, 0 held, 0 states, damaged ["damaged"]` {
		t.Errorf("copied %s, %v", done, err)
	}
	if _, err := to.Stat(t.Context(), "damaged"); err == nil {
		t.Error("the damaged object is in the target")
	}
}

// A copy that ends in the middle goes on where it was.
func TestStoreCopyInterrupted(t *testing.T) {
	t.Parallel()
	from, _ := openBolt(t)
	to, _ := openBolt(t)
	for _, key := range []string{"a", "b", "c", "d"} {
		mustCreate(t, from, key, []byte(key))
	}
	mustSetState(t, from, "latest", "1")
	failing := &failingStore{to}
	if done, err := main.CopyStore(t.Context(), clientOf(t, from), failing); err == nil {
		t.Errorf("a target that fails: copied %s", done)
	}
	if _, err := to.State(t.Context(), "latest"); err == nil {
		t.Error("a state was copied before all objects")
	}
	if done, err := main.CopyStore(t.Context(), clientOf(t, from), to); err != nil || !strings.HasPrefix(done, "1 objects, 3 held, 1 states") {
		t.Errorf("again: copied %s, %v", done, err)
	}
}

// failingStore cannot create d, which it says when it has the other objects.
type failingStore struct{ storage.Store }

func (f *failingStore) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if info.Key != "d" {
		return f.Store.Create(ctx, info, r)
	}
	for _, key := range []string{"a", "b", "c"} {
		for _, err := f.Store.Stat(ctx, key); err != nil; _, err = f.Store.Stat(ctx, key) {
			time.Sleep(time.Millisecond)
		}
	}
	return errors.New("no more")
}
