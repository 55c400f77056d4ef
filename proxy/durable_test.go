package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/storagetest"
)

const (
	helloMod    = "example.com/hello/@v/v1.0.0.mod"
	helloLookup = "sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.0.0"
)

// longLog returns a world whose log has full tiles with the records of the modules, and more after
// them.
func longLog(t *testing.T) *proxytest.World {
	w := proxytest.New(t)
	w.Log.Fill(500)
	w.Add(modules)
	w.Log.Fill(1500)
	return w
}

// commits returns how often the store has waited for the disk.
func (f *fixture) commits() (n uint64) {
	f.t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f.store.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		f.t.Fatal(err)
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

// beginJournal stores an object, so that the store has begun its journal.
func (f *fixture) beginJournal() {
	f.t.Helper()
	if err := f.store.Create(f.t.Context(), storage.Info{Key: "first"}, strings.NewReader("")); err != nil {
		f.t.Fatal(err)
	}
}

// A go.mod that is not held waits for the disk once, together with the proof of its record and the
// head of that.
func TestColdModIsOneCommit(t *testing.T) {
	t.Parallel()
	world := longLog(t)
	world.Add("-- example.com/long@v1.0.0/go.mod --\nmodule example.com/long\n" + strings.Repeat("// a comment\n", 4000))
	f := start(t, world, world.URL("ok"), verified())
	f.beginJournal()
	for _, tt := range []struct {
		name, path string
		want       uint64
	}{
		{"the first head", "example.com/hello/@v/v1.0.0.mod", 1},
		{"our head", "example.com/hello/@v/v1.1.0.mod", 1},
		{"a newer head", "example.com/!upper/@v/v1.0.0-!r!c.1.mod", 1},
		{"a large go.mod", "example.com/long/@v/v1.0.0.mod", 1 + 3}, // the proof; then intent, content, record
		{"a go.mod whose record is held", "example.com/hello/@v/v1.2.0-rc.1.mod", 1},
		{"a held go.mod", "example.com/hello/@v/v1.0.0.mod", 0},
	} {
		switch tt.name {
		case "a newer head":
			world.Log.Fill(3000)
		case "a go.mod whose record is held":
			f.get("sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.2.0-rc.1")
		}
		before := f.commits()
		f.want(tt.path)
		if n := f.commits() - before; n != tt.want {
			t.Errorf("%s: %d commits, want %d", tt.name, n, tt.want)
		}
	}
	before := f.commits()
	f.get("sumdb/" + proxytest.Database + "/lookup/example.com/old@v1.5.0")
	if n := f.commits() - before; n != 1 {
		t.Errorf("%d commits for a lookup, want 1", n)
	}
}

// writes counts the calls that change a store.
type writes struct {
	storage.Store
	mu    sync.Mutex
	calls map[string]int
}

func (s *writes) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[call]++
}

func (s *writes) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	s.note("Create")
	return s.Store.Create(ctx, info, r)
}

func (s *writes) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	s.note("Replace")
	return s.Store.Replace(ctx, info, r)
}

func (s *writes) SwapState(ctx context.Context, name string, old, value []byte) error {
	s.note("SwapState")
	return s.Store.SwapState(ctx, name, old, value)
}

func (s *writes) SetState(ctx context.Context, name string, value []byte) error {
	s.note("SetState")
	return s.Store.SetState(ctx, name, value)
}

func (s *writes) Apply(ctx context.Context, b storage.Batch) error {
	s.note("Apply")
	return s.Store.Apply(ctx, b)
}

// Fills at the same time make one batch each, and nothing else: the engine makes one commit of those
// that wait together.
func TestColdModsAtOnce(t *testing.T) {
	t.Parallel()
	const fills = 16
	world := longLog(t)
	var archive strings.Builder
	for n := range fills {
		fmt.Fprintf(&archive, "-- example.com/m%d@v1.0.0/go.mod --\nmodule example.com/m%d\n", n, n)
	}
	world.Add(archive.String())
	world.Log.Fill(3000)
	counted := &writes{calls: map[string]int{}}
	o := verified()
	o.store = func(s storage.Store) storage.Store { counted.Store = s; return counted }
	f := start(t, world, world.URL("ok"), o)
	f.beginJournal()
	f.want(helloMod)
	clear(counted.calls)
	before := f.commits()
	var all sync.WaitGroup
	for n := range fills {
		all.Go(func() { f.get(fmt.Sprintf("example.com/m%d/@v/v1.0.0.mod", n)) })
	}
	all.Wait()
	if want := map[string]int{"Apply": fills}; !maps.Equal(counted.calls, want) {
		t.Errorf("calls of the store: %v, want %v", counted.calls, want)
	}
	if n := f.commits() - before; n > fills {
		t.Errorf("%d commits for %d fills", n, fills)
	}
	for n := range fills {
		f.want(fmt.Sprintf("example.com/m%d/@v/v1.0.0.mod", n))
	}
}

