package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-proxy/assay/storage"
)

// smallAndLarge are the sizes for rules that do not depend on boundaries.
var smallAndLarge = []int{100, 700 << 10}

func createTests() []contract {
	return []contract{
		{"the info is kept", createKeepsInfo},
		{"the time is set if it is zero", createSetsTime},
		{"a key that exists is refused before the content is read", createExisting},
		{"a race has one winner and the losers read the winner's bytes", createRace},
		{"a key that appears while the content is read is refused", createLosesLate},
		{"a shorter content leaves nothing", createShort},
		{"a longer content leaves nothing", createLong},
		{"a reader that fails leaves nothing and is the error", createFailing},
		{"a cancelled context leaves nothing", createCancelled},
		{"after a failure the key can be created", createAfterFailure},
		{"keys are what the documentation says", createKeys},
		{"hash and proof are bounded", createBounds},
		{"keys are told apart byte by byte", createDistinctKeys},
	}
}

func createReadsBack(t *testing.T, s storage.Store) {
	for i, size := range sizes {
		key := fmt.Sprintf("size/%d", size)
		content := Content(uint64(i), size)
		create(t, s, key, content)
		expectContent(t, s, key, content)
	}
	for i, size := range sizes { // and again beside all the others
		expectContent(t, s, fmt.Sprintf("size/%d", size), Content(uint64(i), size))
	}
}

func createLarge(t *testing.T, s storage.Store) {
	content := Content(1, 20<<20+12345)
	create(t, s, "example.com/large/@v/v1.0.0.zip", content)
	expectContent(t, s, "example.com/large/@v/v1.0.0.zip", content)
}

func createKeepsInfo(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		want := storage.Info{
			Key:   fmt.Sprintf("example.com/!a/@v/v1.0.0-%d.zip", size),
			Size:  int64(size),
			Hash:  "h1:" + strings.Repeat("=", 1021),
			Proof: "sum.golang.org" + strings.Repeat("é", 505),
			Time:  time.Date(2024, 2, 29, 12, 30, 45, 0, time.UTC),
		}
		if err := s.Create(t.Context(), want, bytes.NewReader(Content(7, size))); err != nil {
			t.Fatal(err)
		}
		o := mustOpen(t, s, want.Key)
		if diff := cmp.Diff(want, o.Info()); diff != "" {
			t.Errorf("Info of the object (-want +got):\n%s", diff)
		}
		got, err := s.Stat(t.Context(), want.Key)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("Stat, error %v (-want +got):\n%s", err, diff)
		}
		for got, err := range s.List(t.Context(), want.Key) {
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("List, error %v (-want +got):\n%s", err, diff)
			}
		}
	}
}

func createSetsTime(t *testing.T, s storage.Store) {
	before := time.Now().Truncate(time.Second)
	create(t, s, "a", nil)
	info, err := s.Stat(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if info.Time.Before(before) || info.Time.After(time.Now()) {
		t.Errorf("time is %v, created after %v", info.Time, before)
	}
	if !info.Time.Equal(info.Time.Truncate(time.Second)) {
		t.Errorf("time %v is finer than a second", info.Time)
	}
}

// mustNotRead fails the test when it is read.
type mustNotRead struct{ t *testing.T }

func (r mustNotRead) Read([]byte) (int, error) {
	r.t.Error("content was read")
	return 0, io.EOF
}

func createExisting(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		content := Content(1, size)
		create(t, s, key, content)
		err := s.Create(t.Context(), storage.Info{Key: key, Size: int64(size), Hash: "other"}, mustNotRead{t})
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("second Create(%q) = %v, want fs.ErrExist", key, err)
		}
		expectContent(t, s, key, content)
		if info, err := s.Stat(t.Context(), key); err != nil || info.Hash != "" {
			t.Errorf("Stat = %v, %v, want the info of the first", info, err)
		}
	}
}

// createLosesLate creates a key while another Create reads its content.
func createLosesLate(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		winner, loser := Content(1, size), Content(2, size)
		overtake := readerFunc(func([]byte) (int, error) {
			create(t, s, key, winner)
			return 0, io.EOF
		})
		err := s.Create(t.Context(), storage.Info{Key: key, Size: int64(size)},
			io.MultiReader(overtake, bytes.NewReader(loser)))
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create(%q) = %v, want fs.ErrExist", key, err)
		}
		expectContent(t, s, key, winner)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func createShort(t *testing.T, s storage.Store) {
	for _, size := range sizes {
		for _, missing := range []int{1, size / 2, size} {
			if missing == 0 || missing > size {
				continue
			}
			info := storage.Info{Key: "short", Size: int64(size)}
			if err := s.Create(t.Context(), info, bytes.NewReader(make([]byte, size-missing))); err == nil {
				t.Fatalf("Create of %d bytes from %d succeeded", size, size-missing)
			}
		}
	}
	expectAbsent(t, s, "short")
}

func createLong(t *testing.T, s storage.Store) {
	for _, size := range sizes {
		info := storage.Info{Key: "long", Size: int64(size)}
		if err := s.Create(t.Context(), info, bytes.NewReader(make([]byte, size+1))); err == nil {
			t.Fatalf("Create of %d bytes from %d succeeded", size, size+1)
		}
	}
	expectAbsent(t, s, "long")
}

func createFailing(t *testing.T, s storage.Store) {
	broken := errors.New("upstream broke")
	for _, size := range []int{0, 100, 32 << 10, 700 << 10, several} {
		for _, at := range []int{0, size / 2, size} {
			info := storage.Info{Key: "failing", Size: int64(size)}
			r := io.MultiReader(bytes.NewReader(make([]byte, at)), iotest.ErrReader(broken))
			if err := s.Create(t.Context(), info, r); !errors.Is(err, broken) {
				t.Errorf("Create of %d bytes, failing at %d: %v, want the reader's error", size, at, err)
			}
		}
	}
	expectAbsent(t, s, "failing")
}

