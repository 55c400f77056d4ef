package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// predicting is verified with prediction.
func predicting() option {
	o := verified()
	o.config = func(c *proxy.Config) { c.Predict = true }
	return o
}

// graph adds modules of a graph to a world: n small ones, and one before go 1.17 that requires them
// and more.
func graph(world *proxytest.World, n int, more string) (paths []string) {
	var archive, requires strings.Builder
	for i := range n {
		path := fmt.Sprintf("graph.example/%d", i)
		fmt.Fprintf(&archive, "-- %s@v1.0.0/go.mod --\nmodule %s\n-- %s@v1.0.0/a.go --\npackage a\n", path, path, path)
		fmt.Fprintf(&requires, "require %s v1.0.0\n", path)
		paths = append(paths, path+"/@v/v1.0.0.")
	}
	fmt.Fprintf(&archive, "-- graph.example/old@v1.0.0/go.mod --\nmodule graph.example/old\ngo 1.16\n%s%s", requires.String(), more)
	world.Add(archive.String())
	return paths
}

// What the go command requests next is a hit, and nothing is fetched twice, or without need.
func TestPredict(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 6, "")
	f := start(t, world, world.URL("ok"), predicting())
	f.want("graph.example/old/@v/v1.0.0.mod")
	held := func(kind string, paths ...string) {
		t.Helper()
		for _, path := range paths {
			eventually(t, path+kind+" is fetched", func() bool { return f.holds(path + kind) })
		}
	}
	held("mod", paths...)
	for _, path := range paths {
		f.want(path + "mod")
	}
	f.want(paths[0] + "info")
	f.want(paths[1] + "info")
	held("info", paths...)
	for _, path := range paths[2:] {
		f.want(path + "info")
	}
	if n := world.Count("graph.example/*zip"); n != 0 || world.Count(paths[0]+"zip") != 0 {
		t.Error("a zip is fetched, and go list would not request it")
	}
	f.want(paths[0] + "zip")
	held("zip", paths[:5]...)
	for _, path := range paths {
		f.want(path + "zip")
		for _, kind := range []string{"mod", "info", "zip"} {
			if n := world.Count(path + kind); n != 1 {
				t.Errorf("%s is fetched %d times", path+kind, n)
			}
		}
	}
}

// What a filled go.mod leads to is fetched before the client requests that go.mod, also through one that
// is held.
func TestPredictChain(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	for i := range 12 {
		world.Add(fmt.Sprintf("-- chain.example/%d@v1.0.0/go.mod --\nmodule chain.example/%d\nrequire chain.example/%d v1.0.0\n", i, i, i+1))
	}
	f := start(t, world, world.URL("ok"), predicting())
	f.prefetch("chain.example/5/@v/v1.0.0.mod")
	f.prefetch("chain.example/6/@v/v1.0.0.mod")
	for _, i := range []int{5, 6} {
		eventually(t, "it is held", func() bool { return f.holds(fmt.Sprintf("chain.example/%d/@v/v1.0.0.mod", i)) })
	}
	f.want("chain.example/0/@v/v1.0.0.mod")
	eventually(t, "the end of the chain is fetched", func() bool { return f.holds("chain.example/11/@v/v1.0.0.mod") })
}

