package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
)

func moveTests() []contract {
	return []contract{
		{"the object has the other key and proof, and all else as before", moveAll},
		{"a key that is taken is fs.ErrExist, and nothing moves", moveExist},
		{"an absent object is fs.ErrNotExist", moveAbsent},
		{"an open object stays readable", moveOpen},
		{"what shares the content does not move", moveShared},
		{"a moved object can be deleted, moved and made again", moveAgain},
		{"one of many who move to a key wins", moveRace},
		{"a bad key or proof is refused", moveBounds},
		{"after a cut the object is there", moveCut},
	}
}

func mustMove(t testing.TB, s storage.Store, from, to string) {
	t.Helper()
	if err := s.Move(t.Context(), from, to, "proof"); err != nil {
		t.Fatalf("Move(%q, %q): %v", from, to, err)
	}
}

func moveAll(t *testing.T, s storage.Store) {
	for _, size := range sizes {
		from, to := fmt.Sprint("unproved/", size), fmt.Sprint("proved/", size)
		info := storage.Info{Key: from, Size: int64(size), Hash: "h1:x", Proof: "old", Time: time.Unix(1e9, 0).UTC()}
		content := Content(uint64(size), size)
		if err := s.Create(t.Context(), info, onlyReader{bytes.NewReader(content)}); err != nil {
			t.Fatal(err)
		}
		mustMove(t, s, from, to)
		expectAbsent(t, s, from)
		expectContent(t, s, to, content)
		info.Key, info.Proof = to, "proof"
		if got, err := s.Stat(t.Context(), to); err != nil || got != info {
			t.Errorf("Stat = %v, %v, want %v", got, err, info)
		}
		o := mustOpen(t, s, to)
		if o.Info() != info {
			t.Errorf("Info = %v, want %v", o.Info(), info)
		}
	}
	if got := listed(t, s, "unproved/"); len(got) > 0 {
		t.Errorf("List yields %q, want nothing", got)
	}
}

func moveExist(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		from, to := fmt.Sprint("from", size), fmt.Sprint("to", size)
		create(t, s, from, Content(1, size))
		create(t, s, to, Content(2, size))
		for _, to := range []string{to, from} {
			if err := s.Move(t.Context(), from, to, "proof"); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Move(%q, %q) = %v, want fs.ErrExist", from, to, err)
			}
		}
		expectContent(t, s, from, Content(1, size))
		expectContent(t, s, to, Content(2, size))
		for _, key := range []string{from, to} {
			if info, err := s.Stat(t.Context(), key); err != nil || info.Proof != "" {
				t.Errorf("Stat(%q) = %v, %v, want no proof", key, info, err)
			}
		}
	}
}

func moveAbsent(t *testing.T, s storage.Store) {
	create(t, s, "there", nil)
	for _, to := range []string{"to", "from"} {
		if err := s.Move(t.Context(), "from", to, "proof"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Move to %q = %v, want fs.ErrNotExist", to, err)
		}
		expectAbsent(t, s, to)
	}
	expectContent(t, s, "there", nil)
}

func moveOpen(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		from, to := fmt.Sprint("from", size), fmt.Sprint("to", size)
		content := Content(1, size)
		create(t, s, from, content)
		o := mustOpen(t, s, from)
		mustMove(t, s, from, to)
		mustDelete(t, s, to)
		create(t, s, to, Content(2, size))
		var got bytes.Buffer
		if _, err := o.WriteTo(&got); err != nil {
			t.Error(err)
		}
		expectBytes(t, "the object opened before", got.Bytes(), content)
		expectContent(t, s, to, Content(2, size))
	}
}

func moveShared(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		content := Content(1, size)
		keys := []string{fmt.Sprint("a", size), fmt.Sprint("b", size), fmt.Sprint("c", size)}
		for _, key := range keys {
			create(t, s, key, content)
		}
		mustMove(t, s, keys[0], keys[0]+"-moved")
		mustDelete(t, s, keys[1])
		expectContent(t, s, keys[0]+"-moved", content)
		expectContent(t, s, keys[2], content)
		mustDelete(t, s, keys[2])
		expectContent(t, s, keys[0]+"-moved", content)
		create(t, s, keys[1], content)
		mustDelete(t, s, keys[0]+"-moved")
		expectContent(t, s, keys[1], content)
	}
}

func moveAgain(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		a, b, content := fmt.Sprint("a", size), fmt.Sprint("b", size), Content(1, size)
		for range 3 {
			create(t, s, a, content)
			mustMove(t, s, a, b)
			mustMove(t, s, b, a)
			expectContent(t, s, a, content)
			mustMove(t, s, a, b)
			mustDelete(t, s, b)
			expectAbsent(t, s, a)
			expectAbsent(t, s, b)
		}
	}
}

func moveRace(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		to := fmt.Sprint("to", size)
		winners := make(chan int, 8)
		parallel(t, 8, func(w int) {
			from := fmt.Sprint("from", size, "-", w)
			create(t, s, from, Content(uint64(w), size))
			switch err := s.Move(t.Context(), from, to, "proof"); {
			case err == nil:
				winners <- w
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			default:
				expectContent(t, s, from, Content(uint64(w), size))
			}
		})
		close(winners)
		if len(winners) != 1 {
			t.Fatalf("%d winners, want 1", len(winners))
		}
		expectContent(t, s, to, Content(uint64(<-winners), size))
	}
}

func moveBounds(t *testing.T, s storage.Store) {
	create(t, s, "from", nil)
	for _, to := range []string{"", "/to", "to/", "a//b", strings.Repeat("t", storage.MaxComponent+1)} {
		if err := s.Move(t.Context(), "from", to, ""); err == nil {
			t.Errorf("Move to %q succeeded", to)
		}
	}
	if err := s.Move(t.Context(), "from", "to", strings.Repeat("p", 1025)); err == nil {
		t.Error("Move with a long proof succeeded")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Move(ctx, "from", "to", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Move = %v, want context.Canceled", err)
	}
	expectContent(t, s, "from", nil)
	expectAbsent(t, s, "to")
}

func moveCut(t *testing.T, s storage.Store) {
	for steps, want := range []struct{ from, to bool }{{from: true}, {from: true, to: true}, {to: true}} {
		from, to, content := fmt.Sprint("from", steps), fmt.Sprint("to", steps), Content(1, 100)
		create(t, s, from, content)
		if err := Cut(s, steps).Move(t.Context(), from, to, "proof"); errors.Is(err, ErrCut) == (steps == 2) {
			t.Errorf("after %d steps Move = %v", steps, err)
		}
		for key, there := range map[string]bool{from: want.from, to: want.to} {
			if there {
				expectContent(t, s, key, content)
			} else {
				expectAbsent(t, s, key)
			}
		}
	}
}
