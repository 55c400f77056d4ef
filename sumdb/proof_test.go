package sumdb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// gomod returns an object that depends on the proof of the record with the id.
func gomod(id int64) storage.Small {
	return storage.Small{
		Info:    storage.Info{Key: fmt.Sprintf("proved/%s/filler.example/m%d/@v/v1.0.0.mod", testName, id), Hash: "h1:x", Proof: testName},
		Content: fmt.Appendf(nil, "module filler.example/m%d\n", id),
	}
}

func prove(t testing.TB, m *sumdb.Mirror, id int64) *sumdb.Proof {
	t.Helper()
	p, err := m.Prove(t.Context(), sumdbtest.Filler(id))
	if err != nil {
		t.Fatalf("Prove(%d): %v", id, err)
	}
	return p
}

func keep(t testing.TB, p *sumdb.Proof, with ...storage.Small) {
	t.Helper()
	if err := p.Store(t.Context(), nil, with...); err != nil {
		t.Fatalf("Store(%s): %v", p.Record.Text, err)
	}
}

// commits returns how often do makes the store wait for the disk.
func commits(t *testing.T, store *bolt.DB, do func()) uint64 {
	t.Helper()
	count := func() (n uint64) {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(store.Metrics()...)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if family.GetName() == "assay_storage_commit_seconds" {
				for _, m := range family.GetMetric() {
					n += m.GetHistogram().GetSampleCount()
				}
			}
		}
		return n
	}
	before := count()
	do()
	return count() - before
}

// A proof and what depends on it are one commit, whether the head that came with the record is the
// first one, ours, an older one or a newer one, and whatever tiles are new.
func TestProofIsOneCommit(t *testing.T) {
	t.Parallel()
	log := newLog(t, 70_000)
	store, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Create(t.Context(), storage.Info{Key: "first"}, strings.NewReader("")); err != nil { // it begins the journal
		t.Fatal(err)
	}
	m := open(t, log, store, "", log.Fetch)
	for _, tt := range []struct {
		name    string
		prepare func()
		id      int64
		want    uint64
	}{
		{"the first head", func() {}, 1, 1},
		{"our head", func() {}, 300, 1},
		{"our head, and no new tile", func() {}, 301, 1},
		{"a held record", func() {}, 301, 1},
		{"an older head", func() { log.ShowLookup(60_000) }, 20_000, 1},
		{"a newer head", func() { log.Fill(140_000); log.ShowLookup(-1) }, 130_000, 1},
	} {
		tt.prepare()
		got := commits(t, store, func() {
			mod := gomod(tt.id)
			mod.Info.Key += tt.name[:3] // a held record is the same one again
			keep(t, prove(t, m, tt.id), mod)
		})
		if got != tt.want {
			t.Errorf("%s: %d commits, want %d", tt.name, got, tt.want)
		}
		verify(t, open(t, log, store, "", nil), log, log.Head(min(log.Size(), m.Size())), tt.id)
	}
	if n := commits(t, store, func() { lookup(t, m, sumdbtest.Filler(400)); lookup(t, m, sumdbtest.Filler(400)) }); n != 1 {
		t.Errorf("%d commits for a lookup, want 1", n)
	}
	log.Fill(200_000)
	if n := commits(t, store, func() { refresh(t, m) }); n != 1 {
		t.Errorf("%d commits for a newer head, want 1", n)
	}
	checkStore(t, store, log)
	if n := commits(t, store, func() { open(t, log, store, "", nil) }); n != 0 {
		t.Errorf("%d commits at a start, want none", n)
	}
}

