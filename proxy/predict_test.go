package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
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

// What the go command requests next is a hit, and nothing is fetched twice or in vain.
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
	held("info", paths...)
	if n := world.Count(paths[0] + "zip"); n != 0 {
		t.Error("a zip is fetched, and go list would not request it")
	}
	for _, path := range paths[1:] {
		f.want(path + "info")
	}
	held("zip", paths...)
	for _, path := range paths {
		f.want(path + "zip")
		for _, kind := range []string{"mod", "info", "zip"} {
			if n := world.Count(path + kind); n != 1 {
				t.Errorf("%s is fetched %d times", path+kind, n)
			}
		}
	}
}

// A public go.mod that requires a private module, or one that is not there, changes nothing: the
// private name is sent to no upstream and no host.
func TestPredictPrivate(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Predict = true })
	paths := graph(h.world, 1, "require corp.example/lib v1.0.0\nrequire gone.example/x v1.0.0\n")
	before := len(h.code.Requests())
	h.ok("graph.example/old/@v/v1.0.0.mod")
	eventually(t, "the other requirement is fetched", func() bool { return h.world.Count(paths[0]+"mod") == 1 })
	time.Sleep(100 * time.Millisecond) // nothing more may happen
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
			world := newWorld(t)
			paths := graph(world, 2, "")
			f := start(t, world, world.URL("ok"), c.o)
			if c.prefix != "" {
				f.get(c.prefix + "graph.example/old/@v/v1.0.0.mod") // not held
			} else {
				f.want("graph.example/old/@v/v1.0.0.mod")
			}
			time.Sleep(100 * time.Millisecond) // nothing more may happen
			if n := world.Count(paths[0] + "mod"); n != 0 {
				t.Errorf("%d requests for what is required", n)
			}
		})
	}
}
