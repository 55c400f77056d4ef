package sumdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

const headState = "sumdb/" + testName + "/latest"

// A mirror that is opened again has its head, sends no requests, and still detects a log that was
// rolled back.
func TestReopen(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 700)
	lookup(t, m, sumdbtest.Filler(4))
	m.Close()
	store.reopen()
	before := log.Requests("")
	m = open(t, log, store, "", log.Fetch)
	if head, err := m.Latest(t.Context()); err != nil || !bytes.Equal(head, log.Head(700)) {
		t.Errorf("Latest = %q, %v", head, err)
	}
	lookup(t, m, sumdbtest.Filler(4))
	if n := log.Requests("") - before; n != 0 {
		t.Errorf("%d requests after opening again", n)
	}
	log.ShowLatest(500) // older, and a prefix of our head
	refresh(t, m)
	if m.Size() != 700 {
		t.Errorf("Size = %d, want 700", m.Size())
	}
	if n := log.Requests("latest"); n != 1 {
		t.Errorf("%d requests for latest", n)
	}
	refresh(t, m)
	if n := log.Requests("tile/8/0/001"); n != 1 {
		t.Errorf("the same old head was proved again: %d requests", n)
	}
}

// A damaged or missing head is taken from the history. The mirror never starts over with a head
// that it cannot compare.
func TestHeadIsDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(s *realStore){
		"gone":        func(s *realStore) { s.setHead(nil) },
		"empty":       func(s *realStore) { s.setHead([]byte{}) },
		"cut":         func(s *realStore) { s.setHead(s.head()[:200]) },
		"other note":  func(s *realStore) { s.setHead([]byte(`{"note":"go.sum database tree\n"}`)) },
		"wrong tiles": func(s *realStore) { s.setHead(wrongTiles(s.head())) },
		"tiles beyond": func(s *realStore) {
			s.setHead(bytes.Replace(s.head(), []byte(`"tile/8/1/000.p/2"`), []byte(`"tile/8/7/x099/000.p/2"`), 1))
		},
		"tiles far beyond": func(s *realStore) {
			s.setHead(bytes.Replace(s.head(), []byte(`"tile/8/1/000.p/2"`), []byte(`"tile/8/7/x999/x999/x999/999.p/2"`), 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := newLog(t, 700)
			shown := log
			store, evidence := newStore(t), t.TempDir()
			m := open(t, log, store, evidence, fetchFrom(&shown))
			log.ShowLatest(300)
			refresh(t, m)
			log.ShowLatest(-1)
			lookup(t, m, sumdbtest.Filler(4))
			refresh(t, m)
			damage(store)

			m = open(t, log, store, evidence, fetchFrom(&shown))
			if m.Size() != 700 {
				t.Fatalf("Size = %d, want 700 from the history", m.Size())
			}
			lookup(t, m, sumdbtest.Filler(4))
			tile := tlog.Tile{H: 8, L: 0, N: 2, W: 100} // of the edge, which is not in the history
			if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, trueTile(t, log, tile)) {
				t.Errorf("Tile = %d bytes, %v", len(got), err)
			}
			refresh(t, m)
			offline := open(t, log, store, evidence, nil)
			verify(t, offline, log, log.Head(300), 4) // the edge is complete again
			if got, err := offline.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, trueTile(t, log, tile)) {
				t.Errorf("offline Tile = %d bytes, %v", len(got), err)
			}
			damage(store)
			m = open(t, log, store, evidence, fetchFrom(&shown))
			shown = forkOf(log, 600, 900)
			if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
				t.Errorf("a fork after the damage: %v, want ErrFrozen", err)
			}
			checkStore(t, store, log)
		})
	}
}