// A crash leaves a prefix of the batch: the head, then tiles, then the record, then what depends on it.
func TestProofIsCutOff(t *testing.T) {
	t.Parallel()
	for _, grown := range []bool{false, true} { // whether the head is a newer one
		for steps, complete := 0, false; !complete; steps++ {
			log := newLog(t, 700)
			store := newStore(t)
			keep(t, prove(t, open(t, log, store, "", log.Fetch), 3), gomod(3))
			if grown {
				log.Fill(1500)
			}
			m := open(t, log, storagetest.Cut(store.Store, steps), "", log.Fetch)
			err := prove(t, m, 600).Store(t.Context(), nil, gomod(600))
			if complete = err == nil; !complete && !errors.Is(err, storagetest.ErrCut) {
				t.Fatalf("after %d steps: %v", steps, err)
			}
			m.Close()
			store.reopen()
			offline := open(t, log, store, "", nil)
			_, err = offline.Held(t.Context(), sumdbtest.Filler(600))
			held, dependent := err == nil, store.has(gomod(600).Info.Key)
			if dependent && !held || held && offline.Size() <= 600 || complete && !dependent || !complete && dependent {
				t.Errorf("after %d steps of a head that has grown (%v): record %v, dependent %v, head %d", steps, grown, held, dependent, offline.Size())
			}
			verify(t, offline, log, log.Head(700), 3)
			if held {
				verify(t, offline, log, log.Head(700), 600)
			}
			checkStore(t, store, log)
			keep(t, prove(t, open(t, log, store, "", log.Fetch), 600), gomod(600))
			verify(t, open(t, log, store, "", nil), log, log.Head(700), 3, 600)
			checkStore(t, store, log)
			if complete && steps < 3 {
				t.Errorf("complete after %d steps, which proves nothing", steps)
			}
		}
	}
}

// Two proofs need the same tiles. The second one fetches none of them, and stores them all when the
// first one fails or is dropped; the first one can be stored later.
func TestProofsShareTiles(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 1000)
	refresh(t, m)
	heads := len(store.keys())
	first := prove(t, m, 600)
	before := log.Requests("tile/")
	second := prove(t, m, 601)
	if n := log.Requests("tile/") - before; n != 0 {
		t.Errorf("the second proof fetched %d tiles", n)
	}
	before = log.Requests("lookup/")
	if again := prove(t, m, 600); again != first || log.Requests("lookup/") != before {
		t.Error("a record that waits to be stored is fetched again")
	}
	store.failWith(func(string, string) error { return errors.New("disk full") })
	if err := first.Store(t.Context(), nil, gomod(600)); err == nil {
		t.Error("Store succeeded on a full disk")
	}
	store.failWith(nil)
	if keys := store.keys(); len(keys) > heads {
		t.Errorf("stored after a failure: %q", keys)
	}
	keep(t, second, gomod(601))
	offline := open(t, log, store, "", nil)
	verify(t, offline, log, log.Head(1000), 601)
	if _, err := offline.Held(t.Context(), sumdbtest.Filler(600)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Held = %v, want fs.ErrNotExist", err)
	}
	before = log.Requests("")
	keep(t, first, gomod(600))
	lookup(t, m, sumdbtest.Filler(600))
	if n := log.Requests("") - before; n != 0 {
		t.Errorf("%d requests for a proof that was there", n)
	}
	verify(t, open(t, log, store, "", nil), log, log.Head(1000), 600, 601)
	checkStore(t, store, log)
}

// A tile that waits to be stored is no answer before it is stored.
func TestWaitingTileIsNoAnswer(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 1000)
	refresh(t, m)
	prove(t, m, 300)
	tile := tlog.Tile{H: 8, L: 0, N: 1, W: 256}
	if _, err := m.HeldTile(t.Context(), tile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("HeldTile = %v, want fs.ErrNotExist", err)
	}
	before := log.Requests("")
	if data, err := m.Tile(t.Context(), tile); err != nil || string(data) != string(trueTile(t, log, tile)) {
		t.Errorf("Tile = %d bytes, %v", len(data), err)
	}
	if n := log.Requests("") - before; n != 0 || !store.has("sumdb/"+testName+"/"+tile.Path()) {
		t.Errorf("%d requests for a tile that waits; the store has %q", n, store.keys())
	}
}

