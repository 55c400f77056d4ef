package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/assay-proxy/assay/storage"
)

func draftCommitTests() []contract {
	return []contract{
		{"a key that exists is refused, and the draft can be read", draftExisting},
		{"a race for a key has one winner", draftRace},
		{"another size than that of Commit is refused", draftSize},
		{"a Write beyond the size is refused", draftLong},
		{"an Info out of bounds is refused", draftBounds},
		{"Commit is the last change", draftOnce},
		{"a cancelled context ends Write and Commit", draftCancelled},
		{"contents are shared with other objects, which may be deleted", draftShared},
	}
}

func draftExisting(t *testing.T, s storage.Store) {
	for _, size := range []int{100, 700 << 10, several} {
		key, winner, loser := fmt.Sprint("key", size), Content(1, size), Content(2, size)
		d := newDraft(t, s, int64(size))
		write(t, d, loser, 1<<20)
		create(t, s, key, winner)
		if err := d.Commit(t.Context(), storage.Info{Key: key, Size: int64(size), Hash: "other"}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Commit(%q) = %v, want fs.ErrExist", key, err)
		}
		expectWritten(t, d, loser)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		expectContent(t, s, key, winner)
		if info, err := s.Stat(t.Context(), key); err != nil || info.Hash != "" {
			t.Errorf("Stat = %v, %v, want the info of the first", info, err)
		}
	}
}

func draftRace(t *testing.T, s storage.Store) {
	for _, size := range []int{100, 700 << 10} {
		key := fmt.Sprint("race", size)
		winners := make(chan int, 8)
		parallel(t, cap(winners), func(w int) {
			d := newDraft(t, s, -1)
			write(t, d, Content(uint64(w), size), 64<<10)
			err := d.Commit(t.Context(), storage.Info{Key: key, Size: int64(size)})
			switch {
			case err == nil:
				winners <- w
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("Commit: %v", err)
			}
		})
		close(winners)
		if len(winners) != 1 {
			t.Fatalf("%d winners, want 1", len(winners))
		}
		expectContent(t, s, key, Content(uint64(<-winners), size))
	}
}

func draftSize(t *testing.T, s storage.Store) {
	for _, size := range []int{0, 100, 32 << 10, 700 << 10, several} {
		for _, wrong := range []int{0, size - 1, size + 1} {
			if wrong == size || wrong < 0 {
				continue
			}
			d := newDraft(t, s, -1)
			write(t, d, Content(1, size), 1<<20)
			if err := d.Commit(t.Context(), storage.Info{Key: "wrong", Size: int64(wrong)}); err == nil {
				t.Errorf("Commit of %d bytes as %d succeeded", size, wrong)
			}
		}
		d := newDraft(t, s, int64(size)+1)
		write(t, d, Content(1, size), 1<<20)
		if err := d.Commit(t.Context(), storage.Info{Key: "wrong", Size: int64(size)}); err == nil {
			t.Errorf("Commit of %d bytes, less than the size of the draft, succeeded", size)
		}
	}
	expectAbsent(t, s, "wrong")
	if d, err := s.Draft(t.Context(), -2); err == nil {
		d.Close()
		t.Error("a draft of -2 bytes")
	}
}

func draftLong(t *testing.T, s storage.Store) {
	for _, size := range sizes {
		d := newDraft(t, s, int64(size))
		write(t, d, make([]byte, size), 1<<20)
		if _, err := d.Write([]byte("x")); err == nil {
			t.Fatalf("Write of byte %d of %d succeeded", size+1, size)
		}
		if err := d.Commit(t.Context(), storage.Info{Key: "long", Size: int64(size)}); err == nil {
			t.Errorf("Commit after a failed Write of %d bytes succeeded", size)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	expectAbsent(t, s, "long")
}

func draftBounds(t *testing.T, s storage.Store) {
	for name, info := range map[string]storage.Info{
		"key":  {Key: "/a"},
		"hash": {Key: "k", Hash: string(make([]byte, 1025))},
		"size": {Key: "k", Size: -1},
	} {
		if err := newDraft(t, s, -1).Commit(t.Context(), info); err == nil {
			t.Errorf("Commit with a %s out of bounds succeeded", name)
		}
	}
	expectAbsent(t, s, "k")
}

func draftOnce(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key, content := fmt.Sprint("key", size), Content(1, size)
		d := newDraft(t, s, -1)
		write(t, d, content, size)
		commit(t, d, key, size)
		if _, err := d.Write([]byte("x")); err == nil {
			t.Error("Write after Commit succeeded")
		}
		if err := d.Commit(t.Context(), storage.Info{Key: "second", Size: int64(size)}); err == nil {
			t.Error("a second Commit succeeded")
		}
		expectWritten(t, d, content)
		expectContent(t, s, key, content)
		expectAbsent(t, s, "second")
	}
}

func draftCancelled(t *testing.T, s storage.Store) {
	for _, size := range []int{100, 700 << 10, several} {
		ctx, cancel := context.WithCancel(t.Context())
		d, err := s.Draft(ctx, -1)
		if err != nil {
			t.Fatal(err)
		}
		write(t, d, Content(1, size), 1<<20)
		cancel()
		if _, err := d.Write([]byte("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("Write = %v, want context.Canceled", err)
		}
		if err := d.Commit(ctx, storage.Info{Key: "cancelled", Size: int64(size)}); !errors.Is(err, context.Canceled) {
			t.Errorf("Commit of %d bytes = %v, want context.Canceled", size, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Draft(ctx, -1); !errors.Is(err, context.Canceled) {
			t.Errorf("Draft = %v, want context.Canceled", err)
		}
	}
	expectAbsent(t, s, "cancelled")
}

// draftShared commits the content of another object, which is deleted before, meanwhile or after.
func draftShared(t *testing.T, s storage.Store) {
	content := Content(1, min(several, 5<<20))
	create(t, s, "first", content)
	d := newDraft(t, s, -1)
	write(t, d, content, 1<<20)
	commit(t, d, "second", len(content))
	expectWritten(t, d, content)
	if err := s.Delete(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	expectContent(t, s, "second", content)
	expectWritten(t, d, content)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	expectContent(t, s, "second", content)

	parallel(t, 4, func(w int) {
		for i := range 6 {
			key := fmt.Sprint("shared", w, "-", i)
			d := newDraft(t, s, int64(len(content)))
			write(t, d, content, 1<<20)
			commit(t, d, key, len(content))
			if i%2 == 0 {
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if i%2 == 1 {
				expectContent(t, s, key, content)
			}
		}
	})
	for w := range 4 {
		expectContent(t, s, fmt.Sprint("shared", w, "-1"), content)
	}
}