// wrongTiles changes the content of the last tile in state.
func wrongTiles(state []byte) []byte {
	state = bytes.Clone(state)
	at := bytes.LastIndexByte(state, ':') + 10
	if state[at] == 'A' {
		state[at] = 'B'
	} else {
		state[at] = 'A'
	}
	return state
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	log := newLog(t, 20)
	store := newStore(t)
	refresh(t, open(t, log, store, "", log.Fetch))
	other := sumdbtest.NewLog(t, "x")
	parts := strings.Split(other.Key(), "+")
	for name, c := range map[string]sumdb.Config{
		"no store":         {Key: log.Key()},
		"no key":           {Store: store},
		"malformed key":    {Key: testName + "+00000000+AAAA", Store: store},
		"key of a name":    {Key: "sum.test.example/+" + strings.Join(parts[1:], "+"), Store: store},
		"another key":      {Key: rekeyed(t), Store: store},
		"evidence no dir":  {Key: log.Key(), Store: store, Evidence: "/dev/null"},
		"store that fails": {Key: log.Key(), Store: failing{store}},
	} {
		if m, err := sumdb.Open(t.Context(), c); err == nil {
			t.Errorf("%s: Open = %v, want an error", name, m)
		}
	}
	store.setHead(nil)
	if _, err := sumdb.Open(t.Context(), sumdb.Config{Key: rekeyed(t), Store: store}); err == nil {
		t.Error("Open began anew, though there is a history that does not verify")
	}
	for _, key := range store.keys() {
		store.set(key, nil)
	}
	store.setHead([]byte("{}"))
	_, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: store})
	if err == nil || !strings.Contains(err.Error(), "restore the store from a backup") {
		t.Errorf("Open with a damaged head and no history = %v, want what to do", err)
	}
}

// rekeyed is a valid key of another signer under the name of the test log.
func rekeyed(t *testing.T) string {
	t.Helper()
	return sumdbtest.NewLog(t, testName).Rekeyed().Key()
}

// failing is a store whose states cannot be read.
type failing struct{ storage.Store }

func (failing) State(context.Context, string) ([]byte, error) {
	return nil, errors.New("disk on fire")
}

// Two mirrors on one store advance one stored head.
func TestTwoMirrors(t *testing.T) {
	t.Parallel()
	log := newLog(t, 10)
	store, evidence := newStore(t), t.TempDir()
	shown := log
	a, b := open(t, log, store, evidence, log.Fetch), open(t, log, store, evidence, fetchFrom(&shown))
	refresh(t, a)
	refresh(t, b) // the other mirror stored the first head, too
	for _, size := range []int64{300, 513, 530, 2000} {
		log.Fill(size)
		refresh(t, a)
		log.ShowLatest(size - 5)
		refresh(t, b) // between the stored head and the head of b
		log.ShowLatest(-1)
		if b.Size() != size {
			t.Errorf("Size = %d, want the %d that the other one has", b.Size(), size)
		}
		log.Fill(size + 7)
		refresh(t, b)
		lookup(t, a, sumdbtest.Filler(size/2))
		refresh(t, a)
		if a.Size() != size+7 || b.Size() != size+7 {
			t.Errorf("sizes %d, %d, want %d", a.Size(), b.Size(), size+7)
		}
	}
	verify(t, open(t, log, store, evidence, nil), log, log.Head(513), 1000)
	checkStore(t, store, log)

	// One of them sees a fork, and the other advances on the true log.
	shown = forkOf(log, 2000, 3000)
	log.Fill(2500)
	refresh(t, a)
	if err := b.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Refresh = %v, want ErrFrozen", err)
	}
	checkStore(t, store, log)
}

// A mirror that lags sees a fork that continues its own head, but not the head that the other
// mirror stored: nothing of the fork may be stored.
func TestForkOfTheOneThatLags(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	shown := log
	store, evidence := newStore(t), t.TempDir()
	a, b := open(t, log, store, evidence, log.Fetch), open(t, log, store, evidence, fetchFrom(&shown))
	refresh(t, a)
	refresh(t, b)
	log.Fill(2000)
	refresh(t, a)
	shown = forkOf(log, 310, 3000)
	if err := b.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Refresh = %v, want ErrFrozen", err)
	}
	if b.Size() != 2000 {
		t.Errorf("Size = %d, want the 2000 that are stored", b.Size())
	}
	askAll(t, a, log, 2000)
	verify(t, open(t, log, store, t.TempDir(), log.Fetch), log, log.Head(300), 600, 1999)
	checkStore(t, store, log)
}

