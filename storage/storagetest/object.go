package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/assay-proxy/assay/storage"
)

func objectTests() []contract {
	return []contract{
		{"reads, seeks and ends as a reader should", objectReader},
		{"any range is read after Seek", objectRanges},
		{"WriteTo writes from the current position to the end", objectWriteTo},
		{"WriteTo stops at an error of the writer", objectWriteToError},
		{"may be opened many times", objectTwice},
		{"fails after Close", objectClosed},
		{"fails after the store is closed", objectStoreClosed},
		{"absence is fs.ErrNotExist", objectAbsent},
		{"a cancelled context is the error", objectCancelled},
		{"SHA256 is the hash of the whole content", objectSHA256},
	}
}

func objectReader(t *testing.T, s storage.Store) {
	for i, size := range []int{0, 1, 1000, 33 << 10, 600 << 10} {
		key := fmt.Sprint("key", size)
		content := Content(uint64(i), size)
		create(t, s, key, content)
		o := mustOpen(t, s, key)
		// TestReader makes small reads, and does not use WriteTo.
		if err := iotest.TestReader(struct {
			io.Reader
			io.Seeker
		}{o, o}, content); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if n, err := o.Seek(int64(size)+10, io.SeekStart); err != nil || n != int64(size)+10 {
			t.Errorf("Seek beyond the end = %d, %v", n, err)
		}
		if n, err := o.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("Read beyond the end = %d, %v, want 0, EOF", n, err)
		}
	}
}

// The hash does not depend on reads, and two objects with the same content share it.
func objectSHA256(t *testing.T, s storage.Store) {
	for i, size := range []int{0, 1000, 33 << 10, 600 << 10} {
		content := Content(uint64(i), size)
		for _, key := range []string{fmt.Sprint("first", size), fmt.Sprint("second", size)} {
			create(t, s, key, content)
			o := mustOpen(t, s, key)
			if _, err := io.ReadFull(o, make([]byte, size/2)); err != nil {
				t.Fatal(err)
			}
			if got, want := o.SHA256(), sha256.Sum256(content); got != want {
				t.Errorf("SHA256 of %d bytes = %x, want %x", size, got, want)
			}
		}
	}
}

func objectRanges(t *testing.T, s storage.Store) {
	const size = 5<<20 + 777
	content := Content(3, size)
	create(t, s, "zip", content)
	o := mustOpen(t, s, "zip")
	rng := rand.New(rand.NewPCG(1, 2))
	offsets := []int{0, size - 1, size, 256<<10 - 64, 256<<10 - 65, 4<<20 - 1024, 4 << 20}
	for range 60 {
		offsets = append(offsets, rng.IntN(size))
	}
	for _, offset := range offsets {
		length := rng.IntN(min(size-offset, 600<<10) + 1)
		if n, err := o.Seek(int64(offset-size), io.SeekEnd); err != nil || n != int64(offset) {
			t.Fatalf("Seek = %d, %v, want %d", n, err, offset)
		}
		got := make([]byte, length)
		if _, err := io.ReadFull(o, got); err != nil {
			t.Fatalf("reading %d bytes at %d: %v", length, offset, err)
		}
		expectBytes(t, fmt.Sprintf("%d bytes at %d", length, offset), got, content[offset:offset+length])
	}
}

func objectWriteTo(t *testing.T, s storage.Store) {
	for i, size := range []int{0, 1000, 700 << 10, several} {
		key := fmt.Sprint("key", size)
		content := Content(uint64(i), size)
		create(t, s, key, content)
		o := mustOpen(t, s, key)
		for _, offset := range []int{0, 1, size / 2, size - 1, size, size + 1} {
			if offset < 0 {
				continue
			}
			if _, err := o.Seek(int64(offset), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			n, err := o.WriteTo(&got)
			if err != nil || n != int64(got.Len()) {
				t.Fatalf("WriteTo at %d of %d = %d, %v, wrote %d", offset, size, n, err, got.Len())
			}
			expectBytes(t, fmt.Sprintf("WriteTo at %d", offset), got.Bytes(), content[min(offset, size):])
			if n, err := o.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("Read after WriteTo = %d, %v, want 0, EOF", n, err)
			}
		}
	}
}

