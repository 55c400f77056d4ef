package budget_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/budget"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// world is a store with a limit, and what its callers decide.
type world struct {
	t     *testing.T
	dir   string
	limit int64
	store *budget.Store
	end   func() // ends Run
	gone  sync.Map
	away  sync.Map    // keys of what one of several upstreams has, which does not answer
	dead  atomic.Bool // no upstream answers
	asked atomic.Int64

	maxAge time.Duration
	onAsk  func() // called when an upstream is asked; nil: nothing is
}

func newWorld(t *testing.T, limit int64) *world {
	w := &world{t: t, dir: t.TempDir(), limit: limit}
	w.open()
	return w
}

func (w *world) keep(_ context.Context, info storage.Info) (string, error) {
	switch {
	case strings.HasPrefix(info.Key, "pinned/"):
		return "private versions", nil
	case !strings.HasSuffix(info.Key, ".zip"):
		return "small files", nil
	}
	return "", nil
}

func (w *world) ask(_ context.Context, info storage.Info) (bool, error) {
	w.asked.Add(1)
	if w.onAsk != nil {
		w.onAsk()
	}
	_, away := w.away.Load(info.Key)
	if away || w.dead.Load() {
		return false, errors.New("no upstream answers")
	}
	_, gone := w.gone.Load(info.Key)
	return !gone, nil
}

func (w *world) tryOpen() error {
	db, err := bolt.Open(w.dir, &bolt.Options{ReturnSpace: true, Journal: budget.JournalFor(w.limit)})
	if err != nil {
		w.t.Fatal(err)
	}
	store, err := budget.New(w.t.Context(), db, budget.Config{Limit: w.limit, MaxAge: w.maxAge, Dir: w.dir, Keep: w.keep})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	w.store = store
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.store.Run(ctx, w.ask)
	}()
	w.end = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	return nil
}

func (w *world) open() {
	w.t.Helper()
	if err := w.tryOpen(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.close)
}

func (w *world) close() {
	w.end()
	if err := w.store.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		w.t.Error(err)
	}
}

// du returns the bytes that the directory takes on disk.
func (w *world) du() (total int64) {
	w.t.Helper()
	err := filepath.WalkDir(w.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat syscall.Stat_t
		if err := syscall.Lstat(name, &stat); err != nil {
			return err
		}
		total += stat.Blocks * 512
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Error(err)
	}
	return total
}

func zipKey(name string) string { return "proved/sum.example/example.com/" + name + "/@v/v1.0.0.zip" }

// fetch stores a zip as it comes from an upstream, and reads it. It reports whether it is kept.
func (w *world) fetch(name string, content []byte) (kept bool) {
	w.t.Helper()
	ctx := w.t.Context()
	d, err := w.store.Draft(ctx, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 128<<10)
		if _, err := d.Write(rest[:n]); err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
		rest = rest[n:]
	}
	err = d.Commit(ctx, storage.Info{Key: zipKey(name), Size: int64(len(content)), Proof: "sum.example"})
	if errors.Is(err, storage.ErrNotKept) {
		got, err := io.ReadAll(io.NewSectionReader(d, 0, int64(len(content))))
		if err != nil || !bytes.Equal(got, content) {
			w.t.Errorf("%s, which is passed through, has other bytes, or %v", name, err)
		}
		return false
	}
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	o, err := w.store.Open(ctx, zipKey(name))
	if errors.Is(err, fs.ErrNotExist) {
		return true // it was stored, and is evicted already
	}
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	defer o.Close()
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, content) {
		w.t.Errorf("%s has other bytes, or %v", name, err)
	}
	return true
}

// read reads a stored zip.
func (w *world) read(name string, content []byte) {
	w.t.Helper()
	o, err := w.store.Open(w.t.Context(), zipKey(name))
	if err != nil {
		w.t.Errorf("%s: %v", name, err)
		return
	}
	defer o.Close()
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, content) {
		w.t.Errorf("%s has other bytes, or %v", name, err)
	}
}

func (w *world) has(key string) bool {
	_, err := w.store.Stat(w.t.Context(), key)
	return err == nil
}

// eventually waits for something that happens in the background.
func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Errorf("never: %s; %d bytes on disk, limit %d", what, w.du(), w.limit)
}

