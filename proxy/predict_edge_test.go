package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
)

// These tests are about prediction under attack, and at its limits.

// wantPredicted checks that the counts of predictions agree: what was fetched is used, wasted or still open.
func (f *fixture) wantPredicted() {
	f.t.Helper()
	for _, unit := range []string{"", "bytes_"} {
		settled := f.metric(f.t, "assay_predicted_used_"+unit+"total") + f.metric(f.t, "assay_predicted_wasted_"+unit+"total")
		if all := f.metric(f.t, "assay_predicted_"+unit+"total"); settled > all {
			f.t.Errorf("%v %sare used or wasted, of %v that were predicted", settled, unit, all)
		}
	}
}

// addressed is predicting for clients whose address is in a header.
func addressed() option {
	return predictingWith(func(c *proxy.Config) {
		c.Remote = func(r *http.Request) string { return r.Header.Get("Address") }
	})
}

// A party with 1,000 addresses, each of which makes Assay predict and leaves, takes no prediction from a
// client that comes meanwhile, and no answer.
func TestPredictCrowd(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func(i int) string{
		"one site":       func(i int) string { return fmt.Sprintf("2001:db8:1::%x", i) },
		"IPv6 sites":     func(i int) string { return fmt.Sprintf("2001:db8:%x::1", i) },
		"IPv4 addresses": func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/256, i%256) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			var hostile []string
			for i := range 20 {
				var mod strings.Builder
				fmt.Fprintf(&mod, "-- hostile.example/%d@v1.0.0/go.mod --\nmodule hostile.example/%d\n", i, i)
				for j := range 3 {
					fmt.Fprintf(&mod, "require unused.example/%d-%d v1.0.0\n", i, j)
				}
				world.Add(mod.String())
				hostile = append(hostile, fmt.Sprintf("hostile.example/%d/@v/v1.0.0.mod", i))
			}
			paths := graph(world, 30, "")
			f := start(t, world, world.URL("ok"), predictingWith(byClient))
			request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			next := 0
			crowd := func() { // requests of some of the addresses
				var clients sync.WaitGroup
				for range 8 {
					from := address(next)
					path := hostile[next%len(hostile)]
					next++
					clients.Go(func() {
						f.ask(request, from, "absent.example/m/@latest") // no hit, so that the client is noted
						if w := f.ask(request, from, path); w.Code != http.StatusOK {
							t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
						}
					})
				}
				clients.Wait()
			}
			for range 1000/8 - 92 {
				crowd()
			}
			predicted := 0
			want := func(path string) {
				t.Helper()
				if f.holds(path) {
					predicted++
				}
				if a := f.get(path, "X-Client", "192.0.2.1"); a.status != http.StatusOK {
					t.Errorf("GET %s: %v", path, a)
				}
			}
			want("graph.example/old/@v/v1.0.0.mod")
			for _, kind := range []string{"mod", "info", "zip"} {
				for _, path := range paths {
					want(path + kind)
					crowd()
					f.idle()
				}
			}
			if predicted < 60 {
				t.Errorf("%d of 91 requests were predicted", predicted)
			}
			for name, of := range f.server.Content().Places() {
				if stats := of.Stats(); stats.ClientFull+stats.Full+stats.Late > 0 {
					t.Errorf("%s: %+v, want no refusal", name, stats)
				}
			}
			f.wantPredicted()
		})
	}
}

// limiter is an upstream that asks for fewer requests for files of some modules, until it is well.
type limiter struct {
	status     int
	retryAfter string
	well       atomic.Bool

	mu      sync.Mutex
	refused map[string]int // requests by path
}

// requests returns how many requests were refused whose paths contain a text.
func (b *limiter) requests(text string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for path, of := range b.refused {
		if strings.Contains(path, text) {
			n += of
		}
	}
	return n
}

// most returns which path was requested most often, of those that were refused.
func (b *limiter) most() (path string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, of := range b.refused {
		if of > n {
			path, n = p, of
		}
	}
	return path, n
}

// upstream returns the upstream with the files of a world.
func (b *limiter) upstream(t *testing.T, world *proxytest.World) (list string) {
	b.refused = map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/busy.example/") || strings.Contains(r.URL.Path, "/root") || b.well.Load() {
			world.ServeHTTP(w, r)
			return
		}
		b.mu.Lock()
		b.refused[r.URL.Path]++
		b.mu.Unlock()
		w.Header().Set("Retry-After", b.retryAfter)
		http.Error(w, "too many", b.status)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/ok"
}