// Between the proof and its storing the upstream shows a fork: nothing of the proof is stored.
func TestForkBeforeStore(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"another head is a fork of ours", "the proof is of the fork", "both wait, and the fork is second"} {
		t.Run(way, func(t *testing.T) {
			log := newLog(t, 300)
			shown := log
			store, evidence := newStore(t), filepath.Join(t.TempDir(), "evidence")
			m := open(t, log, store, evidence, fetchFrom(&shown))
			lookup(t, m, sumdbtest.Filler(5))
			fork := log.Fork(300)
			log.Fill(600)
			mod := module.Version{Path: "example.com/forked", Version: "v1.0.0"}
			id := fork.Add(mod, sumdbtest.Hash("zip"), sumdbtest.Hash("mod"))
			for fork.Size() < 700 {
				fork.AddText([]byte("forked " + sumdbtest.Hash(fmt.Sprint(fork.Size())) + "\n"))
			}
			size := int64(600)
			var p *sumdb.Proof
			switch way {
			case "another head is a fork of ours":
				refresh(t, m)
				p = prove(t, m, 550)
				shown = fork
				if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
					t.Fatalf("Refresh = %v, want ErrFrozen", err)
				}
			default:
				shown = fork
				var err error
				if p, err = m.Prove(t.Context(), mod); err != nil || p.Record.ID != id {
					t.Fatalf("Prove = %v, %v", p, err)
				}
				shown = log
				if way == "the proof is of the fork" {
					refresh(t, m)
				} else {
					keep(t, prove(t, m, 550), gomod(550))
				}
			}
			before := store.keys()
			if err := p.Store(t.Context(), nil, gomod(1)); !errors.Is(err, sumdb.ErrFrozen) {
				t.Errorf("Store = %v, want ErrFrozen", err)
			}
			if after := store.keys(); len(after) != len(before) {
				t.Errorf("the store has %q, and had %q", after, before)
			}
			checkEvidence(t, log, fork, readEvidence(t, evidence), size, 700)
			checkStore(t, store, log)
			verify(t, open(t, log, store, "", nil), log, log.Head(300), 5)
		})
	}
}

// Wrong bytes in the store are in the way of a batch: proved tiles replace them, the record that was
// first stays, and what depends on the proof is stored too.
func TestProofOverWrongObjects(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 700)
	refresh(t, m)
	p := prove(t, m, 300)
	tile, record := "sumdb/"+testName+"/tile/8/0/001", "sumdb/"+testName+"/lookup/filler.example/m300@v1.0.0"
	store.set(tile, []byte("wrong"))
	keep(t, p, gomod(300))
	if !store.has(gomod(300).Info.Key) {
		t.Error("what depends on the proof is not stored")
	}
	verify(t, open(t, log, store, "", nil), log, log.Head(700), 300)
	checkStore(t, store, log)

	store.set(record, nil)
	p = prove(t, m, 300)
	other, err := tlog.FormatRecord(5, sumdbtest.Text(sumdbtest.Filler(300), sumdbtest.Hash("another zip"), sumdbtest.Hash("mod")))
	if err != nil {
		t.Fatal(err)
	}
	store.set(record, other)
	if err := p.Store(t.Context(), nil, gomod(2)); !errors.Is(err, sumdb.ErrInvalid) {
		t.Errorf("Store beside another record = %v, want ErrInvalid", err)
	}
	if store.has(gomod(2).Info.Key) {
		t.Error("what depends on a refused record is stored")
	}
}

// Something else is stored at the key of what depends on a proof: the proof is stored all the same.
func TestKeyOfDependentIsTaken(t *testing.T) {
	t.Parallel()
	log := newLog(t, 700)
	store := newStore(t)
	store.set(gomod(300).Info.Key, []byte("other"))
	m := open(t, log, store, "", log.Fetch)
	p := prove(t, m, 300)
	for range 2 {
		if err := p.Store(t.Context(), nil, gomod(300)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Store = %v, want fs.ErrExist", err)
		}
	}
	verify(t, open(t, log, store, "", nil), log, log.Head(700), 300)
	if got := readObject(t, store, gomod(300).Info.Key); string(got) != "other" {
		t.Errorf("the object is %q now", got)
	}
}

