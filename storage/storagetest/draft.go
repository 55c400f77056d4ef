package storagetest

import (
	"bytes"
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
		{"the info is that of Commit", draftInfo},
		{"nothing is visible before Commit", draftInvisible},
		{"what was written can be read at once", draftReads},
		{"what was written can be read during writes, by many", draftFollowed},
		{"a draft can be read after Commit, until Close", draftReadLater},
		{"a reader that is slower than Close gets the bytes or fs.ErrClosed", draftReadBesideClose},
		{"a draft that is closed leaves nothing", draftAbandoned},
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
	for _, size := range []int{100, 700 << 10, several} {
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
	for _, size := range []int{0, 100, 700 << 10, several} {
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
	for _, size := range []int{0, 100, 700 << 10, several} {
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

// draftMany writes drafts in turns, so that all of them are open and unfinished all the time.
func draftMany(t *testing.T, s storage.Store) {
	const n = 24
	contents, drafts := make([][]byte, n), make([]storage.Draft, n)
	for i := range drafts {
		contents[i] = Content(uint64(i), i*60_000)
		drafts[i] = newDraft(t, s, int64(len(contents[i])))
	}
	parallel(t, 4, func(w int) {
		for from := 0; from < n*60_000; from += 60_000 {
			for i := w; i < n; i += 4 {
				if from < len(contents[i]) {
					write(t, drafts[i], contents[i][from:from+60_000], 20_000)
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
	for _, size := range []int{100, 700 << 10, several} {
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
