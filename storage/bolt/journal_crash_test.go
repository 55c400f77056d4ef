package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// What is deleted or moved does not come back if a merge was interrupted before: then its frame is in
// the file although the object is in the tree only.
func TestJournalForgetsAfterHalfMerge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	content := storagetest.Content(1, 3000)
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		put(t, db, key, content)
	}
	if err := db.HalfMerge(); err != nil { // a, c and e are in the tree
		t.Fatal(err)
	}
	left := afterCrash(t, dir)
	again := openDB(t, left)
	err := errors.Join(again.Delete(t.Context(), "a"), again.Move(t.Context(), "c", "to", "proof"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"b": content, "to": content, "d": content, "e": content, "f": content}
	expectAll(t, openDB(t, afterCrash(t, left)), want)
}

// A damaged header hides only its own frame: the frames after it are found, and it is reported.
func TestJournalDamagedHeader(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	var ends []int
	for i := range 4 {
		put(t, db, fmt.Sprint("k", i), storagetest.Content(uint64(i), 2000))
		_, end, err := db.Journal()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	offset, _, err := db.Journal()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 5, 9} { // in the checksum, in the length, in the mark
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			left := afterCrash(t, dir)
			patch(t, left, "meta.db", func(file []byte) { file[offset+int64(ends[0]+at)] ^= 1 })
			db := openDB(t, left)
			for i := range 4 {
				_, err := db.Stat(t.Context(), fmt.Sprint("k", i))
				if i == 1 && !errors.Is(err, fs.ErrNotExist) || i != 1 && err != nil {
					t.Errorf("k%d: %v", i, err)
				}
			}
			if _, found := verify(t, db, false); len(found) != 1 {
				t.Errorf("found %v", found)
			}
			put(t, db, "new", []byte("new"))
			again := openDB(t, afterCrash(t, left))
			for _, key := range []string{"k0", "k2", "k3", "new"} {
				if _, err := again.Stat(t.Context(), key); err != nil {
					t.Errorf("after a restart: %s: %v", key, err)
				}
			}
		})
	}
}

// The first frame of a process overwrites those that counted before the last merge. The other meta
// page, which bbolt uses if the newest one is damaged, must not need them.
func TestJournalDamagedMetaPageAfterRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	putAll(t, db, journalObjects(0, 20))
	if err := db.Settle(); err != nil {
		t.Fatal(err)
	}
	putAll(t, db, journalObjects(20, 40))
	if err := db.Settle(); err != nil {
		t.Fatal(err)
	}
	again := afterCrash(t, dir)
	putAll(t, openDB(t, again), journalObjects(40, 50))
	for page := range 2 {
		left := afterCrash(t, again)
		patch(t, left, "meta.db", func(file []byte) { file[page*4096+24] ^= 1 })
		expectAll(t, openDB(t, left), journalObjects(0, 50))
	}
}

// A power failure during the write of a frame leaves any of its sectors as they were. The objects of
// all frames before it stay, those of it are all there or none, and the next ones are stored after it.
func TestJournalTornFrame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	putAll(t, db, journalObjects(0, 8))
	if err := db.Settle(); err != nil { // below the frames are those of before
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	want := journalObjects(0, 9)
	putAll(t, db, journalObjects(8, 9))
	for round := range 6 {
		before := afterCrash(t, dir)
		var batch storage.Batch
		for i := range 1 + round%3 {
			content := storagetest.Content(uint64(round), 100+700*(round%5))
			batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: fmt.Sprintf("b%d/%d", round, i)}, Content: content})
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(filepath.Join(dir, "meta.db"))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			left, all := afterCrash(t, before), true
			patch(t, left, "meta.db", func(file []byte) {
				for at := 0; at < len(written); at += 512 {
					if bytes.Equal(file[at:at+512], written[at:at+512]) {
						continue
					}
					if random.IntN(3) > 0 {
						copy(file[at:at+512], written[at:at+512])
					} else {
						all = false
					}
				}
			})
			torn := openDB(t, left)
			now := maps.Clone(want)
			if all {
				for _, c := range batch.Create {
					now[c.Info.Key] = c.Content
				}
			}
			expectAll(t, torn, now)
			now["after"] = []byte("the power failure")
			put(t, torn, "after", now["after"])
			expectAll(t, openDB(t, afterCrash(t, left)), now)
			torn.Close()
		}
		for _, c := range batch.Create {
			want[c.Info.Key] = c.Content
		}
	}
}

