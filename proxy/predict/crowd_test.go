package predict_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/request"
)

// download requests the files of a module graph as go mod download does, of which the first go.mod leads to n
// others. It calls between before each request, and returns how many files were predicted before they
// were requested. What is predicted is fetched at once.
func (b *build) download(of string, n int, between func()) (begun int) {
	b.t.Helper()
	var mod strings.Builder
	fmt.Fprintf(&mod, "module %s/old\n", of)
	paths := []string{of + "/old/@v/v1.0.0."}
	for i := range n {
		fmt.Fprintf(&mod, "require %s/%03d v1.0.0\n", of, i)
		paths = append(paths, fmt.Sprintf("%s/%03d/@v/v1.0.0.", of, i))
	}
	known := map[string]bool{}
	fetch := func(next []string) {
		for _, path := range next {
			known[path] = true
			b.p.Fetched(b.name, parse(b.t, path), 1000)
		}
	}
	for _, kind := range []string{"mod", "info", "zip"} {
		for i, path := range paths {
			between()
			if known[path+kind] {
				begun++
			}
			fetch(b.get(path + kind))
			if i == 0 && kind == "mod" {
				fetch(b.held(of+"/old", "v1.0.0", mod.String()))
			}
		}
	}
	return begun
}

// A party with any number of addresses makes no client forgotten whose predictions are of use, and a client
// that comes meanwhile soon gets predictions, too. The limits hold.
func TestCrowd(t *testing.T) {
	t.Parallel()
	for name, hostile := range map[string]struct {
		parties int // between two requests of the honest client
		request func(b *build)
	}{
		"one request": {10, func(b *build) { b.get("hostile.example/@latest") }},
		"a go.mod":    {10, func(b *build) { b.get("hostile.example/a/@v/v1.0.0.mod") }},
		"a go.mod with 120 requirements": {2, func(b *build) {
			for _, path := range b.mod("hostile.example/a", "v1.0.0", requiring(0, 120, "")) {
				b.p.Fetched(b.name, parse(b.t, path), 1000)
			}
		}},
		"large ones": {1, func(b *build) { b.mod("hostile.example/a", "v1.0.0", requiring(0, 300, "")) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBuild(t)
			const modules = 80 // more than a client may have that has earned nothing
			quiet := newBuild(t).download("quiet.example", modules, func() {})
			hostiles := 0
			crowd := func() {
				honest := b.name
				for range hostile.parties {
					b.name = fmt.Sprintf("2001:db8:%x::/48", hostiles%1000)
					hostiles++
					hostile.request(b)
				}
				b.name = honest
				b.now = b.now.Add(20 * time.Millisecond)
				if b.p.Clients() > 100 || b.p.Entries() > 24000 {
					t.Fatalf("%d entries of %d clients", b.p.Entries(), b.p.Clients())
				}
			}
			for range 100 {
				crowd()
			}
			for i := range 3 {
				b.name = fmt.Sprintf("192.0.2.%d", i)
				if n := b.download(fmt.Sprintf("m%d.example", i), modules, crowd); n < quiet*9/10 {
					t.Errorf("client %d: %d files were predicted, and %d without the others", i, n, quiet)
				}
			}
			if err := b.p.Consistent(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Zips that a crowd does not use leave bytes for the zips of others.
func TestCrowdBytes(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for i := range 100 {
		b.name = fmt.Sprintf("2001:db8:%x::/48", i)
		for _, kind := range []string{"mod", "info"} {
			for j := range 9 {
				b.get(fmt.Sprintf("hostile.example/%d/@v/v1.0.%d.%s", j, i, kind))
			}
		}
		for _, path := range b.get(fmt.Sprintf("hostile.example/0/@v/v1.0.%d.zip", i)) {
			if most := b.p.MaxZip(b.name); most > 0 {
				b.p.Fetched(b.name, parse(t, path), most)
			}
		}
		if n := b.p.Unused(); n > 256<<20 {
			t.Fatalf("%d bytes are unused", n)
		}
	}
	t.Logf("%d bytes are unused", b.p.Unused())
	b.name = "192.0.2.1"
	if n, quiet := b.download("m.example", 20, func() {}), newBuild(t).download("m.example", 20, func() {}); n != quiet {
		t.Errorf("%d files were predicted, want %d", n, quiet)
	}
	if err := b.p.Consistent(); err != nil {
		t.Error(err)
	}
}

// Whatever clients request, and whatever becomes of predictions, the counts agree.
func TestConsistent(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	b := newBuild(t)
	type pending struct {
		name, path string
		fetch      *predict.Fetch
	}
	var running []pending
	kinds := []string{"mod", "mod", "info", "zip"}
	for range 4_000 {
		b.name = fmt.Sprint("client ", r.IntN(130))
		if r.IntN(200) == 0 {
			b.now = b.now.Add(time.Duration(r.IntN(20)) * time.Second)
		}
		n := r.IntN(300)
		path, version := fmt.Sprintf("m.example/%d", n), fmt.Sprintf("v1.0.%d", r.IntN(3))
		kind := kinds[r.IntN(len(kinds))]
		if len(running) > 0 && r.IntN(2) == 0 { // a client requests what was predicted
			from := running[r.IntN(len(running))]
			b.name = from.name
			b.get(from.path)
		}
		next := b.get(path + "/@v/" + version + "." + kind)
		if kind == "mod" {
			next = append(next, b.held(path, version, requiring(n, r.IntN(100), []string{"", "go 1.20"}[r.IntN(2)]))...)
		}
		for _, path := range next {
			if fetch := b.p.Begin(b.name, parse(t, path)); fetch != nil {
				running = append(running, pending{b.name, path, fetch})
			}
		}
		for range min(len(running), 3) {
			running[r.IntN(len(running))].fetch.Take(int64(r.IntN(8 << 20)))
			if b.p.Unused() > 256<<20 {
				t.Fatalf("%d bytes are unused", b.p.Unused())
			}
		}
		for len(running) > 200 || len(running) > 0 && r.IntN(3) == 0 {
			i := r.IntN(len(running))
			if size := int64(r.IntN(1 << 20)); r.IntN(3) > 0 {
				running[i].fetch.Take(size)
				running[i].fetch.Fetched(size)
			} else {
				running[i].fetch.NotFetched([]predict.Reason{predict.NotNow, predict.Held, predict.Failed}[r.IntN(3)])
			}
			running[i] = running[len(running)-1]
			running = running[:len(running)-1]
		}
		if r.IntN(500) == 0 {
			var fetches []*predict.Fetch
			for _, of := range running {
				fetches = append(fetches, of.fetch)
			}
			if err := b.p.Consistent(fetches...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, of := range running {
		of.fetch.NotFetched(predict.NotNow)
	}
	b.p.Stats(b.now)
	if err := b.p.Consistent(); err != nil {
		t.Error(err)
	}
	var used, wasted int64
	for _, kind := range []request.Kind{request.Info, request.Mod, request.Zip} {
		of := b.p.Stats(b.now)[kind]
		used, wasted = used+of.Used, wasted+of.Wasted
	}
	if used == 0 || wasted == 0 {
		t.Errorf("%d used, %d wasted", used, wasted)
	}
	b.p.Stats(b.now.Add(time.Hour))
	if b.p.Unused() != 0 || b.p.Entries() != 0 {
		t.Errorf("%d bytes are unused, %d entries are left", b.p.Unused(), b.p.Entries())
	}
}

// A client of which as much is remembered as may be still uses what was predicted for it.
func TestFullUses(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	next := b.mod("m.example/a", "v1.0.0", requiring(0, 2100, ""))
	b.mod("m.example/b", "v1.0.0", requiring(1, 300, ""))
	if n := b.p.Entries(); n < 3990 || len(next) == 0 {
		t.Fatalf("%d entries, %q predicted", n, next)
	}
	for _, path := range next {
		b.p.Fetched(b.name, parse(t, path), 100)
		b.get(path)
	}
	if of := b.p.Stats(b.now)[request.Mod]; of.Used != int64(len(next)) {
		t.Errorf("%+v, want %d used", of, len(next))
	}
}

// Clients that have left take no bytes from others, and no place among them, also if nothing asks for the
// counts and there are few clients.
func TestLeft(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	zips := func() []string { // of go mod download, until the first zip
		for _, kind := range []string{"mod", "info"} {
			for i := range 9 {
				b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.%s", i, kind))
			}
		}
		return b.get("m.example/0/@v/v1.0.0.zip")
	}
	for i := range 20 {
		b.name = fmt.Sprintf("2001:db8:%x::/48", i)
		b.p.Fetched(b.name, parse(t, zips()[0]), b.p.MaxZip(b.name))
	}
	b.now = b.now.Add(time.Minute)
	b.name = "192.0.2.1"
	if next := zips(); len(next) == 0 || b.p.MaxZip(b.name) != predict.MaxZip {
		t.Errorf("%q are predicted, of at most %d bytes", next, b.p.MaxZip(b.name))
	}
	if n := b.p.Unused(); n != 0 || b.p.Clients() != 1 {
		t.Errorf("%d bytes of clients that have left count, and %d clients", n, b.p.Clients())
	}
	if err := b.p.Consistent(); err != nil {
		t.Error(err)
	}
}

// What a client has left unused counts for no longer than it is of use, also if it requests nothing any more
// and others do.
func TestLeftFiles(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for _, path := range b.mod("m.example/a", "v1.0.0", requiring(0, 10, "")) {
		b.p.Fetched(b.name, parse(t, path), 1000)
	}
	if b.p.Unused() != 10_000 {
		t.Errorf("%d bytes are unused", b.p.Unused())
	}
	b.now = b.now.Add(20 * time.Second)
	b.get("m.example/@latest") // it is not idle
	b.now = b.now.Add(20 * time.Second)
	b.name = "192.0.2.2"
	b.get("m.example/@latest")
	if b.p.Unused() != 0 || b.p.Clients() != 2 {
		t.Errorf("%d bytes are unused, %d clients", b.p.Unused(), b.p.Clients())
	}
}
