package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-proxy/assay/storage"
)

func draftTests() []contract {
	return []contract{
		{"what was written is stored, at every size", draftStores},
		{"the info is that of Commit", draftInfo},
		{"nothing is visible before Commit", draftInvisible},
		{"what was written can be read at once", draftReads},
		{"what was written can be read during writes, by many", draftFollowed},
		{"a draft can be read after Commit, until Close", draftReadLater},
		{"a reader that is slower than Close gets the bytes or fs.ErrClosed", draftReadBesideClose},
		{"a draft that is closed leaves nothing", draftAbandoned},
		{"a key that exists is refused, and the draft can be read", draftExisting},
		{"a race for a key has one winner", draftRace},
		{"another size than that of Commit is refused", draftSize},
		{"a Write beyond the size is refused", draftLong},
		{"an Info out of bounds is refused", draftBounds},
		{"Commit is the last change", draftOnce},
		{"a cancelled context ends Write and Commit", draftCancelled},
		{"contents are shared with other objects, which may be deleted", draftShared},
		{"many drafts at the same time", draftMany},
		{"drafts of a closed store fail", draftStoreClosed},
	}
}

// newDraft opens a draft and closes it with the test, if the test did not.
func newDraft(t testing.TB, s storage.Store, size int64) storage.Draft {
	t.Helper()
	d, err := s.Draft(t.Context(), size)
	if err != nil {
		t.Fatalf("Draft(%d): %v", size, err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// write writes content in pieces of step bytes.
func write(t testing.TB, d storage.Draft, content []byte, step int) {
	t.Helper()
	for len(content) > 0 {
		piece := content[:min(step, len(content))]
		if n, err := d.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("Write of %d bytes = %d, %v", len(piece), n, err)
		}
		content = content[len(piece):]
	}
}

// commit commits under key.
func commit(t testing.TB, d storage.Draft, key string, size int) {
	t.Helper()
	if err := d.Commit(t.Context(), storage.Info{Key: key, Size: int64(size)}); err != nil {
		t.Fatalf("Commit(%q) of %d bytes: %v", key, size, err)
	}
}

// expectWritten checks that a draft has content so far.
func expectWritten(t testing.TB, d storage.Draft, content []byte) {
	t.Helper()
	got, err := io.ReadAll(io.NewSectionReader(d, 0, 1<<40))
	if err != nil {
		t.Errorf("reading a draft: %v", err)
	}
	expectBytes(t, "draft", got, content)
}

func draftStores(t *testing.T, s storage.Store) {
	for i, size := range append(sizes, 20<<20+12345) {
		content := Content(uint64(i), size)
		for name, declared := range map[string]int64{"known": int64(size), "unknown": -1} {
			key := fmt.Sprintf("%s/%d", name, size)
			d := newDraft(t, s, declared)
			write(t, d, content, 100_000+i)
			expectWritten(t, d, content)
			commit(t, d, key, size)
			expectContent(t, s, key, content)
			if err := d.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			expectContent(t, s, key, content)
		}
	}
}

func draftInfo(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		d := newDraft(t, s, -1)
		write(t, d, Content(1, size), size)
		want := storage.Info{Key: fmt.Sprint("key", size), Size: int64(size), Hash: "h1:x", Proof: "sum.example"}
		if err := d.Commit(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		got, err := s.Stat(t.Context(), want.Key)
		if got.Time.IsZero() {
			t.Error("the time is not set")
		}
		want.Time = got.Time
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("Stat, error %v (-want +got):\n%s", err, diff)
		}
	}
}

func draftInvisible(t *testing.T, s storage.Store) {
	for _, size := range []int{100, 700 << 10, 9 << 20} {
		key := fmt.Sprint("key", size)
		d := newDraft(t, s, int64(size))
		write(t, d, Content(1, size), 1<<20)
		expectAbsent(t, s, key)
		if keys := listed(t, s, ""); len(keys) != 0 {
			t.Errorf("listed: %q", keys)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func draftReads(t *testing.T, s storage.Store) {
	content := Content(1, 9<<20+77)
	d := newDraft(t, s, -1)
	if n, err := d.ReadAt(make([]byte, 10), 0); n != 0 || err != io.EOF {
		t.Errorf("ReadAt of an empty draft = %d, %v, want io.EOF", n, err)
	}
	for from, step := 0, 1; from < len(content); from, step = from+step, step*3 {
		step = min(step, len(content)-from)
		write(t, d, content[from:from+step], step)
		last := make([]byte, step)
		if n, err := d.ReadAt(last, int64(from)); n != step || err != nil {
			t.Fatalf("ReadAt(%d) of %d bytes = %d, %v", from, step, n, err)
		}
		expectBytes(t, "last", last, content[from:from+step])
		if n, err := d.ReadAt(last, int64(from)+1); n != step-1 || err != io.EOF {
			t.Errorf("ReadAt beyond the end = %d, %v, want %d, io.EOF", n, err, step-1)
		}
		expectWritten(t, d, content[:from+step])
	}
	if n, err := d.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || err == io.EOF {
		t.Errorf("ReadAt(-1) = %d, %v, want an error", n, err)
	}
}

// written counts the bytes of a draft for those that follow it.
type written struct {
	mu   sync.Mutex
	n    int
	more *sync.Cond
}

func newWritten() *written {
	w := new(written)
	w.more = sync.NewCond(&w.mu)
	return w
}

func (w *written) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n += n
	w.more.Broadcast()
}

// after waits until there are more than n bytes.
func (w *written) after(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.n <= n {
		w.more.Wait()
	}
	return w.n
}

func draftFollowed(t *testing.T, s storage.Store) {
	content := Content(2, 12<<20+5)
	d := newDraft(t, s, int64(len(content)))
	so := newWritten()
	parallel(t, 7, func(worker int) {
		if worker == 0 {
			for n := 0; n < len(content); {
				m, err := d.Write(content[n:min(n+100_003, len(content))])
				if err != nil {
					t.Error(err)
				}
				so.add(m)
				n += m
			}
			commit(t, d, "followed", len(content))
			return
		}
		for n := 0; n < len(content); {
			piece := make([]byte, min(so.after(n)-n, 50_000*worker))
			if m, err := d.ReadAt(piece, int64(n)); m != len(piece) || err != nil {
				t.Errorf("ReadAt(%d) of %d bytes = %d, %v", n, len(piece), m, err)
				return
			}
			if !bytes.Equal(piece, content[n:n+len(piece)]) {
				t.Errorf("other bytes from %d on", n)
				return
			}
			n += len(piece)
		}
	})
	expectContent(t, s, "followed", content)
}

func draftReadLater(t *testing.T, s storage.Store) {
	for _, size := range []int{0, 100, 700 << 10, 9 << 20} {
		key, content := fmt.Sprint("key", size), Content(3, size)
		d := newDraft(t, s, -1)
		write(t, d, content, 1<<20)
		commit(t, d, key, size)
		expectWritten(t, d, content)
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		expectWritten(t, d, content)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if n, err := d.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("ReadAt after Close = %d, %v, want fs.ErrClosed", n, err)
		}
		if err := d.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("second Close = %v, want fs.ErrClosed", err)
		}
	}
}

func draftReadBesideClose(t *testing.T, s storage.Store) {
	content := Content(4, 5<<20)
	for range 5 {
		d := newDraft(t, s, -1)
		write(t, d, content, 1<<20)
		var begun sync.WaitGroup
		begun.Add(3)
		parallel(t, 4, func(worker int) {
			if worker == 0 {
				begun.Wait()
				if err := d.Close(); err != nil {
					t.Error(err)
				}
				// Other contents may use its place.
				create(t, s, "next", content)
				if err := s.Delete(t.Context(), "next"); err != nil {
					t.Error(err)
				}
				return
			}
			begun.Done()
			for piece := make([]byte, 300_000); ; {
				n, err := d.ReadAt(piece, int64(worker)<<20)
				if !bytes.Equal(piece[:n], content[worker<<20:][:n]) {
					t.Error("other bytes")
				}
				if err != nil {
					if !errors.Is(err, fs.ErrClosed) {
						t.Errorf("ReadAt beside Close: %v", err)
					}
					return
				}
			}
		})
	}
}

func draftAbandoned(t *testing.T, s storage.Store) {
	for _, size := range []int{0, 100, 700 << 10, 9 << 20} {
		for _, declared := range []int64{-1, int64(size), int64(size) + 1} {
			d := newDraft(t, s, declared)
			write(t, d, Content(1, size), 1<<20)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if n, err := d.Write([]byte("x")); n != 0 || err == nil {
				t.Errorf("Write after Close = %d, %v", n, err)
			}
			if err := d.Commit(t.Context(), storage.Info{Key: "a", Size: int64(size)}); err == nil {
				t.Error("Commit after Close succeeded")
			}
		}
	}
	expectAbsent(t, s, "a")
	create(t, s, "a", []byte("a"))
	expectContent(t, s, "a", []byte("a"))
}

func draftExisting(t *testing.T, s storage.Store) {
	for _, size := range []int{100, 700 << 10, 9 << 20} {
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
	for _, size := range []int{0, 100, 32 << 10, 700 << 10, 5 << 20} {
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
	for _, size := range []int{100, 700 << 10, 5 << 20} {
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
	content := Content(1, 5<<20)
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

// draftMany writes drafts in turns, so that all of them are open and unfinished all the time.
func draftMany(t *testing.T, s storage.Store) {
	const n = 24
	contents, drafts := make([][]byte, n), make([]storage.Draft, n)
	for i := range drafts {
		contents[i] = Content(uint64(i), i*200_000)
		drafts[i] = newDraft(t, s, int64(len(contents[i])))
	}
	parallel(t, 4, func(w int) {
		for from := 0; from < n*200_000; from += 100_000 {
			for i := w; i < n; i += 4 {
				if from < len(contents[i]) {
					write(t, drafts[i], contents[i][from:from+100_000], 30_000)
				}
			}
		}
		for i := w; i < n; i += 4 {
			expectWritten(t, drafts[i], contents[i])
			if i%3 > 0 {
				commit(t, drafts[i], fmt.Sprint("many", i), len(contents[i]))
			}
			if err := drafts[i].Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range n {
		if key := fmt.Sprint("many", i); i%3 > 0 {
			expectContent(t, s, key, contents[i])
		} else {
			expectAbsent(t, s, key)
		}
	}
}

func draftStoreClosed(t *testing.T, s storage.Store) {
	var open []storage.Draft
	for _, size := range []int{100, 700 << 10, 9 << 20} {
		d := newDraft(t, s, -1)
		write(t, d, Content(1, size), 1<<20)
		open = append(open, d)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range open {
		if n, err := d.ReadAt(make([]byte, 10), 0); n > 0 || err == nil || err == io.EOF {
			t.Errorf("ReadAt = %d, %v, want an error", n, err)
		}
		if _, err := d.Write([]byte("x")); err == nil {
			t.Error("Write succeeded")
		}
		if err := d.Commit(t.Context(), storage.Info{Key: "k", Size: 100}); err == nil {
			t.Error("Commit succeeded")
		}
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := s.Draft(t.Context(), -1); err == nil {
		t.Error("Draft of a closed store succeeded")
	}
}