// Another mirror stored a head, and stopped before it stored its tiles as objects.
func TestTilesOfTheOneThatStopped(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	store := newStore(t)
	a, b := open(t, log, store, "", log.Fetch), open(t, log, store, "", log.Fetch)
	refresh(t, a)
	refresh(t, b)
	log.Fill(600)
	refresh(t, b)
	store.failWith(func(op, key string) error {
		if op == "create" {
			return errors.New("stopped")
		}
		return nil
	})
	log.Fill(1000)
	refresh(t, b)
	store.failWith(nil)
	log.Fill(5000)
	refresh(t, a)
	offline := open(t, log, store, "", nil)
	for _, size := range []int64{300, 600, 1000} {
		tile := tlog.Tile{H: 8, L: 0, N: size >> 8, W: int(size & 255)}
		if got, err := offline.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, trueTile(t, log, tile)) {
			t.Errorf("Tile(%s) = %d bytes, %v", tile.Path(), len(got), err)
		}
	}
	checkStore(t, store, log)
}

// Another mirror moved the store to a fork. That freezes this mirror, which does not overwrite the
// store.
func TestStoreIsOfAFork(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{295, 300, 350} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			log := newLog(t, 300)
			store := newStore(t)
			m := open(t, log, store, t.TempDir(), log.Fetch)
			refresh(t, m)
			fork := forkOf(log, 290, size)
			store.setHead(nil)
			for _, key := range store.keys() {
				if strings.Contains(key, "/head/") {
					store.set(key, nil)
				}
			}
			refresh(t, open(t, log, store, "", fork.Fetch))
			state := store.head()
			log.Fill(400)
			if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
				t.Errorf("Refresh = %v, want ErrFrozen", err)
			}
			if !bytes.Equal(store.head(), state) {
				t.Error("the stored head was overwritten")
			}
		})
	}
}

// A store that was put back to an older head of the same log, or lost its head, is moved forward
// again.
func TestStoreWentBack(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		log := newLog(t, 300)
		store := newStore(t)
		m := open(t, log, store, t.TempDir(), log.Fetch)
		refresh(t, m)
		old := store.head()
		log.Fill(700)
		refresh(t, m)
		store.setHead(old)
		if lost {
			store.setHead(nil)
		}
		log.Fill(900)
		refresh(t, m)
		verify(t, open(t, log, store, "", nil), log, log.Head(700))
		if size := open(t, log, store, "", nil).Size(); size != 900 {
			t.Errorf("Size = %d after the store went back, want 900", size)
		}
	}
}

// After any write fails, with or without a restart after it: nothing wrong is stored, no earlier
// answer is lost, and the next attempt succeeds.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		for at := range 12 {
			t.Run(fmt.Sprint(at, restart), func(t *testing.T) {
				log, store, m := mirrored(t, 300)
				lookup(t, m, sumdbtest.Filler(290))
				writes := 0
				store.failWith(func(op, key string) error {
					if op == "open" {
						return nil
					}
					if writes++; writes > at {
						return errors.New("disk full")
					}
					return nil
				})
				log.Fill(1000)
				_ = m.Refresh(t.Context())
				_, _ = m.Lookup(t.Context(), sumdbtest.Filler(600))
				log.Fill(1600)
				_ = m.Refresh(t.Context())
				if !restart {
					// The mirror answers although the disk did not take the object.
					verify(t, m, log, log.Head(300), 290)
				}
				store.failWith(nil)
				if restart {
					verify(t, open(t, log, store, "", nil), log, log.Head(300), 290)
					m = open(t, log, store, "", log.Fetch)
				}
				log.Fill(2000)
				refresh(t, m)
				lookup(t, m, sumdbtest.Filler(600))
				verify(t, open(t, log, store, "", nil), log, log.Head(300), 290, 600)
				checkStore(t, store, log)
			})
		}
	}
}

// The process crashes right after the head was stored: the next start does the rest.
func TestCrashAfterHead(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 300)
	refresh(t, m)
	log.Fill(600)
	store.failWith(func(op, key string) error {
		if op == "create" {
			return errors.New("crashed")
		}
		return nil
	})
	refresh(t, m)
	store.failWith(nil)
	history := fmt.Sprintf("sumdb/%s/head/%016d", testName, 600)
	tile := "sumdb/" + testName + "/tile/8/0/001"
	if store.has(history) || store.has(tile) {
		t.Fatal("stored before the crash")
	}
	m = open(t, log, store, "", nil)
	if !store.has(history) || !store.has(tile) {
		t.Errorf("after the next start, the store has %q", store.keys())
	}
	verify(t, m, log, log.Head(300))
}

