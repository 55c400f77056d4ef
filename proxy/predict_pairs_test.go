package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// These tests are about prediction together with other features.

// predictingWith is predicting with more settings.
func predictingWith(more func(c *proxy.Config)) option {
	o := verified()
	o.config = func(c *proxy.Config) {
		c.Predict = true
		more(c)
	}
	return o
}

// idle waits until nothing is fetched.
func (f *fixture) idle() {
	f.t.Helper()
	eventually(f.t, "nothing is fetched any more", func() bool {
		return f.objects().Running == 0 && f.server.Content().Places()["zips"].Stats().Running == 0
	})
}

// predicted returns how many files were predicted, and fetched or not, so far.
func (f *fixture) predicted() float64 { return f.metric(f.t, "assay_predicted_total") }

// Files that are not there are predicted for a client only until it is clear that it needs none of them.
func TestPredictAbsent(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 40, "")
	var requires strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&requires, "require gone.example/%d v1.0.0\n", i)
	}
	world.Add("-- graph.example/hostile@v1.0.0/go.mod --\nmodule graph.example/hostile\n" + requires.String())
	f := start(t, world, world.URL("ok"), predicting())
	f.want("graph.example/hostile/@v/v1.0.0.mod")
	for _, path := range paths {
		f.want(path + "mod")
		f.idle()
	}
	// One for each request of the client, and some that are sent again on a busy machine.
	if n := world.Count("gone.example/*"); n == 0 || n > 60 {
		t.Errorf("%d requests for files that are not there, after 41 of the client", n)
	}
}

// A prediction that fails costs no client an answer: what fails is requested again when a client wants
// it, also from the checksum database, and a client that comes while it hangs waits as without it.
func TestPredictFailure(t *testing.T) {
	t.Parallel()
	for name, sick := range map[string]func(path string) bool{
		"module":   func(path string) bool { return strings.HasSuffix(path, "graph.example/0/@v/v1.0.0.mod") },
		"database": func(path string) bool { return strings.Contains(path, "lookup/graph.example/0@") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			paths := graph(world, 2, "")
			var well atomic.Bool
			var failed atomic.Int64
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if sick(r.URL.Path) && !well.Load() {
					failed.Add(1)
					http.Error(w, "not now", http.StatusServiceUnavailable)
					return
				}
				world.ServeHTTP(w, r)
			}))
			defer upstream.Close()
			o := predicting()
			o.budget = hurried
			f := start(t, world, upstream.URL+"/ok", o)
			f.want("graph.example/old/@v/v1.0.0.mod")
			eventually(t, "the prediction has failed", func() bool { return failed.Load() > 0 && f.holds(paths[1]+"mod") && f.objects().Running == 0 })
			well.Store(true)
			f.want(paths[0] + "mod")
		})
	}
}

// While memory is short nothing is predicted.
func TestPredictMemory(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 2, "")
	budget := memory.New(4 << 20)
	f := start(t, world, world.URL("ok"), predictingWith(func(c *proxy.Config) { c.Content.Memory.Fetches = budget }))
	hold := budget.Hold()
	if err := hold.Try(5 << 19); err != nil {
		t.Fatal(err)
	}
	f.want("graph.example/old/@v/v1.0.0.mod")
	f.want("example.com/hello/@v/v1.0.0.mod")
	f.idle()
	if n := world.Count(paths[0]+"mod") + world.Count(paths[1]+"mod"); n != 0 {
		t.Errorf("%d predictions while memory is short", n)
	}
	hold.Free()
	world.Add("-- graph.example/later@v1.0.0/go.mod --\nmodule graph.example/later\nrequire graph.example/late v1.0.0\n-- graph.example/late@v1.0.0/go.mod --\nmodule graph.example/late\n")
	f.want("graph.example/later/@v/v1.0.0.mod")
	eventually(t, "predictions go on", func() bool { return f.holds("graph.example/late/@v/v1.0.0.mod") })
	f.idle()
	eventually(t, "no memory is lost", func() bool { return budget.Used() == 0 })
}

// A large go.mod takes memory when a client requests it, not before.
func TestPredictLargeMod(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	world.Add("-- large.example/a@v1.0.0/go.mod --\nmodule large.example/a\n" + strings.Repeat("// more than 64 KiB\n", 8<<10))
	graph(world, 1, "require large.example/a v1.0.0\n")
	f := start(t, world, world.URL("ok"), predicting())
	f.want("graph.example/old/@v/v1.0.0.mod")
	eventually(t, "it is given up", func() bool { return f.objects().Abandoned == 1 })
	f.idle()
	if f.holds("large.example/a/@v/v1.0.0.mod") {
		t.Error("the large go.mod is fetched ahead")
	}
	f.want("large.example/a/@v/v1.0.0.mod")
}