// A go.mod with 100,000 requirements, and a client that leaves, hold no place that another client needs.
func TestPredictPlaces(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	var large, many strings.Builder
	large.WriteString("-- graph.example/large@v1.0.0/go.mod --\nmodule graph.example/large\nrequire (\n")
	many.WriteString("-- graph.example/many@v1.0.0/go.mod --\nmodule graph.example/many\nrequire (\n")
	for i := range 100_000 {
		fmt.Fprintf(&large, "\tlarge.example/%06d v1.0.0 // %s\n", i, strings.Repeat("x", 130))
		if i < 1000 {
			fmt.Fprintf(&many, "\tmany.example/%06d v1.0.0\n", i)
		}
	}
	world.Add(large.String() + ")\n")
	world.Add(many.String() + ")\n")
	g := newGate(t, world, "/many.example/")
	o := predicting()
	o.config = func(c *proxy.Config) { c.Predict, c.Content.Fills.Objects = true, 8 }
	f := start(t, world, g.url, o)
	if size := len(f.want("graph.example/large/@v/v1.0.0.mod").body); size < 15<<20 {
		t.Errorf("the go.mod has %d bytes", size)
	}
	f.want("graph.example/many/@v/v1.0.0.mod")
	for range 4 {
		<-g.came // half of the places are for predictions
	}
	for _, version := range []string{"v1.0.0", "v1.1.0"} {
		for _, kind := range []string{"info", "mod"} {
			f.want("example.com/hello/@v/" + version + "." + kind)
		}
	}
	if stats := f.objects(); stats.Abandoned != 0 || stats.Running != 4 {
		t.Errorf("%+v, want 4 running, and none that had to yield", stats)
	}
	g.release()
	eventually(t, "the predictions end", func() bool { return f.objects().Running == 0 })
	if n := world.Count("large.example/*"); n != 0 {
		t.Errorf("%d requests because of the large go.mod", n)
	}
	if n := world.Count("many.example/*"); n > 20 {
		t.Errorf("%d requests because of one client that has left", n)
	}
}

// A large zip that no client has requested is not downloaded.
func TestPredictLargeZip(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 3, "")
	f := start(t, world, world.URL("ok"), predicting())
	f.want("graph.example/old/@v/v1.0.0.mod")
	for _, kind := range []string{"mod", "info"} {
		for _, path := range paths {
			f.want(path + kind)
		}
	}
	world.AddRaw(module.Version{Path: "graph.example/1", Version: "v1.0.0"}, world.File(paths[1]+"info"), world.File(paths[1]+"mod"), make([]byte, predict.MaxZip+1))
	f.want(paths[0] + "zip")
	eventually(t, "the other zip is fetched", func() bool { return f.holds(paths[2] + "zip") })
	eventually(t, "the large one is given up", func() bool {
		return world.Count(paths[1]+"zip") == 1 && f.server.Content().Places()["zips"].Stats().Abandoned == 1
	})
}

// A public go.mod that requires a private module, or one that is not there, changes nothing: the
// private name is sent to no upstream and no host.
func TestPredictPrivate(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Predict = true })
	paths := graph(h.world, 1, "require corp.example/lib v1.0.0\nrequire gone.example/x v1.0.0\n")
	before := len(h.code.Requests())
	h.ok("graph.example/old/@v/v1.0.0.mod")
	eventually(t, "the others are requested", func() bool { // in their order
		return h.world.Count(paths[0]+"mod") == 1 && h.world.Count("gone.example/x/@v/v1.0.0.mod") == 1
	})
	h.idle()
	if n := h.world.Count("corp.example/lib/@v/v1.0.0.mod"); n != 0 {
		t.Error("the upstream gets a private name")
	}
	if after := h.code.Requests(); len(after) > before {
		t.Errorf("the code host gets %v", after[before:])
	}
}

// Without the setting, for requests that must not cause a fetch, and for a client that requests
// lists, nothing is predicted.
func TestPredictNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o      option
		prefix string
	}{
		"off":         {o: verified()},
		"cached only": {predicting(), "cached-only/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world, other := newWorld(t), newWorld(t)
			paths := graph(world, 2, "")
			graph(other, 2, "")
			const path = "graph.example/old/@v/v1.0.0.mod"
			f := start(t, world, world.URL("ok"), verified())
			f.want(path)
			f.close()
			f.open(world.URL("ok"), c.o)
			if a := f.get(c.prefix + path); a.status != http.StatusOK { // it is held
				t.Fatalf("%v", a)
			}
			predicts := start(t, other, other.URL("ok"), predicting())
			predicts.want(path)
			eventually(t, "another one predicts", func() bool { return predicts.holds(paths[0]+"mod") && predicts.holds(paths[1]+"mod") })
			f.idle()
			if n := world.Count(paths[0] + "mod"); n != 0 {
				t.Errorf("%d requests for what is required", n)
			}
		})
	}
}