// If the last commit of a merge failed on disk, it may have taken effect all the same. The store goes
// on, with the first journal of a store, too.
func TestJournalUnsureMerge(t *testing.T) {
	t.Parallel()
	for _, count := range []int{0, 20} {
		dir := t.TempDir()
		db := openDB(t, dir)
		putAll(t, db, journalObjects(0, count))
		for i := range 3 {
			if err := db.UnsureMerge(); err != nil {
				t.Fatal(err)
			}
			want := journalObjects(0, count)
			if i < 2 {
				count += 10
				putAll(t, db, journalObjects(count-10, count))
			} else {
				for key := range want {
					if err := db.Delete(t.Context(), key); err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		}
		s, err := db.Stats(t.Context())
		if _, found := verify(t, db, false); err != nil || s.Objects != int64(count-1) || found != nil {
			t.Errorf("%d objects, %v, found %v", s.Objects, err, found)
		}
		again := openDB(t, afterCrash(t, dir))
		s, err = again.Stats(t.Context())
		if v, found := verify(t, again, false); err != nil || s.Objects != int64(count-1) || v.Objects != s.Objects || found != nil {
			t.Errorf("after a crash: %d objects, %v, found %v", s.Objects, err, found)
		}
	}
}

// What is acknowledged while the store is closed is in it. The race detector sees a frame that is
// written to a file that is being closed.
func TestJournalWrittenDuringClose(t *testing.T) {
	t.Parallel()
	for round := range 10 {
		dir := t.TempDir()
		db := openDB(t, dir)
		var running sync.WaitGroup
		acked := make([]int, 4)
		for creator := range acked {
			running.Go(func() {
				for i := 0; ; i++ {
					err := db.Create(t.Context(), storage.Info{Key: fmt.Sprintf("%d/%d", creator, i), Size: 3}, strings.NewReader("abc"))
					if err != nil {
						if !errors.Is(err, fs.ErrClosed) {
							t.Error(err)
						}
						acked[creator] = i
						return
					}
				}
			})
		}
		for range round * 100 {
			_, _ = db.Stat(t.Context(), "none")
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		running.Wait()
		again := openDB(t, dir)
		for creator, n := range acked {
			for i := range n {
				expectContent(t, again, fmt.Sprintf("%d/%d", creator, i), []byte("abc"))
			}
		}
		again.Close()
	}
}

// If one meta page of a file is damaged after the store was closed, the other one is of the newest
// state, too: the last change is not undone, whatever it was, nor its content lost.
func TestMetaPageDamagedAfterClose(t *testing.T) {
	t.Parallel()
	small, large := storagetest.Content(1, 3000), storagetest.Content(2, 300_000)
	for name, tt := range map[string]struct {
		change func(ctx context.Context, db *bolt.DB) error
		want   map[string][]byte
	}{
		"small object": {func(ctx context.Context, db *bolt.DB) error {
			return db.Create(ctx, storage.Info{Key: "b", Size: int64(len(small))}, bytes.NewReader(small))
		}, map[string][]byte{"a": small, "b": small}},
		"large object": {func(ctx context.Context, db *bolt.DB) error {
			return db.Create(ctx, storage.Info{Key: "b", Size: int64(len(large))}, bytes.NewReader(large))
		}, map[string][]byte{"a": small, "b": large}},
		"replacement": {func(ctx context.Context, db *bolt.DB) error {
			return db.Replace(ctx, storage.Info{Key: "a", Size: int64(len(large))}, bytes.NewReader(large))
		}, map[string][]byte{"a": large}},
		"deletion": {func(ctx context.Context, db *bolt.DB) error { return db.Delete(ctx, "a") }, nil},
		"move":     {func(ctx context.Context, db *bolt.DB) error { return db.Move(ctx, "a", "b", "") }, map[string][]byte{"b": small}},
		"state": {func(ctx context.Context, db *bolt.DB) error {
			return errors.Join(db.Delete(ctx, "a"), db.SwapState(ctx, "state", []byte("old"), []byte("new")))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			db := openDB(t, dir)
			put(t, db, "a", small)
			err := errors.Join(db.SetState(t.Context(), "state", []byte("old")), tt.change(t.Context(), db), db.Close())
			if err != nil {
				t.Fatal(err)
			}
			for file, pageSize := range map[string]int{"meta.db": 4096, "blobs.db": 16 << 10} {
				for page := range 2 {
					left := afterCrash(t, dir)
					patch(t, left, file, func(file []byte) { file[page*pageSize+24] ^= 1 })
					again := openDB(t, left)
					s, err := again.Stats(t.Context())
					if v, found := verify(t, again, false); err != nil || s.Objects != int64(len(tt.want)) || v.Objects != s.Objects || found != nil {
						t.Errorf("meta page %d of %s: %+v, %v, verified %+v, found %v", page, file, s, err, v, found)
					}
					for key, content := range tt.want {
						expectContent(t, again, key, content)
					}
					if state, err := again.State(t.Context(), "state"); name == "state" && (err != nil || string(state) != "new") {
						t.Errorf("meta page %d of %s: state %q, %v", page, file, state, err)
					}
				}
			}
		})
	}
}