// cutStore does one step of a batch after the other, and crashes after some of them.
type cutStore struct {
	storage.Store
	mu  sync.Mutex // storagetest.Cut is for one goroutine
	cut storage.Store
}

func (s *cutStore) Apply(ctx context.Context, b storage.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut.Apply(ctx, b)
}

func (s *cutStore) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut.Create(ctx, info, r)
}

func (s *cutStore) SwapState(ctx context.Context, name string, old, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut.SwapState(ctx, name, old, value)
}

// After a crash between any two steps the restarted server serves nothing that is not proved, whether
// it has an upstream or not, and completes what was begun.
func TestColdModIsCutOff(t *testing.T) {
	t.Parallel()
	world := longLog(t)
	for steps, complete := 0, false; !complete; steps++ {
		o := verified()
		o.store = func(s storage.Store) storage.Store { return &cutStore{Store: s, cut: storagetest.Cut(s, steps)} }
		f := start(t, world, world.URL("ok"), o)
		a := f.get(helloMod)
		if complete = a.status == http.StatusOK; !complete && (a.status != http.StatusInternalServerError || strings.Contains(string(a.body), "module example.com/hello\n")) {
			t.Errorf("after %d steps: %v", steps, a)
		}
		if complete && steps < 4 {
			t.Errorf("complete after %d steps: head, history, tile, record and go.mod are more", steps)
		}
		f.close()
		f.open("off", verified())
		if a := f.get(helloMod); (a.status == http.StatusOK) != complete || complete && string(a.body) != string(world.File(helloMod)) {
			t.Errorf("without an upstream, after %d steps: %v", steps, a)
		}
		f.get(helloLookup) // whether it is held: below
		f.close()
		f.open(world.URL("ok"), verified())
		f.want(helloMod)
		f.want("example.com/hello/@v/v1.1.0.mod")
		if a := f.get(helloLookup); a.status != http.StatusOK {
			t.Errorf("lookup after %d steps: %v", steps, a)
		}
		f.close()
	}
}

// noRoom is a store on a disk that is full for some keys.
type noRoom struct {
	storage.Store
	full func(key string) bool
}

func (s *noRoom) Apply(ctx context.Context, b storage.Batch) error {
	for _, c := range b.Create {
		if s.full(c.Info.Key) {
			return fmt.Errorf("write meta.db: %w", syscall.ENOSPC)
		}
	}
	return s.Store.Apply(ctx, b)
}

// A disk that is full when the batch is stored is an error that says so, not an answer. What was
// fetched is not fetched again when there is room, except the go.mod.
func TestColdModOnFullDisk(t *testing.T) {
	t.Parallel()
	world := longLog(t)
	var mu sync.Mutex
	full := false
	o := verified()
	o.store = func(s storage.Store) storage.Store {
		return &noRoom{s, func(key string) bool {
			mu.Lock()
			defer mu.Unlock()
			return full && strings.Contains(key, "lookup/")
		}}
	}
	f := start(t, world, world.URL("ok"), o)
	f.want("example.com/hello/@v/v1.1.0.mod")
	mu.Lock()
	full = true
	mu.Unlock()
	f.wantStatus(helloMod, http.StatusServiceUnavailable, "disk is full")
	if f.holds(helloMod) {
		t.Error("the go.mod is stored without its record")
	}
	if a := f.get(helloLookup); a.status == http.StatusOK {
		t.Errorf("the lookup is answered: %v", a)
	}
	requests := world.Log.Requests("")
	mu.Lock()
	full = false
	mu.Unlock()
	f.want(helloMod)
	if n := world.Log.Requests("") - requests; n != 0 {
		t.Errorf("%d requests to the database for a proof that was there", n)
	}
	if a := f.get(helloLookup); a.status != http.StatusOK {
		t.Errorf("the lookup: %v", a)
	}
}

// An object that is no proved go.mod is in the way of the batch: the proof is stored, and the proved
// go.mod replaces it.
func TestColdModOverAnother(t *testing.T) {
	t.Parallel()
	world := longLog(t)
	f := start(t, world, world.URL("ok"), verified())
	bad := storage.Info{Key: keyOf(helloMod), Size: 5, Hash: "h1:other"}
	gate := &sneak{Store: f.store, info: bad}
	f.close()
	o := verified()
	o.store = func(s storage.Store) storage.Store { gate.Store = s; return gate }
	f.open(world.URL("ok"), o)
	f.want(helloMod)
	if !gate.done {
		t.Fatal("no batch was applied")
	}
	if info, err := f.store.Stat(t.Context(), keyOf(helloMod)); err != nil || info.Proof != proxytest.Database {
		t.Errorf("stored: %+v, %v", info, err)
	}
}