// Many proofs are made and stored at the same time while the head grows.
func TestManyProofs(t *testing.T) {
	t.Parallel()
	log := newLog(t, 2000)
	store, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	m := open(t, log, store, "", log.Fetch)
	var group sync.WaitGroup
	const fills = 48
	for n := range int64(fills) {
		group.Go(func() {
			if n%16 == 7 {
				log.Fill(log.Size() + 300)
			}
			id := n * 40
			p := prove(t, m, id)
			if n%5 == 0 {
				return // dropped
			}
			keep(t, p, gomod(id))
		})
	}
	group.Wait()
	offline := open(t, log, store, "", nil)
	for n := range int64(fills) {
		if _, err := store.Stat(t.Context(), gomod(n*40).Info.Key); (err == nil) != (n%5 != 0) {
			t.Errorf("%d: %v", n, err)
		}
		if n%5 != 0 {
			verify(t, offline, log, log.Head(m.Size()), n*40)
		}
	}
	checkStore(t, store, log)
}

// The tiles of an older head and those of the record are fetched at the same time: a lookup takes two
// round trips.
func TestHeadAndRecordAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 70_000)
		ofHead, ofRecord := make(chan struct{}), make(chan struct{})
		m := open(t, log, newMemory(t), "", func(ctx context.Context, path string, limit int64) ([]byte, error) {
			mine, other := ofHead, ofRecord
			switch path {
			case "tile/8/0/234": // with the last record of the head
			case "tile/8/0/001": // with the record
				mine, other = ofRecord, ofHead
			default:
				return log.Fetch(ctx, path, limit)
			}
			close(mine)
			select {
			case <-other:
				return log.Fetch(ctx, path, limit)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		refresh(t, m)
		log.ShowLookup(60_000)
		lookup(t, m, sumdbtest.Filler(300))
	})
}

// An error of storing a proof is not taken for one of what depends on it: callers store that alone if
// its key is taken.
func TestProofIsNotStored(t *testing.T) {
	t.Parallel()
	for _, failure := range []error{fs.ErrExist, storage.ErrDamaged} {
		log, store, m := mirrored(t, 700)
		refresh(t, m)
		p := prove(t, m, 300)
		store.failWith(func(op, key string) error {
			if op == "create" && strings.Contains(key, "/tile/") {
				return failure
			}
			return nil
		})
		err := p.Store(t.Context(), nil, gomod(300))
		if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, storage.ErrDamaged) {
			t.Errorf("%v: Store = %v, want an error that is neither fs.ErrExist nor ErrDamaged", failure, err)
		}
		store.failWith(nil)
		if store.has(gomod(300).Info.Key) {
			t.Error("what depends on the proof is stored without it")
		}
		keep(t, p, gomod(300))
		verify(t, open(t, log, store, "", nil), log, log.Head(700), 300)
	}
}

// A record that cannot be read is in the way of a proof, which replaces it.
func TestProofOverUnreadableRecord(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 700)
	p := prove(t, m, 300)
	store.set("sumdb/"+testName+"/lookup/filler.example/m300@v1.0.0", []byte("no record"))
	keep(t, p, gomod(300))
	verify(t, open(t, log, store, "", nil), log, log.Head(700), 300)
	checkStore(t, store, log)
}

// storeOvertaken begins to store the proof of record 300 in tree 2100, which our head has overtaken. It
// returns the error of Store.
func storeOvertaken(t *testing.T, m *sumdb.Mirror, log *sumdbtest.Log) <-chan error {
	t.Helper()
	refresh(t, m)
	log.Fill(2100)
	overtaken := prove(t, m, 300)
	log.Fill(3000)
	refresh(t, m)
	done := make(chan error)
	go func() { done <- overtaken.Store(t.Context(), nil, gomod(300)) }()
	return done
}

// While the proof of an overtaken head waits for upstream, our head moves on, and other proofs with new
// heads are stored.
func TestOvertakenProofStopsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 1500)
		asked, release := make(chan struct{}), make(chan struct{})
		m := open(t, log, newMemory(t), "", func(ctx context.Context, path string, limit int64) ([]byte, error) {
			if path == "tile/8/0/008" { // has the end of the second head, and is full under the third
				close(asked)
				<-release
			}
			return log.Fetch(ctx, path, limit)
		})
		done := storeOvertaken(t, m, log)
		<-asked
		log.Fill(4000)
		ctx, cancel := context.WithTimeout(t.Context(), fileTimeout/2)
		defer cancel()
		if _, err := m.Lookup(ctx, sumdbtest.Filler(3500)); err != nil || m.Size() != 4000 {
			t.Errorf("Lookup = %v, our head is %d", err, m.Size())
		}
		close(release)
		if err := <-done; err != nil {
			t.Errorf("Store = %v", err)
		}
		verify(t, m, log, log.Head(2100), 300)
	})
}

