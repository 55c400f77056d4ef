package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-proxy/assay/storage"
)

// contract is one rule of the contract, in words, and its test.
type contract struct {
	promise string
	check   func(t *testing.T, s storage.Store)
}

// Content returns size incompressible bytes, the same for the same seed.
func Content(seed uint64, size int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

// onlyReader hides all methods of r but Read.
type onlyReader struct{ io.Reader }

// create stores content under key.
func create(t testing.TB, s storage.Store, key string, content []byte) {
	t.Helper()
	info := storage.Info{Key: key, Size: int64(len(content))}
	if err := s.Create(t.Context(), info, onlyReader{bytes.NewReader(content)}); err != nil {
		t.Errorf("Create(%q) of %d bytes: %v", key, len(content), err)
	}
}

// expectContent checks that key holds content.
func expectContent(t testing.TB, s storage.Store, key string, content []byte) {
	t.Helper()
	got, err := read(t.Context(), s, key)
	if err != nil {
		t.Errorf("reading %q: %v", key, err)
		return
	}
	expectBytes(t, key, got, content)
}

// expectBytes compares large values without printing them.
func expectBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes with SHA-256 %x, want %d bytes with %x",
			what, len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
	}
}

// read returns the content of key.
func read(ctx context.Context, s storage.Store, key string) ([]byte, error) {
	o, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(onlyReader{o})
	return b, errors.Join(err, o.Close())
}

// expectAbsent checks that key does not exist for any method.
func expectAbsent(t testing.TB, s storage.Store, key string) {
	t.Helper()
	ctx := t.Context()
	if o, err := s.Open(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open(%q) = %v, %v, want fs.ErrNotExist", key, o, err)
	}
	if info, err := s.Stat(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat(%q) = %v, %v, want fs.ErrNotExist", key, info, err)
	}
	for info, err := range s.List(ctx, key) {
		if err != nil || info.Key == key {
			t.Errorf("List(%q) yields %v, %v, want nothing", key, info, err)
		}
	}
}

// mustOpen opens key and closes it with the test, if the test did not.
func mustOpen(t testing.TB, s storage.Store, key string) storage.Object {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatalf("Open(%q): %v", key, err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// listed returns the keys that List yields, and checks that Keys yields the same. Nothing may be
// written meanwhile.
func listed(t testing.TB, s storage.Store, prefix string) []string {
	t.Helper()
	keys := list(t, s, prefix)
	alone := []string{}
	for key, err := range s.Keys(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("Keys(%q): %v", prefix, err)
		}
		alone = append(alone, key)
	}
	if diff := cmp.Diff(keys, alone); diff != "" {
		t.Errorf("Keys(%q) differs from List (-List +Keys):\n%s", prefix, diff)
	}
	return keys
}

// list returns the keys that List yields.
func list(t testing.TB, s storage.Store, prefix string) []string {
	t.Helper()
	keys := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List(%q): %v", prefix, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// parallel runs f in n goroutines and waits for them.
func parallel(t testing.TB, n int, f func(worker int)) {
	t.Helper()
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() { f(w) })
	}
	wg.Wait()
}