// busyGraph adds roots that require 20 modules each.
func busyGraph(world *proxytest.World, roots int) {
	for i := range roots {
		var archive strings.Builder
		fmt.Fprintf(&archive, "-- busy.example/root%d@v1.0.0/go.mod --\nmodule busy.example/root%d\n", i, i)
		for j := range 20 {
			fmt.Fprintf(&archive, "require busy.example/%d-%d v1.0.0\n", i, j)
		}
		world.Add(archive.String())
		for j := range 20 {
			world.Add(fmt.Sprintf("-- busy.example/%d-%d@v1.0.0/go.mod --\nmodule busy.example/%d-%d\n", i, j, i, j))
		}
	}
}

// An upstream that asks for fewer requests gets no predictions while it does, and clients' requests as
// without prediction.
func TestPredictBusyUpstream(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int{
		http.StatusTooManyRequests:    http.StatusServiceUnavailable,
		http.StatusServiceUnavailable: http.StatusBadGateway,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			busyGraph(world, 12)
			from := &limiter{status: status, retryAfter: "60"}
			f := start(t, world, from.upstream(t, world), addressed())
			root := func(i int) {
				path := fmt.Sprintf("busy.example/root%d/@v/v1.0.0.mod", i)
				if a := f.get(path, "Address", fmt.Sprintf("192.0.2.%d", i)); a.status != http.StatusOK {
					t.Errorf("%s: %v", path, a)
				}
			}
			root(0)
			eventually(t, "a prediction is refused", func() bool { return from.requests("/busy.example/0-") > 0 })
			f.idle()
			begun := f.objects().Abandoned
			for i := range 10 {
				root(1 + i)
			}
			f.idle()
			if n := f.objects().Abandoned - begun; n != 0 {
				t.Errorf("%d predictions begin, and are given up", n)
			}
			// A request that was given up may be counted late, so what is counted has to be from where the
			// prediction began: those of the first root had begun before, and those of the others must not.
			if path, n := from.most(); n > 1 {
				t.Errorf("%d requests for %s: a prediction is repeated", n, path)
			}
			f.wantStatus("busy.example/0-0/@v/v1.0.0.mod", want)
			if path, n := from.most(); n > 2 {
				t.Errorf("%d requests for %s, one of them of a client", n, path)
			}
			if all, first := from.requests(""), from.requests("/busy.example/0-"); all > first {
				t.Errorf("%d requests of predictions that began although it asks for fewer", all-first)
			}
			f.wantPredicted()
			if n := strings.Count(f.logs.String(), "asks for fewer requests"); n != 1 {
				t.Errorf("%d lines in the log say it", n)
			}
			from.well.Store(true)
			f.want("busy.example/5-0/@v/v1.0.0.mod") // is not delayed
		})
	}
}

// After the time for which an upstream has asked, it gets predictions again; a client's request is repeated
// then, and succeeds.
func TestPredictAfterBusy(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	busyGraph(world, 30)
	from := &limiter{status: http.StatusTooManyRequests, retryAfter: "2"}
	f := start(t, world, from.upstream(t, world), addressed())
	f.get("busy.example/root0/@v/v1.0.0.mod", "Address", "192.0.2.0")
	eventually(t, "a prediction is refused", func() bool { return from.requests("/@v/") > 0 })
	f.idle()
	const path = "/busy.example/0-0/@v/v1.0.0.mod"
	before := from.requests(path)
	answered := make(chan response)
	go func() { answered <- f.get("busy.example/0-0/@v/v1.0.0.mod", "Address", "192.0.2.0") }()
	eventually(t, "the client's request is refused once", func() bool { return from.requests(path) > before })
	from.well.Store(true)
	if a := <-answered; a.status != http.StatusOK {
		t.Errorf("the client gets %v", a)
	}
	i := 0
	eventually(t, "predictions go on", func() bool {
		i = (i + 1) % 30
		f.get(fmt.Sprintf("busy.example/root%d/@v/v1.0.0.mod", i), "Address", fmt.Sprintf("192.0.2.%d", i))
		return f.predicted() > 0
	})
	f.wantPredicted()
}

