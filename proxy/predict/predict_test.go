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

// get requests a path as one client, and returns what is predicted.
func (b *build) get(path string) []string {
	b.t.Helper()
	next, _ := b.p.Next(b.name, parse(b.t, path), b.now)
	return paths(next)
}

// mod requests a go.mod, and returns what is predicted because of it.
func (b *build) mod(path, version, content string) []string {
	b.t.Helper()
	return append(b.get(path+"/@v/"+version+".mod"), b.held(path, version, content)...)
}

// held returns what is predicted because of a go.mod that was predicted, and is held now.
func (b *build) held(path, version, content string) []string {
	b.t.Helper()
	return paths(b.p.AfterMod(b.name, module.Version{Path: path, Version: version}, []byte(content)))
}

func parse(t *testing.T, path string) request.Request {
	t.Helper()
	req, err := request.Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	return req
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

// After the graph, the .info files of the selected versions follow in their order, and after the first
// zip the others in the order of the .info files.
func TestDownload(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for i := range 9 {
		b.want(b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.mod", i)))
	}
	b.want(b.get("m.example/1/@v/v1.2.0.mod")) // the version that is selected
	b.want(b.get("m.example/6/@v/v0.9.0.mod"))
	var infos, zips []string
	for _, i := range []int{4, 7, 0, 1, 2, 3, 5, 6, 8} { // the main module imports two of them
		version := "v1.0.0"
		if i == 1 {
			version = "v1.2.0"
		}
		infos = append(infos, fmt.Sprintf("m.example/%d/@v/%s.info", i, version))
		zips = append(zips, fmt.Sprintf("m.example/%d/@v/%s.zip", i, version))
	}
	b.want(b.get(infos[0])) // go get requests one
	b.want(b.get(infos[1]), infos[8], infos[2], infos[3], infos[4])
	b.want(b.get(infos[2]), infos[5], infos[6], infos[7])
	for _, info := range infos[3:] {
		b.want(b.get(info)) // go list requests no zip
	}
	b.want(b.get(zips[0]), zips[1:5]...)
	b.want(b.get(zips[1]), zips[5:9]...)
	for _, zip := range zips[2:] {
		b.want(b.get(zip))
	}
}

// A file whose fetch failed, as on a full disk, is not predicted again after each request; one that found no
// place is.
func TestFailed(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	var infos, zips []string
	for i := range 6 {
		of := fmt.Sprintf("m.example/%d/@v/v1.0.0.", i)
		b.want(b.get(of + "mod"))
		infos, zips = append(infos, of+"info"), append(zips, of+"zip")
	}
	for _, info := range infos {
		b.get(info)
	}
	b.want(b.get(zips[0]), zips[1:5]...)
	b.p.NotFetched(b.name, parse(t, zips[3]), predict.Failed)
	b.p.NotFetched(b.name, parse(t, zips[4]), predict.NotNow)
	b.want(b.get(zips[1])) // what failed has cost the credit that this one earns
	b.want(b.get(zips[2]), zips[4:]...)
	b.want(b.get(zips[3]))
}

// A build requests zips first, and at the end the .info of each.
func TestBuild(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	var infos []string
	for i := range 9 {
		of := fmt.Sprintf("m.example/%d/@v/v1.0.0.", i)
		b.want(b.get(of+"zip"), of+"mod")
		b.want(b.mod(fmt.Sprintf("m.example/%d", i), "v1.0.0", "module m.example/old\nrequire m.example/test v1.0.0\n"))
		infos = append(infos, of+"info")
	}
	b.want(b.get("golang.org/toolchain/@v/v0.0.1-go1.26.2.linux-amd64.zip")) // no other file of it follows
	b.want(b.get(infos[3]))
	b.want(b.get(infos[1]), infos[0], infos[2], infos[4], infos[5])
	b.want(b.get(infos[0]), infos[6], infos[7], infos[8])
}

// A go.mod that two of the requested ones require, and that is still to come in the order of the paths,
// is predicted with the highest version.
func TestRoots(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	requires := func(of, version string) string {
		return "module m.example/" + of + "\ngo 1.24\nrequire (\n\tm.example/a v1.0.0\n\tm.example/x " + version + "\n\tm.example/" + of + "/one v1.0.0\n)\n"
	}
	b.want(b.mod("m.example/b", "v1.0.0", requires("b", "v1.2.0")))
	b.want(b.mod("m.example/c", "v1.0.0", requires("c", "v1.1.0")), "m.example/x/@v/v1.2.0.mod")
	b.want(b.mod("m.example/d", "v1.0.0", requires("d", "v1.3.0")), "m.example/x/@v/v1.3.0.mod")
	b.want(b.mod("m.example/x", "v1.3.0", requires("z", "v1.4.0")))
	b.want(b.mod("m.example/y", "v1.0.0", requires("z", "v1.0.0")), "m.example/z/one/@v/v1.0.0.mod")
}

// Roots that are not requested where they should follow are predicted no more.
func TestRootsMissed(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	n := 0
	for i := range 100 {
		var mod strings.Builder
		fmt.Fprintf(&mod, "module m.example/%03d\ngo 1.24\n", i)
		for j := range 8 {
			fmt.Fprintf(&mod, "require m.example/%03d/not%d v1.0.0\n", i, j)
			fmt.Fprintf(&mod, "require m.example/%03d/not%d v1.0.0\n", i+1, j)
		}
		n += len(b.mod(fmt.Sprintf("m.example/%03d", i), "v1.0.0", mod.String()))
	}
	if n == 0 || n > 20 {
		t.Errorf("%d wrong predictions in 100 requests", n)
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
	b.want(b.held("m.example/d", "v1.0.0", "module m.example/d\ngo 1.21\nrequire m.example/d2 v1.0.0\n"), "m.example/d2/@v/v1.0.0.mod")
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
	for i := range 1000 {
		fmt.Fprintf(&mod, "\tm.example/%d v1.0.0\n", i)
	}
	mod.WriteString(")\n")
	if n := len(b.mod("m.example/large", "v1.0.0", mod.String())); n == 0 || n > 20 {
		t.Errorf("%d predictions for a client with one request", n)
	}
	n := 0
	for i := range 100 {
		n += len(b.mod("m.example/large", fmt.Sprintf("v1.0.%d", i+1), mod.String()))
	}
	if n > 512 {
		t.Errorf("%d predictions for a client that uses none", n)
	}
	b.name = "192.0.2.2"
	if n := len(b.mod("m.example/large", "v1.0.0", mod.String())); n == 0 {
		t.Error("another client gets none")
	}
}

// Files that were fetched and not requested are counted as wasted, and their kind is given up for a
// while.
func TestWasted(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	old := func(i int) (version, content string) {
		return fmt.Sprintf("v1.0.%d", i), fmt.Sprintf("module m.example/old\nrequire m.example/%d v1.0.0\n", i)
	}
	for i := range 8 {
		version, content := old(i)
		for _, path := range b.mod("m.example/old", version, content) {
			b.p.Fetched(b.name, parse(t, path), 100)
		}
	}
	b.want(b.get("m.example/0/@v/v1.0.0.mod"))
	count := func() predict.Count { return b.p.Stats(b.now)[request.Mod] }
	if got, want := count(), (predict.Count{Predicted: 8, PredictedBytes: 800, Used: 1, UsedBytes: 100}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for range 2 { // it is not idle
		b.now = b.now.Add(20 * time.Second)
		b.get("m.example/@latest")
	}
	if got, want := count(), (predict.Count{Predicted: 8, PredictedBytes: 800, Used: 1, UsedBytes: 100, Wasted: 7, WastedBytes: 700}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	version, content := old(20)
	b.want(b.mod("m.example/old", version, content))
	b.now = b.now.Add(20 * time.Second)
	version, content = old(21)
	b.want(b.mod("m.example/old", version, content), "m.example/20/@v/v1.0.0.mod", "m.example/21/@v/v1.0.0.mod")
}

// While much was fetched and not requested, no zip is predicted.
func TestUnusedBytes(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for _, kind := range []string{"mod", "info"} {
		for i := range 9 {
			b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.%s", i, kind))
		}
	}
	next := b.get("m.example/0/@v/v1.0.0.zip")
	for _, path := range next {
		b.p.Fetched(b.name, parse(t, path), predict.MaxZip/2)
	}
	if len(next) < 3 {
		t.Fatalf("predicted %q", next)
	}
	b.want(b.get(next[0]))
	b.want(b.get("m.example/8/@v/v1.0.0.zip")) // the others are as large as the limit
	b.get(next[1])
	if b.get(next[2]); b.p.Stats(b.now)[request.Zip].Used != 3 {
		t.Errorf("%+v", b.p.Stats(b.now)[request.Zip])
	}
}

// A client is forgotten after a while, and any number of clients takes little memory.
func TestClients(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	b.get("m.example/@v/list")
	b.now = b.now.Add(time.Minute)
	for _, m := range []string{"a", "b", "c"} {
		b.get("m.example/" + m + "/@v/v1.0.0.mod")
	}
	b.want(b.get("m.example/a/@v/v1.0.0.info"))
	b.want(b.get("m.example/b/@v/v1.0.0.info"), "m.example/c/@v/v1.0.0.info")
	large := b.name
	for i := range 1000 {
		b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.mod", i))
	}
	for i := range 1000 {
		b.name = fmt.Sprint("client ", i)
		b.get("m.example/a/@v/v1.0.0.mod")
	}
	if n := b.p.Clients(); n > 100 {
		t.Errorf("%d clients are remembered", n)
	}
	if b.p.Knows(large) {
		t.Error("the client without a request for longest is not forgotten first")
	}
	for j := range 300 {
		for i := range 50 {
			b.name = fmt.Sprint("large ", i)
			b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.mod", j))
			if n := b.p.Entries(); n > 24000 {
				t.Fatalf("%d entries are remembered", n)
			}
		}
	}
	b.now = b.now.Add(time.Minute)
	b.p.Stats(b.now)
	if n := b.p.Entries(); n != 0 || b.p.Clients() != 0 {
		t.Errorf("%d entries of %d clients after a minute", n, b.p.Clients())
	}
}

// What cannot be fetched is wasted, and what is held is not looked for again.
func TestNotFetched(t *testing.T) {
	t.Parallel()
	for why, most := range map[predict.Reason]int{predict.Failed: 70, predict.Held: 1000, predict.NotNow: 4000} {
		b := newBuild(t)
		var mod strings.Builder
		mod.WriteString("module m.example/large\n\nrequire (\n")
		for i := range 1000 {
			fmt.Fprintf(&mod, "\tm.example/%d v1.0.0\n", i)
		}
		mod.WriteString(")\n")
		n := 0
		give := func(paths []string) {
			n += len(paths)
			for _, path := range paths {
				b.p.NotFetched(b.name, parse(t, path), why)
			}
		}
		give(b.mod("m.example/large", "v1.0.0", mod.String()))
		for i := range 200 {
			give(b.get(fmt.Sprintf("other.example/%d/@v/v1.0.0.mod", i)))
		}
		if n < 16 || n > most {
			t.Errorf("%d predictions, want 16 to %d (reason %d)", n, most, why)
		}
	}
	b := newBuild(t)
	for i := range 9 {
		b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.mod", i))
	}
	b.get("m.example/0/@v/v1.0.0.info")
	next := b.get("m.example/1/@v/v1.0.0.info")
	for i, path := range next {
		b.p.NotFetched(b.name, parse(t, path), []predict.Reason{predict.Held, predict.NotNow}[i%2])
	}
	again := b.get("m.example/8/@v/v1.0.0.info")
	for i, path := range next {
		if slices.Contains(again, path) != (i%2 == 1) {
			t.Errorf("%s is number %d, and %q follow", path, i, again)
		}
	}
}

// A site at which builds never pause, and a client with long names, take no more memory than others,
// and a site that requests much for long still gets predictions.
func TestLasting(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	long := strings.Repeat("x", 1500)
	for i := range 100 {
		b.want(b.get(fmt.Sprintf("m.example/%s/%d/@v/v1.0.0.mod", long, i)))
		b.want(b.get(fmt.Sprintf("m.example/%s/%d/@v/v1.0.0.zip", long, i)))
	}
	if n := b.p.Entries(); n != 0 {
		t.Errorf("%d entries for long names", n)
	}
	for i := range 100 { // each go.mod is of another kind, so that all lists grow
		b.mod(fmt.Sprintf("m.example/%d", i), "v1.0.0", requiring(i, 200, "go 1.24"))
		b.mod(fmt.Sprintf("m.example/%d", i), "v1.1.0", requiring(i+1000, 200, "go 1.12"))
	}
	if n := b.p.Entries(); n > 4100 {
		t.Errorf("%d entries of one client", n)
	}
	for range 60 {
		b.now = b.now.Add(11 * time.Second)
		b.get("m.example/0/@v/list")
	}
	b.want(b.mod("m.example/fresh", "v1.0.0", "module m.example/fresh\nrequire m.example/f v1.0.0\n"), "m.example/f/@v/v1.0.0.mod")
}

// requiring returns a go.mod that requires n modules of its own.
func requiring(of, n int, line string) string {
	var mod strings.Builder
	fmt.Fprintf(&mod, "module m.example/%d\n%s\n", of, line)
	for i := range n {
		fmt.Fprintf(&mod, "require m.example/%d/%d v1.0.0\n", of, i)
	}
	return mod.String()
}