// sneak stores another object right before the first batch.
type sneak struct {
	storage.Store
	info storage.Info
	done bool
}

func (s *sneak) Apply(ctx context.Context, b storage.Batch) error {
	if !s.done {
		s.done = true
		if err := s.Create(ctx, s.info, strings.NewReader("wrong")); err != nil {
			return err
		}
	}
	return s.Store.Apply(ctx, b)
}

// While an upstream holds a go.mod back, its record is proved and not stored. A client that looks it up
// meanwhile gets it at once, durable and without a second request; the go.mod follows.
func TestLookupBesideColdMod(t *testing.T) {
	t.Parallel()
	world := longLog(t)
	asked, release := make(chan struct{}), make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".mod") {
			close(asked)
			<-release
		}
		world.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	f := start(t, world, front.URL+"/ok", verified())
	got := make(chan response, 1)
	go func() { got <- f.get(helloMod) }()
	<-asked
	waitUntil(t, func() bool { return world.Log.Requests("lookup/") == 1 && world.Log.Requests("tile/") > 0 })
	if a := f.get(helloLookup); a.status != http.StatusOK || !strings.Contains(string(a.body), "example.com/hello v1.0.0/go.mod h1:") {
		t.Errorf("the lookup: %v", a)
	}
	if _, err := f.store.Stat(t.Context(), helloLookup); err != nil {
		t.Errorf("the record is answered and not stored: %v", err)
	}
	if f.holds(helloMod) {
		t.Error("the go.mod is stored before it came")
	}
	close(release)
	if a := <-got; a.status != http.StatusOK || string(a.body) != string(world.File(helloMod)) {
		t.Errorf("the go.mod: %v", a)
	}
	if n := world.Log.Requests("lookup/"); n != 1 {
		t.Errorf("%d lookups", n)
	}
}

// The own log copies a record only when it is stored, with a head that is stored too.
func TestOwnLogBesideProof(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Content.Unified = true })
	mod := module.Version{Path: "example.com/hello", Version: "v1.0.0"}
	proof, err := h.mirror.Prove(t.Context(), mod)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.mirror.Held(t.Context(), mod); !errors.Is(err, fs.ErrNotExist) || h.mirror.HasHead() {
		t.Fatalf("a record that waits is held: %v, head: %v", err, h.mirror.HasHead())
	}
	h.ok("sumdb/log.corp.example/lookup/example.com/hello@v1.0.0")
	public, err := h.mirror.Held(t.Context(), mod)
	if err != nil || string(public.Text) != string(proof.Record.Text) || h.mirror.Size() <= public.ID {
		t.Errorf("the public record: %v, %v, head %d", public, err, h.mirror.Size())
	}
	if entry, err := h.log.Find(t.Context(), mod); err != nil || entry.Public == nil || entry.Public.ID != public.ID || len(entry.Public.Head) == 0 {
		t.Errorf("the own log has %+v, %v", entry, err)
	}
	h.want(helloMod)
}

// The module of a go.mod becomes private while its proof waits for a tile, because our head has moved
// since the record was proved: the go.mod is not stored as a public one.
func TestReloadWhileProofWaits(t *testing.T) {
	t.Parallel()
	world := longLog(t)
	const tile = "/tile/8/0/008" // has the end of the head of the record, and is full under the next head
	asked, waits := make(chan struct{}), make(chan struct{}, 10)
	release, answerTile := make(chan struct{}), make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, ".mod"):
			close(asked)
			<-release
		case strings.HasSuffix(r.URL.Path, tile):
			waits <- struct{}{}
			<-answerTile
		}
		world.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	f := start(t, world, front.URL+"/ok", verified())
	if err := f.mirror.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	world.Log.Fill(2100)
	got := make(chan response, 1)
	go func() { got <- f.get(helloMod) }()
	<-asked
	if _, err := f.mirror.Prove(t.Context(), module.Version{Path: "example.com/hello", Version: "v1.0.0"}); err != nil {
		t.Fatal(err)
	}
	world.Log.Fill(3000)
	if err := f.mirror.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	<-waits
	f.server.Reload(content.Settings{Upstream: f.chain, Policy: policyOf(t, "example.com/hello")})
	close(answerTile)
	if a := <-got; a.status == http.StatusOK {
		t.Errorf("the go.mod is served: %v", a)
	}
	if f.holds(helloMod) {
		t.Error("the go.mod of a private module is stored as a public one")
	}
}