// limitedWriter fails after n bytes.
type limitedWriter struct {
	n   int
	err error
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > w.n {
		n := w.n
		w.n = 0
		return n, w.err
	}
	w.n -= len(b)
	return len(b), nil
}

func objectWriteToError(t *testing.T, s storage.Store) {
	gone := errors.New("client is gone")
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		content := Content(1, size)
		create(t, s, key, content)
		o := mustOpen(t, s, key)
		n, err := o.WriteTo(&limitedWriter{size / 2, gone})
		if n != int64(size/2) || !errors.Is(err, gone) {
			t.Errorf("WriteTo = %d, %v, want %d and the writer's error", n, err, size/2)
		}
		rest, err := io.ReadAll(onlyReader{o})
		if err != nil {
			t.Error(err)
		}
		expectBytes(t, "what is left", rest, content[size/2:])
	}
}

func objectTwice(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		content := Content(1, size)
		create(t, s, key, content)
		a, b := mustOpen(t, s, key), mustOpen(t, s, key)
		half := make([]byte, size/2)
		if _, err := io.ReadFull(a, half); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		got, err := io.ReadAll(b)
		if err != nil {
			t.Error(err)
		}
		expectBytes(t, "the second", got, content)
	}
}

func objectClosed(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		create(t, s, key, Content(1, size))
		o := mustOpen(t, s, key)
		if _, err := o.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := o.Read(make([]byte, 10)); n > 0 || err == nil || err == io.EOF {
			t.Errorf("Read after Close = %d, %v, want an error", n, err)
		}
		if n, err := o.WriteTo(io.Discard); n > 0 || err == nil {
			t.Errorf("WriteTo after Close = %d, %v, want an error", n, err)
		}
		expectContent(t, s, key, Content(1, size))
	}
}

func objectStoreClosed(t *testing.T, s storage.Store) {
	var open []storage.Object
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		create(t, s, key, Content(1, size))
		open = append(open, mustOpen(t, s, key))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range open {
		if n, err := o.Read(make([]byte, 10)); n > 0 || err == nil || err == io.EOF {
			t.Errorf("Read = %d, %v, want an error", n, err)
		}
	}
	ctx := t.Context()
	_, openErr := s.Open(ctx, "key100")
	_, stateErr := s.State(ctx, "r")
	for name, err := range map[string]error{
		"Open":     openErr,
		"Create":   s.Create(ctx, storage.Info{Key: "k"}, bytes.NewReader(nil)),
		"Delete":   s.Delete(ctx, "key100"),
		"State":    stateErr,
		"SetState": s.SetState(ctx, "r", nil),
	} {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of a closed store = %v, want an error other than absence", name, err)
		}
	}
}

func objectAbsent(t *testing.T, s storage.Store) {
	create(t, s, "a/b", nil)
	for _, key := range []string{"a", "a/b/c", "b", "a/", "a/bb"} {
		if key != "a/" {
			expectAbsent(t, s, key)
		}
	}
}

func objectCancelled(t *testing.T, s storage.Store) {
	create(t, s, "a", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, openErr := s.Open(ctx, "a")
	_, statErr := s.Stat(ctx, "a")
	_, stateErr := s.State(ctx, "r")
	var listErr error
	for _, listErr = range s.List(ctx, "") {
	}
	var keysErr error
	for _, keysErr = range s.Keys(ctx, "") {
	}
	for name, err := range map[string]error{
		"Open":      openErr,
		"Stat":      statErr,
		"List":      listErr,
		"Keys":      keysErr,
		"Delete":    s.Delete(ctx, "a"),
		"State":     stateErr,
		"SetState":  s.SetState(ctx, "r", nil),
		"SwapState": s.SwapState(ctx, "r", nil, nil),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want context.Canceled", name, err)
		}
	}
	expectContent(t, s, "a", nil)
}
