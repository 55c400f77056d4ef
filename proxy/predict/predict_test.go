package predict_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/request"
)

// build requests files as one client, and returns what is predicted after each.
type build struct {
	t    *testing.T
	p    *predict.Predictor
	name string
	now  time.Time
}

func newBuild(t *testing.T) *build {
	return &build{t, predict.New(), "192.0.2.1", time.Unix(1e9, 0)}
}

func (b *build) get(path string) (next []string) {
	b.t.Helper()
	req, err := request.Parse(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return paths(b.p.Next(b.name, req, b.now))
}

func (b *build) mod(path, version, content string) (next []string) {
	b.t.Helper()
	b.get(path + "/@v/" + version + ".mod")
	return paths(b.p.AfterMod(b.name, module.Version{Path: path, Version: version}, []byte(content), b.now))
}

func paths(all []request.Request) (next []string) {
	for _, req := range all {
		next = append(next, req.Path())
	}
	return next
}

func (b *build) want(got []string, want ...string) {
	b.t.Helper()
	if !slices.Equal(got, want) {
		b.t.Errorf("predicted %q, want %q", got, want)
	}
}

// After the graph, the .info files of the selected versions follow in their order, then the zips.
func TestDownload(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for i := range 9 {
		b.want(b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.mod", i)))
	}
	b.want(b.get("m.example/1/@v/v1.2.0.mod")) // the version that is selected
	b.want(b.get("m.example/6/@v/v0.9.0.mod"))
	var rest []string
	for i := 1; i < 9; i++ {
		version := "v1.0.0"
		if i == 1 {
			version = "v1.2.0"
		}
		rest = append(rest, fmt.Sprintf("m.example/%d/@v/%s.info", i, version))
	}
	b.want(b.get("m.example/0/@v/v1.0.0.info"), rest...)
	b.want(b.get(rest[0]))
	b.want(b.get(rest[1]))
	zips := []string{"m.example/0/@v/v1.0.0.zip"}
	for _, info := range rest {
		zips = append(zips, strings.TrimSuffix(info, "info")+"zip")
	}
	b.want(b.get(rest[2]), zips[:4]...)
	for i, info := range rest[3:7] {
		b.want(b.get(info), zips[4+i])
	}
	b.want(b.get(zips[0])) // the client has not requested the .info of the last one
	b.want(b.get(rest[7]), zips[8])
	if got := b.p.Stats(); got.Predicted != 17 || got.Used != 9 {
		t.Errorf("%+v", got)
	}
}

// A go.mod of a version before go 1.17 leads to all that it requires, and to what that requires.
func TestGraph(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	const requires = "\nrequire (\n\tm.example/b v1.0.0\n\tm.example/c v1.0.0\n)\n"
	b.want(b.mod("m.example/new", "v1.0.0", "module m.example/new\ngo 1.17\n"+requires))
	b.get("m.example/c/@v/v1.0.0.mod")
	b.want(b.mod("m.example/old", "v1.0.0", "module m.example/old\ngo 1.16\n"+requires), "m.example/b/@v/v1.0.0.mod")
	b.want(b.mod("m.example/b", "v1.0.0", "module m.example/b\ngo 1.21\nrequire m.example/d v1.0.0\n"), "m.example/d/@v/v1.0.0.mod")
	b.want(b.mod("m.example/none", "v1.0.0", "module m.example/none\nrequire m.example/e v1.0.0\n"), "m.example/e/@v/v1.0.0.mod")
	b.want(b.mod("m.example/broken", "v1.0.0", "module \x00"))
	// The author of a go.mod chooses what it requires, and predictions are paths of requests.
	for i, require := range []string{`"../../etc/passwd"`, "x.example/../y", "x.example//y", "/etc/passwd", `"m.example/a b"`, `"m.example/\x00"`, "x.example/@v/y"} {
		b.want(b.mod("m.example/hostile", fmt.Sprintf("v1.0.%d", i), "module m.example/hostile\nrequire "+require+" v1.0.0\n"))
	}
}

// go list -m -u and go get request lists: no zip follows.
func TestList(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for i := range 9 {
		b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.mod", i))
	}
	b.get("m.example/0/@v/v1.0.0.info")
	b.get("m.example/0/@v/list")
	for i := range 9 {
		for _, path := range b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.info", i)) {
			t.Errorf("predicted %s", path)
		}
	}
	b.want(b.get("other.example/@v/v1.0.0.info")) // not of a graph
}

// A client that requests nothing of what was predicted gets no more predictions, and one that
// predicts much takes nothing from others.
func TestUnused(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	var mod strings.Builder
	mod.WriteString("module m.example/large\n\nrequire (\n")
	for i := range 3000 {
		fmt.Fprintf(&mod, "\tm.example/%d v1.0.0\n", i)
	}
	mod.WriteString(")\n")
	n := len(b.mod("m.example/large", "v1.0.0", mod.String()))
	for i := range 100 {
		n += len(b.mod("m.example/large", fmt.Sprintf("v1.0.%d", i+1), mod.String()))
	}
	if n > 96 {
		t.Errorf("%d predictions for a client that uses none", n)
	}
	b.name = "192.0.2.2"
	if n := len(b.mod("m.example/large", "v1.0.0", mod.String())); n == 0 {
		t.Error("another client gets none")
	}
}

// A client is forgotten after a while, and any number of clients takes little memory.
func TestClients(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	b.get("m.example/@v/list")
	b.now = b.now.Add(time.Minute)
	b.get("m.example/a/@v/v1.0.0.mod")
	b.get("m.example/b/@v/v1.0.0.mod")
	b.want(b.get("m.example/a/@v/v1.0.0.info"), "m.example/b/@v/v1.0.0.info")
	for i := range 1000 {
		b.name = fmt.Sprint("client ", i)
		b.get("m.example/a/@v/v1.0.0.mod")
	}
	if n := b.p.Clients(); n > 100 {
		t.Errorf("%d clients are remembered", n)
	}
}