// Clients may have every older head that the caches of upstream have shown us, so these heads stay
// answerable.
func TestOlderHeadsStayAnswerable(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 2000)
	refresh(t, m)
	for id, size := range []int64{300, 1000, 1999} {
		log.ShowLookup(size)
		lookup(t, m, sumdbtest.Filler(int64(id)))
	}
	offline := open(t, log, store, "", nil)
	for id, size := range []int64{300, 1000, 1999} {
		verify(t, offline, log, log.Head(size), int64(id))
	}
	if n := counter(t, m, "assay_sumdb_heads_total", "older"); n != 3 {
		t.Errorf("%v older heads proved, want 3", n)
	}
	// A head that was ours, or was proved once, is not proved again.
	log.Fill(3000)
	refresh(t, m)
	for _, size := range []int64{300, 1000, 1999, 2000} {
		log.ShowLatest(size)
		refresh(t, m)
	}
	if n := counter(t, m, "assay_sumdb_heads_total", "older"); n != 3 {
		t.Errorf("%v older heads proved, want still 3", n)
	}
}

// Damaged or wrong objects are replaced by proved ones.
func TestStoredObjectsAreDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(s *realStore, key string){
		"known to be damaged": func(s *realStore, key string) {
			once := false
			s.failWith(func(op, k string) error {
				if op == "open" && k == key && !once {
					once = true
					return storage.ErrDamaged
				}
				return nil
			})
		},
		"cut":   func(s *realStore, key string) { s.set(key, readObject(s.t, s, key)[:10]) },
		"empty": func(s *realStore, key string) { s.set(key, []byte{}) },
		"wrong": func(s *realStore, key string) { s.set(key, bytes.Repeat([]byte{7}, len(readObject(s.t, s, key)))) },
	} {
		t.Run(name, func(t *testing.T) {
			log, store, m := mirrored(t, 700)
			lookup(t, m, sumdbtest.Filler(100))
			for _, path := range []string{"tile/8/0/000", "lookup/filler.example/m100@v1.0.0"} {
				damage(store, "sumdb/"+testName+"/"+path)
				lookup(t, m, sumdbtest.Filler(100))
				lookup(t, m, sumdbtest.Filler(101)) // has to read the tile
			}
			store.failWith(nil)
			checkStore(t, store, log)
		})
	}
}

// Run follows the head until its context ends, also after errors.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 10)
		var down atomic.Bool
		m, err := sumdb.Open(t.Context(), sumdb.Config{
			Key: log.Key(), Store: newMemory(t), Refresh: time.Minute,
			Fetch: func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if down.Load() {
					return nil, errors.New("down")
				}
				return log.Fetch(ctx, path, limit)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		for _, step := range []struct {
			down bool
			size int64
		}{{false, 20}, {true, 20}, {false, 400}} {
			down.Store(step.down)
			log.Fill(step.size)
			time.Sleep(time.Minute + time.Second)
			synctest.Wait()
			if m.Size() != step.size {
				t.Errorf("Size = %d, want %d", m.Size(), step.size)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		m.Close()
	})
}

func TestRunWithoutUpstream(t *testing.T) {
	t.Parallel()
	log := newLog(t, 10)
	m := open(t, log, newStore(t), "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
	if err := m.Refresh(t.Context()); err == nil {
		t.Error("Refresh without upstream succeeded")
	}
}

// While upstream hangs, a caller leaves when its context ends, the work has its own deadline, and
// readers do not wait.
func TestUpstreamHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 300)
		var hang atomic.Value
		hang.Store("none")
		m, err := sumdb.Open(t.Context(), sumdb.Config{
			Key: log.Key(), Store: newMemory(t),
			Fetch: func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if strings.HasPrefix(path, hang.Load().(string)) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return log.Fetch(ctx, path, limit)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		lookup(t, m, sumdbtest.Filler(1))
		log.Fill(900)
		for _, prefix := range []string{"lookup/", "tile/", "latest"} {
			hang.Store(prefix)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start := time.Now()
			if prefix == "latest" {
				err = m.Refresh(ctx)
			} else {
				_, err = m.Lookup(ctx, sumdbtest.Filler(2))
			}
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
				t.Errorf("%s hangs: %v after %v", prefix, err, time.Since(start))
			}
			cancel()
			lookup(t, m, sumdbtest.Filler(1)) // held: the lookup does not wait for upstream
			time.Sleep(time.Second)
			synctest.Wait()
			start = time.Now()
			if prefix != "latest" {
				if _, err := m.Lookup(t.Context(), sumdbtest.Filler(2)); err == nil || time.Since(start) > 150*time.Second {
					t.Errorf("%s hangs: the shared work ended with %v after %v", prefix, err, time.Since(start))
				}
			}
			time.Sleep(200 * time.Second)
			hang.Store("none")
		}
		refresh(t, m)
		hang.Store("lookup/")
		go func() { _, _ = m.Lookup(t.Context(), sumdbtest.Filler(5)) }()
		synctest.Wait()
		start := time.Now()
		m.Close() // ends the running fetches
		if waited := time.Since(start); waited > time.Second {
			t.Errorf("Close waited %v", waited)
		}
		if _, err := m.Lookup(t.Context(), sumdbtest.Filler(6)); err == nil {
			t.Error("Lookup in a closed mirror succeeded")
		}
	})
}