// Objects of random sizes, small ones too, are stored, read and purged: after each of them the directory takes no
// more than its limit. Nothing private is lost, and the store is whole.
func TestWithinLimit(t *testing.T) {
	t.Parallel()
	for _, most := range []int{30 << 10, 300 << 10, 3 << 20} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 12<<20)
			random := rand.New(rand.NewPCG(uint64(most), 1))
			private, total, worst := map[string][]byte{}, 0, int64(0)
			for i := 0; total < 60<<20 && i < 2500; i++ {
				size := 1 + random.IntN(most)
				total += size
				content := storagetest.Content(uint64(i), size)
				w.fetch(fmt.Sprint(i), content)
				mod := "upstream/example.com/" + fmt.Sprint(i) + "/@v/v1.0.0.mod"
				if err := w.store.Create(t.Context(), storage.Info{Key: mod, Size: 100}, bytes.NewReader(content[:1])); err == nil {
					t.Error("a short content is stored")
				}
				if i%40 == 0 && len(private) < 20 {
					key := fmt.Sprintf("pinned/own/example.com/%d/@v/v1.0.0.zip", i)
					private[key] = content
					if err := w.store.Create(t.Context(), storage.Info{Key: key, Size: int64(size)}, bytes.NewReader(content)); err != nil && size < 100<<10 {
						t.Errorf("a private zip of %d bytes: %v", size, err)
					} else if err != nil {
						delete(private, key)
					}
				}
				if i%20 == 7 && w.has(zipKey(fmt.Sprint(i-3))) {
					if err := w.store.Delete(t.Context(), zipKey(fmt.Sprint(i-3))); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				}
				if got := w.du(); got > w.limit {
					t.Fatalf("after %d objects, %d bytes: %d bytes on disk, limit %d", i+1, total, got, w.limit)
				} else {
					worst = max(worst, got)
				}
			}
			if worst < w.limit*2/3 {
				t.Errorf("at most %d of %d bytes were used", worst, w.limit)
			}
			if total < 2*int(w.limit) {
				t.Errorf("only %d bytes were stored", total)
			}
			for key, content := range private {
				o, err := w.store.Open(t.Context(), key)
				if err != nil {
					t.Fatalf("%s: %v", key, err)
				}
				got, err := io.ReadAll(o)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s has other bytes, or %v", key, err)
				}
				o.Close()
			}
			damaged := func(d storage.Damage) { t.Errorf("%s: %v", d.Key, d.Err) }
			if _, err := w.store.Verify(t.Context(), storage.VerifyOptions{Damage: damaged}); err != nil {
				t.Error(err)
			}
		})
	}
}

// content returns the content of a zip of the tests, a different one for each name.
func content(name string, size int) []byte {
	return append([]byte(name), storagetest.Content(uint64(len(name)), size)...)
}

// fill fetches zips of 500 KB until one is evicted or passed through.
func (w *world) fill(prefix string) {
	w.t.Helper()
	for i := 0; ; i++ {
		name := fmt.Sprint(prefix, i)
		if !w.fetch(name, content(name, 500_000)) || !w.has(zipKey(prefix+"0")) {
			return
		}
	}
}

// What is larger than the limit is passed through, one object at a time, and displaces nothing; and what others
// store meanwhile is not displaced by it.
func TestPassedThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8<<20)
	w.fetch("kept", content("kept", 300_000))
	large := content("large", 12<<20)
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			name := fmt.Sprint("large", i)
			if w.fetch(name, large) {
				t.Errorf("%s is stored", name)
			}
		})
	}
	worst := int64(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(5 * time.Millisecond):
		}
		worst = max(worst, w.du())
	}
	if most := w.limit + int64(len(large)); worst > most {
		t.Errorf("%d bytes were on disk, want at most the limit and one object, %d", worst, most)
	}
	w.read("kept", content("kept", 300_000))
	if got := w.du(); got > w.limit {
		t.Errorf("%d bytes are on disk afterwards, limit %d", got, w.limit)
	}
}