func createCancelled(t *testing.T, s storage.Store) {
	for _, size := range []int{100, 700 << 10, several} {
		ctx, cancel := context.WithCancel(t.Context())
		content := bytes.NewReader(make([]byte, size))
		cancelling := readerFunc(func(b []byte) (int, error) {
			cancel()
			return content.Read(b[:min(len(b), 64<<10)])
		})
		err := s.Create(ctx, storage.Info{Key: "cancelled", Size: int64(size)}, cancelling)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Create of %d bytes = %v, want context.Canceled", size, err)
		}
		err = s.Create(ctx, storage.Info{Key: "cancelled", Size: int64(size)}, mustNotRead{t})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Create with a cancelled context = %v, want context.Canceled", err)
		}
	}
	expectAbsent(t, s, "cancelled")
}

func createAfterFailure(t *testing.T, s storage.Store) {
	for _, size := range smallAndLarge {
		key := fmt.Sprint("key", size)
		content := Content(1, size)
		info := storage.Info{Key: key, Size: int64(size)}
		for range 3 {
			if err := s.Create(t.Context(), info, bytes.NewReader(content[:size-1])); err == nil {
				t.Fatal("Create of a short content succeeded")
			}
		}
		create(t, s, key, content)
		expectContent(t, s, key, content)
	}
}

func createKeys(t *testing.T, s storage.Store) {
	component := strings.Repeat("c", storage.MaxComponent)
	long := strings.Repeat(component[:127]+"/", storage.MaxKey/128-1) + component[:128]
	for _, key := range []string{
		"a", "b/c", "...", "d/..e", "f./g", " ", "é/ж/漢", "example.com/!a!b/@v/v1.0.0+incompatible.zip",
		"sumdb/sum.golang.org/tile/8/0/x001/234", component + "/" + component, long,
		storage.Key(strings.Repeat("deep/", storage.MaxKey) + "name.zip"), storage.Key(component + component),
	} {
		create(t, s, key, []byte(key))
		expectContent(t, s, key, []byte(key))
	}
	for name, key := range map[string]string{
		"empty":          "",
		"leading slash":  "/a",
		"trailing slash": "a/",
		"only a slash":   "/",
		"two slashes":    "a//b",
		"dots":           "..",
		"dots within":    "a/../b",
		"a dot":          "a/./b",
		"NUL":            "a\x00b",
		"not UTF-8":      "a\xffb",
		"too long":       long + "k",
		"too wide":       "a/" + component + "c",
	} {
		ctx := t.Context()
		if err := s.Create(ctx, storage.Info{Key: key, Size: 0}, strings.NewReader("")); err == nil || errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: Create = %v, want an error about the key", name, err)
		}
		if _, err := s.Open(ctx, key); err == nil {
			t.Errorf("%s: Open succeeded", name)
		}
		if _, err := s.Stat(ctx, key); err == nil {
			t.Errorf("%s: Stat succeeded", name)
		}
		if err := s.Delete(ctx, key); err == nil {
			t.Errorf("%s: Delete succeeded", name)
		}
	}
}

func createBounds(t *testing.T, s storage.Store) {
	for name, info := range map[string]storage.Info{
		"hash":  {Key: "k", Hash: strings.Repeat("h", 1025)},
		"proof": {Key: "k", Proof: strings.Repeat("p", 1025)},
		"size":  {Key: "k", Size: -1},
	} {
		if err := s.Create(t.Context(), info, strings.NewReader("")); err == nil {
			t.Errorf("Create with a %s out of bounds succeeded", name)
		}
	}
	expectAbsent(t, s, "k")
}

// createDistinctKeys creates keys that a file system may treat as equal.
func createDistinctKeys(t *testing.T, s storage.Store) {
	keys := []string{"a", "A", "!a", "b/a", "b/c/a", "b.a", "b a", "b+a", "b%2Fa", "\u00e9", "e\u0301"}
	for _, key := range keys {
		create(t, s, key, []byte("content of "+key))
	}
	for _, key := range keys {
		expectContent(t, s, key, []byte("content of "+key))
	}
}

func createRace(t *testing.T, s storage.Store) {
	for round, size := range []int{100, 40 << 10, 700 << 10, 100, 40 << 10} {
		key := fmt.Sprint("race", round)
		contents := make([][]byte, 8)
		winners := make(chan int, len(contents))
		for w := range contents {
			contents[w] = Content(uint64(w), size)
		}
		read8 := make([][]byte, len(contents))
		parallel(t, len(contents), func(w int) {
			info := storage.Info{Key: key, Size: int64(size), Hash: fmt.Sprint(w)}
			err := s.Create(t.Context(), info, bytes.NewReader(contents[w]))
			switch {
			case err == nil:
				winners <- w
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("Create: %v", err)
			}
			if read8[w], err = read(t.Context(), s, key); err != nil {
				t.Errorf("reading after the race: %v", err)
			}
		})
		close(winners)
		if len(winners) != 1 {
			t.Fatalf("%d winners of %d, want 1", len(winners), len(contents))
		}
		winner := <-winners
		for w := range read8 {
			expectBytes(t, fmt.Sprintf("what %d read, winner is %d", w, winner), read8[w], contents[winner])
		}
		if info, err := s.Stat(t.Context(), key); err != nil || info.Hash != fmt.Sprint(winner) {
			t.Errorf("Stat = %v, %v, want the winner's info", info, err)
		}
	}
}