// fullStoreError is the error of a store whose disk is full.
func fullStoreError() error {
	return fmt.Errorf("write meta.db: %w: %w", storage.ErrUnwritable, syscall.ENOSPC)
}

// spaceless is a store that stores nothing while it has an error for it.
type spaceless struct {
	storage.Store
	err atomic.Pointer[error]
}

// option is predicting with this store.
func (s *spaceless) option() option {
	o := predicting()
	o.store = func(real storage.Store) storage.Store {
		s.Store = real
		return s
	}
	return o
}

func (s *spaceless) fails(key string) error {
	if err := s.err.Load(); err != nil {
		return fmt.Errorf("store %s: %w", key, *err)
	}
	return nil
}

func (s *spaceless) Create(ctx context.Context, info storage.Info, data io.Reader) error {
	if err := s.fails(info.Key); err != nil {
		return err
	}
	return s.Store.Create(ctx, info, data)
}

func (s *spaceless) Apply(ctx context.Context, b storage.Batch) error {
	if err := s.fails("a batch"); err != nil {
		return err
	}
	return s.Store.Apply(ctx, b)
}

func (s *spaceless) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := s.Store.Draft(ctx, size)
	return spacelessDraft{d, s}, err
}

type spacelessDraft struct {
	storage.Draft
	s *spaceless
}

func (d spacelessDraft) Write(p []byte) (int, error) {
	if err := d.s.fails("a draft"); err != nil {
		return 0, err
	}
	return d.Draft.Write(p)
}

// When a fill could not be stored, nothing is predicted for a while, so that no prediction is fetched in
// vain or takes the space that a client's fill needs. The log says it once.
func TestPredictNoSpace(t *testing.T) {
	t.Parallel()
	for name, why := range map[string]error{"full": fullStoreError(), "read-only": storage.ErrReadOnly} {
		for _, kind := range []string{"info", "mod", "zip"} { // created, in a batch, from a draft
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				world := newWorld(t)
				paths := graph(world, 6, "")
				store := new(spaceless)
				f := start(t, world, world.URL("ok"), store.option())
				f.want("graph.example/old/@v/v1.0.0.mod")
				for _, path := range paths {
					f.want(path + "mod")
				}
				f.idle()
				next := "info"
				if kind == "zip" {
					next = "zip"
					for _, path := range paths {
						f.want(path + "info")
					}
					f.idle()
				}
				store.err.Store(&why)
				if a := f.get("example.com/hello/@v/v1.0.0." + kind); a.status < 500 {
					t.Errorf("a client gets %v", a)
				}
				for _, path := range paths[:2] {
					f.get(path + next)
				}
				f.idle()
				for _, path := range paths[2:] {
					if n := world.Count(path + next); n != 0 {
						t.Errorf("%s is predicted, and cannot be stored", path+next)
					}
				}
				if n := strings.Count(f.logs.String(), "nothing is predicted for a while"); n != 1 {
					t.Errorf("%d lines in the log say it", n)
				}
				store.err.Store(nil)
				for _, path := range paths { // clients' fills are not paused
					f.want(path + next)
				}
				f.wantPredicted()
			})
		}
	}
}

// What is fetched because of a prediction when a pause begins gives up its space.
func TestPredictGivesUpSpace(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	graph(world, 4, "")
	g := newGate(t, world, "/graph.example/0/")
	store := new(spaceless)
	f := start(t, world, g.url, store.option())
	f.want("graph.example/old/@v/v1.0.0.mod")
	<-g.came // it hangs
	full := fullStoreError()
	store.err.Store(&full)
	if a := f.get("example.com/hello/@v/v1.0.0.mod"); a.status < 500 {
		t.Errorf("a client gets %v", a)
	}
	f.idle() // although one still hangs
	if f.objects().Abandoned == 0 {
		t.Error("no prediction was given up")
	}
}