// Lookups while the head moves and while it does not: the mirror sends no request twice.
func TestRequestsAreFew(t *testing.T) {
	t.Parallel()
	log, _, m := mirrored(t, 5000)
	var group sync.WaitGroup
	for id := range int64(100) {
		group.Go(func() { lookup(t, m, sumdbtest.Filler(id)) })
	}
	group.Wait()
	if n := log.Requests("tile/"); n != 3 {
		t.Errorf("%d requests for the 3 tiles that 100 lookups need", n)
	}
	before := log.Requests("")
	lookup(t, m, sumdbtest.Filler(200))
	lookup(t, m, sumdbtest.Filler(4000))
	if n := log.Requests("") - before; n != 3 {
		t.Errorf("%d requests for a lookup in a tile that is held and one in another, want 3", n)
	}
}

// A new log has a head although it has no records.
func TestEmptyLog(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 0)
	if head, err := m.Latest(t.Context()); err != nil || !bytes.Equal(head, log.Head(0)) {
		t.Errorf("Latest = %q, %v", head, err)
	}
	if _, err := m.Lookup(t.Context(), sumdbtest.Filler(0)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lookup = %v", err)
	}
	if _, err := m.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 0, W: 1}); !errors.Is(err, sumdb.ErrBeyond) {
		t.Errorf("Tile = %v", err)
	}
	m = open(t, log, store, "", log.Fetch)
	log.OnLookup = func(mod module.Version) { log.Add(mod, sumdbtest.Hash("zip"), sumdbtest.Hash("mod")) }
	if record := lookup(t, m, sumdbtest.Filler(0)); record.ID != 0 || m.Size() != 1 {
		t.Errorf("Lookup = %d at size %d", record.ID, m.Size())
	}
}

// An upstream that hangs while a head is proved with its tiles does not delay a lookup at the
// upstream that a reload puts in its place. Whether the first lookup moved the head or fetched
// the tiles of the edge, it continues with the new upstream.
func TestAnewWhileHeadMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 300)
		var current atomic.Pointer[sumdb.FetchFunc]
		use := func(f sumdb.FetchFunc) { current.Store(&f) }
		use(log.Fetch)
		m, err := sumdb.Open(t.Context(), sumdb.Config{
			Key: log.Key(), Store: newMemory(t), Current: func() sumdb.FetchFunc { return *current.Load() },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		lookup(t, m, sumdbtest.Filler(1))
		log.Fill(900)
		use(func(ctx context.Context, path string, limit int64) ([]byte, error) {
			if strings.HasPrefix(path, "tile/") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return log.Fetch(ctx, path, limit)
		})
		first := make(chan error, 1)
		go func() {
			_, err := m.Lookup(t.Context(), sumdbtest.Filler(800))
			first <- err
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		log.Fill(1300)
		use(log.Fetch)
		begin := time.Now()
		m.Anew()
		lookup(t, m, sumdbtest.Filler(1250))
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a lookup at the new upstream took %v", took)
		}
		if err := <-first; err != nil {
			t.Errorf("the lookup that began with the old upstream: %v", err)
		}
		if m.Size() != 1300 {
			t.Errorf("Size = %d, want 1300", m.Size())
		}
	})
}