// Sixteen clients fetch at the same time: what does not fit waits or is passed through.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10<<20)
	var all sync.WaitGroup
	var worst, largest, kept atomic.Int64
	for client := range 16 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 1))
			for i := range 12 {
				name := fmt.Sprint(client, "-", i)
				size := 1000 + random.IntN(1<<20)
				if w.fetch(name, content(name, size)) {
					kept.Add(1)
				}
				largest.Store(max(largest.Load(), int64(size)))
				worst.Store(max(worst.Load(), w.du()))
			}
		})
	}
	all.Wait()
	if most := w.limit + 1<<20; worst.Load() > most {
		t.Errorf("%d bytes were on disk, want at most %d", worst.Load(), most)
	}
	if kept.Load() < 50 {
		t.Errorf("only %d objects of 192 were stored", kept.Load())
	}
}

// An object that is being read is not evicted, one that was read before is, and what no upstream has stays.
func TestNotEvicted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8<<20)
	for _, name := range []string{"read", "gone", "other"} {
		w.fetch(name, content(name, 500_000))
	}
	w.gone.Store(zipKey("gone"), true)
	o, err := w.store.Open(t.Context(), zipKey("read"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		name := fmt.Sprint("n", i)
		for range 3 { // popular enough to displace the first ones
			if o, err := w.store.Open(t.Context(), zipKey(name)); err == nil {
				o.Close()
			} else {
				w.fetch(name, content(name, 500_000))
			}
		}
	}
	if w.has(zipKey("other")) {
		t.Error("nothing was evicted")
	}
	w.read("gone", content("gone", 500_000))
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, content("read", 500_000)) {
		t.Errorf("the open object has other bytes, or %v", err)
	}
	if !w.has(zipKey("read")) {
		t.Error("an object was evicted while it was read")
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// While no upstream answers nothing is evicted, and what is fetched is passed through. When one answers again
// there is room.
func TestNoUpstream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8<<20)
	w.fetch("first0", content("first0", 500_000))
	w.dead.Store(true)
	stored := []string{"first0"}
	for i := range 30 {
		name := fmt.Sprint("second", i)
		if w.fetch(name, content(name, 500_000)) {
			stored = append(stored, name)
		}
		if got := w.du(); got > w.limit {
			t.Fatalf("%d bytes on disk, limit %d", got, w.limit)
		}
	}
	if len(stored) > 25 || len(stored) < 5 {
		t.Errorf("%d objects are stored", len(stored))
	}
	for _, name := range stored {
		w.read(name, content(name, 500_000))
	}
	// What cannot be passed through, because it is not a draft, says so.
	err := w.store.Create(t.Context(), storage.Info{Key: "pinned/own/example.com/p/@v/v1.0.0.zip", Size: 4 << 20}, bytes.NewReader(make([]byte, 4<<20)))
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, storage.ErrNoLarge) || !strings.Contains(err.Error(), "raise disk-limit") {
		t.Errorf("no room for a private zip: %v", err)
	}
	// Small objects have their reserve.
	if err := w.store.Create(t.Context(), storage.Info{Key: "upstream/example.com/p/@v/v1.0.0.mod", Size: 1000}, bytes.NewReader(make([]byte, 1000))); err != nil {
		t.Errorf("a go.mod: %v", err)
	}
	w.dead.Store(false)
	w.eventually("there is room", func() bool {
		name := fmt.Sprint("third", time.Now().UnixNano())
		return w.fetch(name, content(name, 500_000))
	})
}

// One of several upstreams does not answer, or answers with errors for some versions for ever: what is obtainable from
// others is evicted, and only what is not stays.
func TestOneUpstreamAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 16<<20)
	for i := range 4 {
		name := fmt.Sprint("away", i)
		w.fetch(name, content(name, 500_000))
		w.away.Store(zipKey(name), true)
	}
	passed := 0
	for i := range 60 {
		name := fmt.Sprint("other", i)
		if !w.fetch(name, content(name, 500_000)) {
			passed++
		}
	}
	if passed > 3 {
		t.Errorf("%d of 60 objects found no room", passed)
	}
	for i := range 4 {
		name := fmt.Sprint("away", i)
		w.read(name, content(name, 500_000))
	}
	if n := w.asked.Load(); n > 200 {
		t.Errorf("upstreams were asked %d times", n)
	}
}