// No other spelling of a private name, and no name that a rule protects, is predicted.
func TestPredictNames(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		c.Predict = true
		policy, err := policyOf(t, "corp.example,code.example/Team").Restrict("secret.example/lib=team")
		if err != nil {
			t.Fatal(err)
		}
		c.Settings.Policy = policy
	})
	paths := graph(h.world, 1, "require corp.example/LIB v1.0.0\nrequire corp.example/lib/v2 v2.0.0\nrequire corp.example/lib.git v1.0.0\n"+
		"require corp.example v1.0.0\nrequire \"corp.example:443/lib\" v1.0.0\nrequire \"Corp.example/lib\" v1.0.0\nrequire code.example/team/x v1.0.0\n"+
		"require secret.example/LIB v1.0.0\nrequire secret.example/lib/sub v1.0.0\nreplace graph.example/0 => corp.example/other v1.0.0\n"+
		"exclude corp.example/excluded v1.0.0\ntool corp.example/tool\n")
	h.ok("graph.example/old/@v/v1.0.0.mod")
	eventually(t, "the other requirement is fetched", func() bool { return h.holds(paths[0] + "mod") })
	h.idle()
	for _, path := range h.world.Paths() {
		if lower := strings.ToLower(path); strings.Contains(lower, "corp.") || strings.Contains(lower, "team") || strings.Contains(lower, "secret") {
			t.Errorf("the upstream gets %s", path)
		}
	}
	if requests := h.code.Requests(); len(requests) > 0 {
		t.Errorf("the code host gets %v", requests)
	}
}

// A reload that makes a module private stops what is predicted of it, also what has begun.
func TestPredictReload(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Predict = true })
	g := newGate(t, h.world, "/a.example/")
	h.world.Add("-- a.example/x@v1.0.0/go.mod --\nmodule a.example/x\nrequire corp.example/lib v1.0.0\n")
	h.world.Add(evil)
	graph(h.world, 1, "require a.example/x v1.0.0\n")
	chain := chainOf(t, g.url)
	h.server.Reload(content.Settings{Upstream: chain, Policy: noPolicy(t), VCS: h.vcs})
	h.ok("graph.example/old/@v/v1.0.0.mod")
	<-g.came // the prediction runs
	h.server.Reload(content.Settings{Upstream: chain, Policy: policyOf(t, "corp.example"), VCS: h.vcs})
	g.release()
	eventually(t, "the prediction ends", func() bool { return h.holds("a.example/x/@v/v1.0.0.mod") })
	h.idle()
	h.wantUnnamed()
	if requests := h.code.Requests(); len(requests) > 0 {
		t.Errorf("the code host gets %v", requests)
	}
	h.server.Reload(content.Settings{Upstream: chain, Policy: policyOf(t, "corp.example,a.example"), VCS: h.vcs})
	if a := h.get("a.example/x/@v/v1.0.0.mod"); a.status == http.StatusOK {
		t.Error("what was predicted of a public module is served for a private one")
	}
}

// A list that leads to the repositories of modules makes predictions clone none of them.
func TestPredictDirect(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Predict = true })
	h.code.Module("lib", lib)
	graph(h.world, 1, "require corp.example/lib v1.0.0\n")
	h.server.Reload(content.Settings{Upstream: chainOf(t, h.world.URL("ok")+",direct"), Policy: noPolicy(t), VCS: h.vcs})
	h.ok("graph.example/old/@v/v1.0.0.mod")
	eventually(t, "the upstream does not have it", func() bool { return h.world.Count("corp.example/lib/@v/v1.0.0.mod") == 1 })
	h.idle()
	if requests := h.code.Requests(); len(requests) > 0 {
		t.Errorf("the code host gets %v", requests)
	}
}

// Predictions that meet a full disk fail, and no client sees it. When there is space again, they are
// requested again.
func TestPredictFullDisk(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 4, "")
	var full *fullDisk
	f := start(t, world, world.URL("ok"), predictingWith(func(c *proxy.Config) {
		full = &fullDisk{Store: c.Content.Store}
		full.on.Store(true)
		c.Content.Store = full
	}))
	f.want("graph.example/old/@v/v1.0.0.mod")
	for _, path := range paths {
		f.want(path + "mod")
	}
	f.want(paths[0] + "info")
	f.want(paths[1] + "info")
	eventually(t, "a prediction has failed", func() bool { return full.refused.Load() > 0 }) // so the other one may be given up
	f.idle()
	for _, path := range paths[2:] {
		if f.holds(path + "info") {
			t.Errorf("%s is stored on a full disk", path+"info")
		}
	}
	full.on.Store(false)
	for _, path := range paths {
		f.want(path + "info")
	}
}

// fullDisk stores no .info of graph.example/2 and graph.example/3 while it is on.
type fullDisk struct {
	storage.Store
	on      atomic.Bool
	refused atomic.Int64
}

func (s *fullDisk) Create(ctx context.Context, info storage.Info, data io.Reader) error {
	if s.on.Load() && (strings.HasSuffix(info.Key, "graph.example/2/@v/v1.0.0.info") || strings.HasSuffix(info.Key, "graph.example/3/@v/v1.0.0.info")) {
		s.refused.Add(1)
		return fmt.Errorf("create %s: %w", info.Key, fullStoreError())
	}
	return s.Store.Create(ctx, info, data)
}

