package storagetest

import (
	"bytes"
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

func replaceTests() []contract {
	return []contract{
		{"the new object takes the place of the old one", replaceTakesPlace},
		{"a free key is taken as by Create", replaceFree},
		{"every Open beside it gets the old or the new object", replaceAtOnce},
		{"what fails leaves the old object", replaceFails},
	}
}

func replace(t testing.TB, s storage.Store, key string, content []byte) {
	t.Helper()
	info := storage.Info{Key: key, Size: int64(len(content))}
	if err := s.Replace(t.Context(), info, onlyReader{bytes.NewReader(content)}); err != nil {
		t.Errorf("Replace(%q) by %d bytes: %v", key, len(content), err)
	}
}

// Small and large objects replace each other and objects of the same size, also while
// another key has the same content.
func replaceTakesPlace(t *testing.T, s storage.Store) {
	for _, from := range smallAndLarge {
		for _, to := range smallAndLarge {
			key := fmt.Sprint("key", from, "-", to)
			before, after := Content(1, from), Content(2, to)
			create(t, s, key, before)
			create(t, s, key+"-neighbour", before)
			open := mustOpen(t, s, key)
			replace(t, s, key, after)
			expectContent(t, s, key, after)
			if got, err := io.ReadAll(onlyReader{open}); err != nil {
				t.Errorf("an object that was open: %v", err)
			} else {
				expectBytes(t, "an object that was open", got, before)
			}
			replace(t, s, key, after)
			expectContent(t, s, key, after)
			replace(t, s, key, before)
			expectContent(t, s, key, before)
			expectContent(t, s, key+"-neighbour", before)
			mustDelete(t, s, key)
			expectAbsent(t, s, key)
		}
	}
}

func replaceFree(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		replace(t, s, fmt.Sprint("key", size), Content(1, size))
		expectContent(t, s, fmt.Sprint("key", size), Content(1, size))
	}
}

func replaceAtOnce(t *testing.T, s storage.Store) {
	contents := [][]byte{Content(1, smallAndLarge[0]), Content(2, smallAndLarge[len(smallAndLarge)-1])}
	create(t, s, "key", contents[0])
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			replace(t, s, "key", contents[i%2])
		}
	}()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		got, err := read(t.Context(), s, "key")
		if err != nil || !bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1]) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
}

func replaceFails(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key, content := fmt.Sprint("key", size), Content(1, size)
		create(t, s, key, content)
		err := s.Replace(t.Context(), storage.Info{Key: key, Size: int64(size) + 1}, bytes.NewReader(Content(2, size)))
		if err == nil {
			t.Errorf("a reader of %d bytes for %d", size, size+1)
		}
		expectContent(t, s, key, content)
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
		create(t, s, key+"-neighbour", Content(2, size))
		mustDelete(t, s, key)
		expectAbsent(t, s, key)
		expectContent(t, s, key+"-neighbour", Content(2, size))
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

// deleteWhileOpen writes much after the deletion, so that an engine would reuse freed
// space.
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