// Many objects that no client reads, such as predictions, displace none that is popular, although they are younger than
// what is spared for their clients.
func TestUnreadDisplaceNothingPopular(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 16<<20)
	for i := range 8 {
		name := fmt.Sprint("popular", i)
		w.fetch(name, content(name, 500_000))
		for range 4 {
			w.read(name, content(name, 500_000))
		}
	}
	ctx, stored := t.Context(), 0
	for i := range 80 {
		name := fmt.Sprint("predicted", i)
		data := content(name, 500_000)
		d, err := w.store.Draft(ctx, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Write(data); err != nil {
			t.Fatal(err)
		}
		switch err := d.Commit(ctx, storage.Info{Key: zipKey(name), Size: int64(len(data)), Proof: "sum.example"}); {
		case err == nil:
			stored++
		case !errors.Is(err, storage.ErrNotKept):
			t.Fatal(err)
		}
		d.Close()
	}
	if stored < 30 {
		t.Errorf("%d of 80 were stored", stored)
	}
	for i := range 8 {
		name := fmt.Sprint("popular", i)
		w.read(name, content(name, 500_000))
	}
}

// A lower limit than what is there: evicted until it is kept, also if it is interrupted. The popular object stays
// across restarts.
func TestLowerLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 40<<20)
	for i := range 50 {
		name := fmt.Sprint("m", i)
		w.fetch(name, content(name, 600_000))
		if i == 0 {
			w.read(name, content(name, 600_000))
			w.read(name, content(name, 600_000))
		}
	}
	w.close()
	before := w.du()
	w.limit = 10 << 20
	w.dead.Store(true)
	w.open()
	if got := w.du(); got < before*9/10 {
		t.Errorf("%d of %d bytes are left although no upstream answers", got, before)
	}
	w.close() // as far as it is
	w.dead.Store(false)
	w.open()
	w.eventually("the limit is kept", func() bool { return w.du() <= w.limit })
	w.read("m0", content("m0", 600_000))
	r, err := w.store.Report()
	if err != nil || r.Limit != w.limit || r.Objects < 8 || r.Evictable < 5<<20 {
		t.Errorf("report %+v, %v", r, err)
	}
	damaged := func(d storage.Damage) { t.Errorf("%s: %v", d.Key, d.Err) }
	if _, err := w.store.Verify(t.Context(), storage.VerifyOptions{Damage: damaged}); err != nil {
		t.Error(err)
	}
}

// A limit that cannot hold what is never evicted is refused, and the text says what is enough.
func TestTooSmall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 40<<20)
	for i := range 8 {
		key := fmt.Sprintf("pinned/own/example.com/%d/@v/v1.0.0.zip", i)
		if err := w.store.Create(t.Context(), storage.Info{Key: key, Size: 1 << 20}, bytes.NewReader(content(key, 1<<20)[:1<<20])); err != nil {
			t.Fatal(err)
		}
	}
	w.close()
	w.limit = 6 << 20
	err := w.tryOpen()
	var small *budget.TooSmallError
	if !errors.As(err, &small) || !strings.Contains(err.Error(), "a disk limit of 6.0 MiB is too small") || !strings.Contains(err.Error(), "8.0 MiB for large files that are kept") {
		t.Fatalf("a limit of 6 MiB for 8 MiB of private zips: %v", err)
	}
	w.limit = small.Enough
	if err := w.tryOpen(); err != nil {
		t.Errorf("the limit that the error names: %v", err)
	}
}

// Files of others in the directory count.
func TestOtherFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 16<<20)
	w.fill("m")
	if err := os.WriteFile(filepath.Join(w.dir, "clone"), make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w.eventually("the limit is kept", func() bool { return w.du() <= w.limit })
}

// The limit is a limit for what callers store, and changes nothing else of the contract.
func TestContract(t *testing.T) {
	t.Parallel()
	storagetest.Brief(t, func(t *testing.T) storage.Store {
		dir := t.TempDir()
		db, err := bolt.Open(dir, &bolt.Options{ReturnSpace: true})
		if err != nil {
			t.Fatal(err)
		}
		s, err := budget.New(t.Context(), db, budget.Config{Limit: 2 << 30, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() }) // some tests close it
		return s
	})
}