// An error that says "no space left" and is not of the store is no reason for a pause, such as that of the
// directory of a repository or of scratch files. Nor is a zip that is larger than what the store has left.
func TestPredictFullElsewhere(t *testing.T) {
	t.Parallel()
	full := error(syscall.ENOSPC)
	for name, c := range map[string]struct {
		path string
		fail func(s *spaceless, o *option, on *atomic.Bool)
	}{
		"another disk": {"example.com/hello/@v/v1.0.0.mod", func(_ *spaceless, o *option, on *atomic.Bool) {
			lookup := o.lookup
			o.lookup = func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if on.Load() && strings.Contains(path, "lookup/example.com/hello@") {
					return nil, fmt.Errorf("scratch: %w", full)
				}
				return lookup(ctx, path, limit)
			}
		}},
		"a large zip": {"example.com/hello/@v/v1.0.0.zip", func(s *spaceless, _ *option, _ *atomic.Bool) { s.err.Store(&full) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			paths := graph(world, 2, "")
			store, on := new(spaceless), new(atomic.Bool)
			o := store.option()
			o.lookup = chainOf(t, world.URL("ok")).SumDB(proxytest.Database, "http://127.0.0.1:1", true)
			c.fail(store, &o, on)
			f := start(t, world, world.URL("ok"), o)
			on.Store(true)
			if a := f.get(c.path); a.status < 500 {
				t.Errorf("a client gets %v", a)
			}
			on.Store(false)
			store.err.Store(nil)
			if strings.Contains(f.logs.String(), "nothing is predicted for a while") {
				t.Error("a pause begins")
			}
			f.want("graph.example/old/@v/v1.0.0.mod")
			eventually(t, "predictions go on", func() bool { return f.holds(paths[0]+"mod") && f.holds(paths[1]+"mod") })
		})
	}
}

// visit requests a path as another client, and leaves while it waits. No prefetch must begin meanwhile.
func (f *fixture) visit(path string) {
	f.t.Helper()
	waiting := func() int {
		n := 0
		for _, of := range f.server.Content().Places() {
			n += of.Stats().Clients
		}
		return n
	}
	eventually(f.t, "the prefetches that have begun wait no more", func() bool { return waiting() == 0 })
	ctx, leave := context.WithCancel(f.t.Context())
	var client sync.WaitGroup
	client.Go(func() {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/"+path, nil)
		if err != nil {
			f.t.Error(err)
			return
		}
		r.Header.Set("Address", "192.0.2.9")
		if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
			f.t.Error("it gets a response")
		}
	})
	eventually(f.t, "it waits", func() bool { return waiting() > 0 })
	leave()
	client.Wait()
	eventually(f.t, "it has left", func() bool { return waiting() == 0 })
}

// A pause, or the end of the server, ends no fill that a client has begun or joined, also when that client
// has left, and although a prediction follows it.
func TestPredictEndsNoClientsFill(t *testing.T) {
	t.Parallel()
	for _, joins := range []bool{false, true} {
		for _, stop := range []bool{false, true} {
			t.Run(fmt.Sprintf("joined %v, stop %v", joins, stop), func(t *testing.T) {
				t.Parallel()
				world := newWorld(t)
				world.Add("-- slow.example/0@v1.0.0/go.mod --\nmodule slow.example/0\n-- slow.example/1@v1.0.0/go.mod --\nmodule slow.example/1\n")
				graph(world, 0, "require slow.example/0 v1.0.0\nrequire slow.example/1 v1.0.0\n")
				const path = "slow.example/0/@v/v1.0.0.mod"
				g := newGate(t, world, "/slow.example/")
				store := new(spaceless)
				o := addressed()
				o.store, o.budget = store.option().store, patient()
				f := start(t, world, g.url, o)
				if !joins {
					f.visit(path)
				}
				f.get("graph.example/old/@v/v1.0.0.mod", "Address", "192.0.2.1")
				for !strings.Contains(<-g.came, "/slow.example/1/") { // it is predicted after the other one
				}
				if joins {
					f.visit(path)
				}
				ended := make(chan error, 1)
				if stop {
					go func() { ended <- f.server.Close(context.WithoutCancel(t.Context())) }()
				} else {
					full := fullStoreError()
					store.err.Store(&full)
					f.get("example.com/hello/@v/v1.0.0.mod", "Address", "192.0.2.8")
					store.err.Store(nil)
					ended <- nil
				}
				eventually(t, "the other prediction ends", func() bool { return f.objects().Abandoned > 0 })
				g.release()
				if err := <-ended; err != nil {
					t.Errorf("Close: %v", err)
				}
				eventually(t, "what a client has requested is stored", func() bool { return f.holds(path) })
				if n := f.objects().Abandoned; n != 1 {
					t.Errorf("%d fills were given up, want the one that no client has requested", n)
				}
			})
		}
	}
}