// Without an upstream nothing is predicted, and with one that is dead clients get the same errors.
func TestPredictDead(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 2, "")
	f := start(t, world, world.URL("ok"), predicting())
	f.want("graph.example/old/@v/v1.0.0.mod")
	for _, path := range paths {
		f.want(path + "mod")
	}
	f.idle()
	f.close()
	for _, list := range []string{"off", "http://127.0.0.1:1"} {
		var statuses [2][]int
		for i, predict := range []bool{false, true} {
			o := option{config: func(c *proxy.Config) { c.Predict = predict }}
			o.budget = hurried
			f.open(list, o)
			for _, path := range []string{"graph.example/old/@v/v1.0.0.mod", paths[0] + "mod", paths[0] + "info", paths[1] + "info", paths[0] + "zip", "example.com/hello/@v/list"} {
				statuses[i] = append(statuses[i], f.get(path).status)
			}
			f.idle()
			f.close()
		}
		if !slices.Equal(statuses[0], statuses[1]) {
			t.Errorf("%s: %v without, %v with prediction", list, statuses[0], statuses[1])
		}
	}
}

// The own log gets a record of a predicted module when a client looks it up, and not before.
func TestPredictUnified(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Predict, c.Content.Unified = true, true })
	paths := graph(h.world, 1, "")
	ops := newClient(h)
	client := modsumdb.NewClient(ops)
	h.ok("graph.example/old/@v/v1.0.0.mod")
	eventually(t, "it is predicted", func() bool { return h.holds(paths[0] + "mod") })
	h.idle()
	m := module.Version{Path: "graph.example/0", Version: "v1.0.0"}
	if _, err := h.log.Find(t.Context(), m); err == nil {
		t.Error("the own log has a record that no client has looked up")
	}
	if lines, err := client.Lookup(m.Path, m.Version+"/go.mod"); err != nil || len(lines) != 1 {
		t.Errorf("%q, %v", lines, err)
	}
	if _, err := h.log.Find(t.Context(), m); err != nil {
		t.Error(err)
	}
	h.ok(paths[0] + "mod")
}

// Prediction stores what clients' requests store, and nothing else: so it adds nothing to what a crash,
// a migration, a backup or an older version meets. Only requests of clients are counted.
func TestPredictStores(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 6, "")
	var keys [2][]string
	for i, predict := range []bool{false, true} {
		f := start(t, world, world.URL("ok"), predictingWith(func(c *proxy.Config) { c.Predict = predict }))
		var requests []string
		for _, kind := range []string{"mod", "info", "zip"} {
			for _, path := range append([]string{"graph.example/old/@v/v1.0.0."}, paths...) {
				requests = append(requests, path+kind)
			}
		}
		for _, path := range requests {
			f.want(path)
		}
		f.idle()
		if n := f.metric(t, "assay_cache_requests_total"); int(n) != len(requests) {
			t.Errorf("%v requests are counted, want %d", n, len(requests))
		}
		if predict && f.predicted() == 0 {
			t.Error("nothing was predicted")
		}
		for info, err := range f.store.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			keys[i] = append(keys[i], info.Key)
		}
	}
	if !slices.Equal(keys[0], keys[1]) {
		t.Errorf("stored without prediction: %q\nwith prediction: %q", keys[0], keys[1])
	}
}

// A server that stops does not wait for predictions, and begins no more.
func TestPredictStop(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	graph(world, 4, "")
	g := newGate(t, world, "/graph.example/0/")
	f := start(t, world, g.url, predicting())
	f.want("graph.example/old/@v/v1.0.0.mod")
	<-g.came // it hangs
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := f.server.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// The absence of a file that a prediction asked for first is remembered for an outage as any other, once
// a client has requested it.
func TestPredictOutage(t *testing.T) {
	t.Parallel()
	const path = "gone.example/x/@v/v1.0.0.mod"
	world := newWorld(t)
	graph(world, 1, "require gone.example/x v1.0.0\n")
	var down atomic.Bool
	came, release := make(chan struct{}, 1), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case down.Load():
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		case strings.HasSuffix(r.URL.Path, path):
			came <- struct{}{}
			<-release
		}
		world.ServeHTTP(w, r)
	}))
	defer upstream.Close()
	o := quickly("")
	o.config = func(c *proxy.Config) { c.Predict = true }
	f := start(t, world, upstream.URL+"/ok", o)
	f.want("graph.example/old/@v/v1.0.0.mod")
	<-came // the prediction
	answered := make(chan response)
	go func() { answered <- f.get(path) }()
	eventually(t, "the client joins it", func() bool { return f.objects().Clients == 1 })
	close(release)
	if a := <-answered; a.status != http.StatusNotFound {
		t.Fatalf("%v", a)
	}
	if n := world.Count(path); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
	f.close()
	down.Store(true)
	f.open(upstream.URL+"/ok", o)
	f.wantBridged(path)
}
