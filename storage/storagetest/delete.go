package storagetest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/assay-proxy/assay/storage"
)

func deleteTests() []contract {
	return []contract{
		{"what is deleted is gone", deleteIsGone},
		{"absence is fs.ErrNotExist", deleteAbsent},
		{"an open object stays readable", deleteWhileOpen},
		{"the key can be created again with other content", deleteThenCreate},
		{"content that two keys share survives the deletion of one", deleteShared},
		{"the same content can be created again", deleteThenSameContent},
	}
}

func mustDelete(t testing.TB, s storage.Store, key string) {
	t.Helper()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatalf("Delete(%q): %v", key, err)
	}
}

func deleteIsGone(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		create(t, s, key, Content(1, size))
		create(t, s, key+"/neighbour", Content(2, size))
		mustDelete(t, s, key)
		expectAbsent(t, s, key)
		expectContent(t, s, key+"/neighbour", Content(2, size))
	}
}

func deleteAbsent(t *testing.T, s storage.Store) {
	create(t, s, "a/b", nil)
	for _, key := range []string{"a", "a/b/c", "b"} {
		if err := s.Delete(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Delete(%q) = %v, want fs.ErrNotExist", key, err)
		}
	}
	mustDelete(t, s, "a/b")
	if err := s.Delete(t.Context(), "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Delete = %v, want fs.ErrNotExist", err)
	}
}

// deleteWhileOpen writes much after the deletion, so that what was freed would
// be used again.
func deleteWhileOpen(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		content := Content(1, size)
		create(t, s, key, content)
		o := mustOpen(t, s, key)
		if _, err := io.ReadFull(o, make([]byte, 50)); err != nil {
			t.Fatal(err)
		}
		mustDelete(t, s, key)
		for i := range 5 {
			create(t, s, fmt.Sprint("later", size, "/", i), Content(uint64(100+i), 1<<20))
		}
		rest, err := io.ReadAll(o)
		if err != nil {
			t.Fatal(err)
		}
		expectBytes(t, "the rest", rest, content[50:])
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		expectAbsent(t, s, key)
	}
}

func deleteThenCreate(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		for i := range 5 {
			content := Content(uint64(i), size+i)
			create(t, s, key, content)
			expectContent(t, s, key, content)
			mustDelete(t, s, key)
		}
		expectAbsent(t, s, key)
	}
}

func deleteShared(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		content := Content(1, size)
		a, b := fmt.Sprint("a", size), fmt.Sprint("b", size)
		create(t, s, a, content)
		create(t, s, b, content)
		open := mustOpen(t, s, a)
		mustDelete(t, s, a)
		expectAbsent(t, s, a)
		expectContent(t, s, b, content)
		create(t, s, a, content)
		mustDelete(t, s, b)
		expectContent(t, s, a, content)
		got, err := io.ReadAll(open)
		if err != nil {
			t.Error(err)
		}
		expectBytes(t, "the object opened before", got, content)
	}
}

func deleteThenSameContent(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		content := Content(1, size)
		for i := range 5 {
			key := fmt.Sprint("key", size, "/", i)
			create(t, s, key, content)
			expectContent(t, s, key, content)
			mustDelete(t, s, key)
		}
	}
}