// fileTimeout is how long the mirror waits for a tile.
const fileTimeout = time.Minute

// A crash while wrong tiles are replaced leaves no tile without its parent.
func TestWrongTilesAreReplacedInOrder(t *testing.T) {
	t.Parallel()
	log := newLog(t, 70_000)
	prefix := "sumdb/" + testName + "/tile/8/"
	for steps, complete := 0, false; !complete; steps++ {
		store := newStore(t)
		refresh(t, open(t, log, store, "", log.Fetch))
		m := open(t, log, storagetest.Cut(store.Store, steps), "", log.Fetch)
		p := prove(t, m, 20_000)
		store.set(prefix+"1/000", []byte("wrong"))
		err := p.Store(t.Context(), nil)
		if complete = err == nil; !complete && !errors.Is(err, storagetest.ErrCut) {
			t.Fatalf("after %d steps: %v", steps, err)
		}
		if store.has(prefix+"0/078") && (!store.has(prefix+"1/000") || string(readObject(t, store, prefix+"1/000")) == "wrong") {
			t.Errorf("after %d steps a tile is stored, and its parent is not", steps)
		}
	}
}

// opened is a store that notes what is read of it.
type opened struct {
	storage.Store
	mu   sync.Mutex
	keys map[string]int
}

func (s *opened) Open(ctx context.Context, key string) (storage.Object, error) {
	s.mu.Lock()
	s.keys[key]++
	s.mu.Unlock()
	return s.Store.Open(ctx, key)
}

// What is not in the store is looked for once by each miss: a bucket is far away. A tile that waits to be
// stored, or was stored a moment ago, is fetched by no other proof.
func TestOneLookForAMiss(t *testing.T) {
	t.Parallel()
	log := newLog(t, 70_000)
	store := &opened{Store: newStore(t), keys: map[string]int{}}
	m := open(t, log, store, "", log.Fetch)
	refresh(t, m)
	once := func(what string) {
		t.Helper()
		for key, n := range store.keys {
			if n > 1 {
				t.Errorf("%s: %s was read %d times", what, key, n)
			}
		}
		store.keys = map[string]int{}
	}
	once("the first head")
	first := prove(t, m, 300)
	once("a record")
	before := log.Requests("tile/")
	second := prove(t, m, 301)
	once("a record with a tile that waits")
	keep(t, first, gomod(300))
	keep(t, second, gomod(301))
	keep(t, prove(t, m, 302), gomod(302))
	once("a record with a tile that is stored")
	if n := log.Requests("tile/") - before; n != 0 {
		t.Errorf("%d requests for tiles that were there", n)
	}
	for _, tile := range []tlog.Tile{{H: 8, L: 0, N: 7, W: 256}, {H: 8, L: 0, N: 8, W: 17}, {H: 8, L: 1, N: 0, W: 256}, {H: 8, L: -1, N: 9, W: 256}} {
		if _, err := m.Tile(t.Context(), tile); err != nil {
			t.Fatal(err)
		}
		once(tile.Path())
	}
}

// A reload replaces an upstream that hangs while it is asked about an overtaken head: the new one is
// asked at once, also for the clients that look up the same module.
func TestAnewWhileOvertakenProofWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 1500)
		m, set := openChanging(t, log, newMemory(t), "")
		set(func(ctx context.Context, path string, limit int64) ([]byte, error) {
			if path == "tile/8/0/008" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return log.Fetch(ctx, path, limit)
		})
		done := storeOvertaken(t, m, log)
		synctest.Wait()
		begin := time.Now()
		set(log.Fetch)
		m.Anew()
		lookup(t, m, sumdbtest.Filler(300))
		if err := <-done; err != nil || time.Since(begin) > time.Second {
			t.Errorf("Store = %v after %v", err, time.Since(begin))
		}
	})
}
