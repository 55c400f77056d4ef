package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/policy"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// Every file of the protocol, as the go command asks for it.
func TestProtocol(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range []string{
		"example.com/hello/@v/v1.0.0.info", "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip",
		"example.com/hello/@v/v0.0.0-20200101000000-abcdefabcdef.info", "example.com/hello/@v/v0.0.0-20200101000000-abcdefabcdef.zip",
		"example.com/old/@v/v2.0.0+incompatible.mod", "example.com/old/@v/v2.0.0+incompatible.zip",
		"example.com/!upper/@v/v1.0.0-!r!c.1.mod", "example.com/!upper/@v/v1.0.0-!r!c.1.zip",
		"example.com/major/v2/@v/v2.3.4.info", "golang.org/toolchain/@v/v0.0.1-go1.99.0.linux-amd64.zip",
	} {
		first := f.want(path)
		if got := first.header.Get("Cache-Status"); got != "assay; fwd=miss; stored" {
			t.Errorf("first GET %s: Cache-Status %q", path, got)
		}
		again := f.want(path)
		if got := again.header.Get("Cache-Status"); got != "assay; hit" {
			t.Errorf("second GET %s: Cache-Status %q", path, got)
		}
		if n := world.Count(path); n != 1 {
			t.Errorf("%s was fetched %d times, want once", path, n)
		}
		for name, want := range map[string]string{
			"Cache-Control": "public, max-age=31536000, immutable", "Content-Length": strconv.Itoa(len(first.body)), "Accept-Ranges": "bytes",
		} {
			if got := again.header.Get(name); got != want {
				t.Errorf("GET %s: %s is %q, want %q", path, name, got, want)
			}
		}
		if tag := again.header.Get("Etag"); !strings.HasPrefix(tag, `"h1:`) && !strings.HasSuffix(path, ".info") {
			t.Errorf("GET %s: ETag %q is not the h1 hash", path, tag)
		}
		if a := f.get(path, "If-None-Match", again.header.Get("Etag")); a.status != http.StatusNotModified || len(a.body) != 0 {
			t.Errorf("GET %s with its ETag = %v, want 304", path, a)
		}
		if a := f.do(http.MethodHead, path); a.status != 200 || len(a.body) != 0 || a.header.Get("Content-Length") != strconv.Itoa(len(first.body)) {
			t.Errorf("HEAD %s = %v %v", path, a, a.header)
		}
		if a := f.get(path, "Range", "bytes=3-9"); a.status != http.StatusPartialContent || !bytes.Equal(a.body, first.body[3:10]) {
			t.Errorf("GET %s bytes 3-9 = %v", path, a)
		}
	}
}

// Percent-escapes, also of the exclamation mark, name the same object.
func TestSpellings(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	want := f.want("example.com/!upper/@v/v1.0.0-!r!c.1.mod")
	for _, path := range []string{"example.com/%21upper/@v/v1.0.0-%21r%21c.1.mod", "example.com/!upper/%40v/v1.0.0-!r!c.1.mod", "cached-only/example.com/%21upper/@v/v1.0.0-!r!c.1.mod"} {
		if a := f.get(path); a.status != 200 || !bytes.Equal(a.body, want.body) {
			t.Errorf("GET %s = %v", path, a)
		}
	}
	f.want("example.com/old/@v/v2.0.0+incompatible.mod")
	if a := f.get("example.com/old/@v/v2.0.0%2Bincompatible.mod"); a.status != 200 {
		t.Errorf("with %%2B: %v", a)
	}
	if n := world.Count("example.com/!upper/*"); n != 1 {
		t.Errorf("%d requests upstream, want 1: %q", n, world.Paths())
	}
}

func TestMalformedPathsStayHere(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range []string{
		"example.com/Upper/@v/list", "example.com/hello/@v/v1.0.zip", "example.com/hello/@v/feature/x.info", "favicon.ico",
		"example.com/hello/@v/v2.0.0.mod", "example.com/%2e%2e/@v/list", "sumdb/" + "sum.test.example/lookup/example.com/hello", "%00/@v/list",
	} {
		f.wantStatus(path, http.StatusNotFound, "malformed path")
	}
	if n := world.Count("*"); n != 0 {
		t.Errorf("%d requests upstream: %q", n, world.Paths())
	}
	if a := f.do(http.MethodPost, "example.com/hello/@v/list"); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST = %v %v", a, a.header)
	}
}

// Origin and whatever else is in an info goes through as it came.
func TestInfoVerbatim(t *testing.T) {
	world := newWorld(t)
	const path = "example.com/hello/@v/v1.0.0.info"
	world.Set(path, []byte(`{ "Version":"v1.0.0", "Time":"2020-01-02T03:04:05Z", "Origin":{"VCS":"git","URL":"https://example.com/hello","Hash":"abc","Ref":"refs/tags/v1.0.0"}, "More":1 }`))
	f := start(t, world, world.URL("ok"), verified())
	f.want(path)
	f.want(path)
}

// What an upstream says, and what the client is told: the decision table.
func TestStatuses(t *testing.T) {
	for _, tt := range []struct {
		fault, path string
		status      int
		text        string
	}{
		{"ok", "example.com/none/@v/v1.0.0.mod", 404, "not found"},
		{"ok", "example.com/none/@v/list", 404, "not found"},
		{"ok", "example.com/none/@latest", 404, "not found"},
		{"410", "example.com/hello/@v/v1.0.0.info", 404, "not found"},
		{"503", "example.com/hello/@v/v1.0.0.info", 502, "the upstream says 503"},
		{"503", "example.com/hello/@v/list", 502, "an upstream failed"},
		{"500", "example.com/hello/@latest", 502, "an upstream failed"},
		{"403", "example.com/hello/@v/v1.0.0.zip", 502, "an upstream failed"},
		{"reset", "example.com/hello/@v/v1.0.0.mod", 502, "an upstream failed"},
		{"429", "example.com/hello/@v/v1.0.0.mod", 503, "limits our requests"},
		{"hang", "example.com/hello/@v/v1.0.0.mod", 504, "timeout"},
		{"hang", "example.com/hello/@v/list", 504, "timeout"},
		{"hang-zip", "example.com/hello/@v/v1.0.0.zip", 504, "timeout"},
		{"html-modules", "example.com/hello/@v/v1.0.0.info", 502, "bad answer"},
		{"html-modules", "example.com/hello/@v/list", 502, "bad answer"},
		{"html-modules", "example.com/hello/@latest", 502, "bad answer"},
		{"html-modules", "example.com/hello/@v/main.info", 502, "bad answer"},
		{"html-modules", "example.com/hello/@v/v1.0.0.mod", 403, "checksum mismatch"},
		{"html-modules", "example.com/hello/@v/v1.0.0.zip", 403, "checksum mismatch"},
		{"wrong-info", "example.com/hello/@v/v1.0.0.info", 502, "v9.9.9"},
		{"truncated", "example.com/hello/@v/v1.0.0.zip", 502, "an upstream failed"},
		{"truncated-mod", "example.com/hello/@v/v1.0.0.mod", 502, "an upstream failed"},
		{"tampered-mod", "example.com/hello/@v/v1.0.0.mod", 403, "checksum mismatch"},
		{"tampered-zip", "example.com/hello/@v/v1.0.0.zip", 403, "checksum mismatch"},
		{"sumdb-503", "example.com/hello/@v/v1.0.0.mod", 502, "an upstream failed"},
		{"sumdb-hang", "example.com/hello/@v/v1.0.0.mod", 504, "timeout"},
		{"sumdb-lost", "example.com/hello/@v/v1.0.0.mod", 403, "does not know this version"},
		{"sumdb-html", "example.com/hello/@v/v1.0.0.zip", 502, "does not verify"},
		{"sumdb-wrong", "example.com/hello/@v/v1.0.0.mod", 502, "does not verify"},
		{"sumdb-foreign", "example.com/hello/@v/v1.1.0.mod", 502, "does not verify"},
		{"sumdb-tile", "example.com/hello/@v/v1.0.0.zip", 502, "does not verify"},
		{"sumdb-short", "example.com/hello/@v/v1.0.0.zip", 502, "does not verify"},
	} {
		t.Run(tt.fault+"/"+filepath.Base(tt.path), func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			o := verified()
			o.budget = quick
			f := start(t, world, world.URL(tt.fault), o)
			for range 2 {
				f.wantStatus(tt.path, tt.status, tt.text)
			}
			if _, err := f.store.Stat(t.Context(), tt.path); err == nil {
				t.Errorf("%s is in the store", tt.path)
			}
		})
	}
}

// A passing failure of an upstream, or of the database, is never seen.
func TestPassingFailures(t *testing.T) {
	for _, fault := range []string{"503-once", "429-once", "reset-mid", "sumdb-503-once"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			f := start(t, world, world.URL(fault), verified())
			f.want("example.com/hello/@v/v1.0.0.zip")
			f.want("example.com/hello/@v/v1.0.0.mod")
		})
	}
}

// Nothing sticks once an upstream is well again, not even after a mismatch.
func TestNothingSticks(t *testing.T) {
	for _, fault := range []string{"503", "hang", "html", "tampered-mod", "tampered-zip", "truncated", "sumdb-503", "sumdb-wrong", "sumdb-tile", "sumdb-lost", "sumdb-html"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			o := verified()
			o.budget = quick
			f := start(t, world, world.URL(fault), o)
			paths := []string{"example.com/hello/@v/v1.0.0.zip", "example.com/hello/@v/v1.0.0.mod"}
			for _, path := range paths {
				f.get(path)
			}
			f.close()
			f.open(world.URL("ok"), o)
			for _, path := range paths {
				f.want(path)
			}
		})
	}
}

// A mismatch is kept as evidence, logged and counted; nothing of it is stored.
func TestMismatch(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("tampered-mod"), verified())
	f.wantStatus("example.com/hello/@v/v1.0.0.mod", http.StatusForbidden, "example.com/hello@v1.0.0", world.URL("tampered-mod"))
	f.wantStatus("example.com/hello/@v/v1.0.0.mod", http.StatusForbidden)
	names, err := filepath.Glob(filepath.Join(f.dir, "evidence", "mismatch-*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("evidence %q, %v, want one file for one mismatch", names, err)
	}
	evidence, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{world.URL("tampered-mod"), "example.com/hello", "v1.0.0", "got:      h1:", "expected: h1:"} {
		if !strings.Contains(string(evidence), want) {
			t.Errorf("evidence %q lacks %q", evidence, want)
		}
	}
	if log := f.logs.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "checksum mismatch") {
		t.Errorf("log %q", log)
	}
	if got := f.metric(t, "assay_checksum_mismatches_total"); got != 2 {
		t.Errorf("counted %v mismatches, want 2", got)
	}
}

// metric returns the sum over a metric's series.
func (f *fixture) metric(t *testing.T, name string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(f.server.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// big returns a zip that is long enough to be streamed.
func big(world interface {
	AddModule(module.Version, []txtar.File)
}, size int) (path string) {
	world.AddModule(module.Version{Path: "example.com/big", Version: "v1.0.0"}, []txtar.File{
		{Name: "go.mod", Data: []byte("module example.com/big\n")},
		{Name: "data", Data: bytes.Repeat([]byte("0123456789abcdef"), size/16)},
	})
	return "example.com/big/@v/v1.0.0.zip"
}

// A zip reaches the client while it arrives, but for its last part.
func TestStreams(t *testing.T) {
	world := newWorld(t)
	path := big(world, 4<<20)
	f := start(t, world, world.URL("gated"), verified())
	resp, err := http.Get(f.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	want := world.File(path)
	if resp.ContentLength != int64(len(want)) || resp.Header.Get("Etag") == "" {
		t.Errorf("Content-Length %d, ETag %q", resp.ContentLength, resp.Header.Get("Etag"))
	}
	got := make([]byte, len(want))
	n := 0
	for n < len(want)/2 { // the gate is closed behind the first half
		m, err := resp.Body.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if _, err := f.store.Stat(t.Context(), path); err == nil {
		t.Error("stored before it has arrived")
	}
	world.OpenGate()
	for n < len(want) {
		m, err := resp.Body.Read(got[n:])
		n += m
		if err != nil {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Error("wrong bytes")
	}
	// What a client holds complete is in the store.
	if _, err := f.store.Stat(t.Context(), path); err != nil {
		t.Error(err)
	}
}

// Of a large zip that is not what the database says, every waiting client gets a
// broken transfer without the last part, and who comes then gets the reason.
func TestTamperedStream(t *testing.T) {
	world := newWorld(t)
	path := big(world, 2<<20)
	f := start(t, world, world.URL("tampered-zip"), verified())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			a := f.get(path)
			if a.status == http.StatusOK && a.err == nil || len(a.body) > len(world.File(path))-(256<<10) {
				t.Errorf("status %d, %d bytes, %v: want a broken transfer", a.status, len(a.body), a.err)
			}
		})
	}
	wg.Wait()
	f.wantStatus(path, http.StatusForbidden, "checksum mismatch")
	if _, err := f.store.Stat(t.Context(), path); err == nil {
		t.Error("stored")
	}
}

// However many ask, and whenever they leave, an object is fetched once.
func TestOneFill(t *testing.T) {
	world := newWorld(t)
	path := big(world, 1<<20)
	f := start(t, world, world.URL("slow"), verified())
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if i%2 == 0 {
				if a := f.get(path); a.status != 200 || a.err != nil || !bytes.Equal(a.body, world.File(path)) {
					t.Errorf("status %d, %d bytes, %v", a.status, len(a.body), a.err)
				}
				return
			}
			client := http.Client{Timeout: 100 * time.Millisecond}
			if resp, err := client.Get(f.url + "/" + path); err == nil {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	f.want(path)
	if n := world.Count(path); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if n := world.Count("sumdb/sum.test.example/lookup/*"); n != 1 {
		t.Errorf("%d lookups", n)
	}
}

// A client that leaves does not stop what it asked for.
func TestFillOutlivesClient(t *testing.T) {
	world := newWorld(t)
	path := big(world, 1<<20)
	f := start(t, world, world.URL("slow"), verified())
	client := http.Client{Timeout: 50 * time.Millisecond}
	if resp, err := client.Get(f.url + "/" + path); err == nil {
		resp.Body.Close()
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := f.store.Stat(t.Context(), path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never stored")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := world.Count(path); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// A go.mod never waits for a zip, and never asks for one.
func TestModAlone(t *testing.T) {
	world := newWorld(t)
	o := verified()
	o.budget = quick
	f := start(t, world, world.URL("hang-zip"), o)
	f.want("example.com/hello/@v/v1.0.0.info")
	f.want("example.com/hello/@v/v1.0.0.mod")
	if n := world.Count("example.com/hello/@v/v1.0.0.zip"); n != 0 {
		t.Errorf("%d requests for the zip", n)
	}
}

// While zips fill every place, a hit and a go.mod are answered at once.
func TestHitsDoNotWait(t *testing.T) {
	world := newWorld(t)
	o := verified()
	o.config = func(c *proxy.Config) { c.ZipFills = 2 }
	f := start(t, world, world.URL("gated"), o)
	f.want("example.com/hello/@v/v1.0.0.mod")
	var wg sync.WaitGroup
	for _, path := range []string{"example.com/hello/@v/v1.0.0.zip", "example.com/hello/@v/v1.1.0.zip", "example.com/old/@v/v1.5.0.zip"} {
		wg.Go(func() { f.want(path) })
	}
	time.Sleep(50 * time.Millisecond)
	begin := time.Now()
	f.want("example.com/hello/@v/v1.0.0.mod")
	f.want("example.com/hello/@v/v1.1.0.mod")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v behind the zips", took)
	}
	world.OpenGate()
	wg.Wait()
}

// When the places are taken for too long, clients are told so, not kept.
func TestBusy(t *testing.T) {
	world := newWorld(t)
	o := verified()
	o.config = func(c *proxy.Config) { c.ZipFills, c.Answer = 1, 400*time.Millisecond }
	f := start(t, world, world.URL("gated"), o)
	go f.get("example.com/hello/@v/v1.0.0.zip")
	time.Sleep(100 * time.Millisecond)
	a := f.wantStatus("example.com/hello/@v/v1.1.0.zip", http.StatusServiceUnavailable, "busy")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	f.wantStatus("example.com/hello/@v/v1.0.0.zip", http.StatusGatewayTimeout, "still being fetched")
	world.OpenGate()
}

// A private name, in any spelling, reaches no upstream.
func TestPrivate(t *testing.T) {
	world := newWorld(t)
	o := verified()
	o.private = "corp.example/*,github.com/MyCorp,example.com/Upper"
	f := start(t, world, world.URL("ok"), o)
	for _, path := range []string{
		"corp.example/secret/@v/list", "corp.example/secret/@latest", "corp.example/secret/@v/v1.0.0.info", "corp.example/secret/@v/v1.0.0.mod",
		"corp.example/secret/@v/v1.0.0.zip", "corp.example/secret/@v/main.info", "corp.example/secret/sub/v2/@v/v2.0.0.zip",
		"github.com/!my!corp/x/@v/list", "github.com/%21my%21corp/x/@v/list", "github.com/%21my!corp/%78/@v/v1.0.0.mod", "%63orp.example/secret/@v/list",
		"example.com/!upper/@v/v1.0.0-!r!c.1.mod", "cached-only/corp.example/secret/@v/list", "cached-only/corp.example/secret/@v/v1.0.0.zip",
	} {
		a := f.wantStatus(path, http.StatusNotFound, "is private here", "not supported yet")
		if got := a.header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("GET %s: Cache-Control %q", path, got)
		}
	}
	for _, path := range []string{"corp.example/secret@v1.0.0", "github.com/!my!corp/x@v1.0.0", "github.com/%21my%21corp/x@v1.0.0", "github.com/!my!corp@v1.0.0", "example.com/%21upper@v1.0.0-!r!c.1"} {
		f.wantStatus("sumdb/sum.test.example/lookup/"+path, http.StatusForbidden, "is private here", "go env -w GONOSUMDB=")
	}
	f.wantStatus("sumdb/sum.test.example/lookup/corp.example/secret@v1.0.0", http.StatusForbidden, "Run: go env -w GONOSUMDB=corp.example\n")
	for _, path := range world.Paths() {
		for _, name := range []string{"corp", "secret", "upper"} {
			if strings.Contains(strings.ToLower(path), name) {
				t.Errorf("upstream was asked for %s", path)
			}
		}
	}
}

// No pattern covers toolchains, and without a database there are none.
func TestToolchain(t *testing.T) {
	const path = "golang.org/toolchain/@v/v0.0.1-go1.99.0.linux-amd64.zip"
	for _, private := range []string{"*", "golang.org/*", "golang.org/toolchain"} {
		world := newWorld(t)
		o := verified()
		o.private = private
		f := start(t, world, world.URL("ok"), o)
		f.want(path)
		if a := f.get("sumdb/sum.test.example/lookup/golang.org/toolchain@v0.0.1-go1.99.0.linux-amd64"); a.status != 200 {
			t.Errorf("lookup with %q private = %v", private, a)
		}
		f = start(t, world, world.URL("tampered-zip"), o)
		f.wantStatus(path, http.StatusForbidden, "checksum mismatch")
	}
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), option{})
	f.wantStatus(path, http.StatusForbidden, "toolchains are always verified")
	f.want("example.com/hello/@v/v1.0.0.zip")
}

// What was stored without a proof is not served as if it had one.
func TestDatabaseSwitchedOn(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("tampered-mod"), option{})
	const bad, good = "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip"
	if a := f.get(bad); a.status != 200 {
		t.Fatalf("with the database off: %v", a)
	}
	f.want(good)
	f.close()
	f.open(world.URL("ok"), verified())
	f.want(bad)
	world.ResetCounts()
	f.want(good)
	if n := world.Count(good); n != 0 {
		t.Errorf("%s, which the database confirms, was fetched again", good)
	}
}

// Everything once served is served again by a new process without an upstream,
// with the upstream dead or switched off.
func TestRestartWithoutUpstream(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	paths := []string{
		"example.com/hello/@v/v1.0.0.info", "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip",
		"example.com/hello/@v/list", "example.com/hello/@latest",
	}
	first := map[string][]byte{}
	for _, path := range paths {
		first[path] = f.get(path).body
	}
	lookup := "sumdb/sum.test.example/lookup/example.com/hello@v1.0.0"
	if a := f.get(lookup); a.status != 200 {
		t.Fatalf("lookup: %v", a)
	}
	for _, list := range []string{world.URL("503"), "off"} {
		f.close()
		world.ResetCounts()
		o := verified()
		o.budget = quick
		f.open(list, o)
		for _, path := range paths[:3] {
			if a := f.get(path); a.status != 200 || !bytes.Equal(a.body, first[path]) {
				t.Errorf("upstream %s: GET %s = %v", list, path, a)
			}
		}
		for _, path := range []string{lookup, "sumdb/sum.test.example/latest", "sumdb/sum.test.example/supported"} {
			if a := f.get(path); a.status != 200 {
				t.Errorf("upstream %s: GET %s = %v", list, path, a)
			}
		}
	}
	// Without upstream a list is what is held, and so is the latest version.
	if a := f.get("example.com/hello/@v/list"); string(a.body) != "v1.0.0\n" {
		t.Errorf("list = %v", a)
	}
	if a := f.get("example.com/hello/@latest"); !strings.Contains(string(a.body), `"v1.0.0"`) {
		t.Errorf("latest = %v", a)
	}
	f.wantStatus("example.com/hello/@v/v1.1.0.mod", 404)
	f.wantStatus("sumdb/other.example/supported", http.StatusForbidden)
}

// A list is tagged versions only, sorted.
func TestList(t *testing.T) {
	world := newWorld(t)
	for name, tt := range map[string]struct{ upstream, want string }{
		"unsorted, CRLF, times": {"v1.10.0\r\nv1.9.0 2020-01-01T00:00:00Z\r\nv1.2.0\r\n", "v1.2.0\nv1.9.0\nv1.10.0\n"},
		"pseudo-versions":       {"v1.0.0\nv0.0.0-20200101000000-abcdefabcdef\n", "v1.0.0\n"},
		"only pseudo-versions":  {"v0.0.0-20200101000000-abcdefabcdef\n", ""},
		"empty":                 {"", ""},
		"odd tags":              {"v1.0.0\nrelease-1\nv1\nv1.2\nv1.0.0\nv2.0.0\nv2.0.0+incompatible\n", "v1.0.0\nv2.0.0+incompatible\n"},
		"other major versions":  {"v2.0.0\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, world, world.URL("ok"), verified())
			world.Set("example.com/listed/@v/list", append([]byte(nil), tt.upstream...))
			if tt.upstream == "" {
				world.Set("example.com/listed/@v/list", []byte("\n"))
			}
			a := f.get("example.com/listed/@v/list")
			if a.status != 200 || string(a.body) != tt.want {
				t.Errorf("list = %v, want %q", a, tt.want)
			}
			if got := a.header.Get("Cache-Control"); got != "public, max-age=60" {
				t.Errorf("Cache-Control %q", got)
			}
		})
	}
}

// A list is asked for once in its time, refreshed behind the client's back, and
// given stale when the upstream is down.
func TestListFreshness(t *testing.T) {
	world := newWorld(t)
	const path = "example.com/hello/@v/list"
	o := verified()
	o.budget = quick
	o.config = func(c *proxy.Config) { c.Fresh = 300 * time.Millisecond }
	f := start(t, world, world.URL("ok"), o)
	before := f.get(path)
	f.get(path)
	if n := world.Count(path); n != 1 {
		t.Errorf("asked %d times within its time, want once", n)
	}
	world.Set(path, []byte("v1.0.0\nv1.7.0\n"))
	time.Sleep(350 * time.Millisecond)
	if a := f.get(path); !bytes.Equal(a.body, before.body) || a.header.Get("Cache-Status") != "assay; hit; detail=stale" {
		t.Errorf("while refreshing: %v %v", a, a.header)
	}
	for range 100 {
		if string(f.get(path).body) == "v1.0.0\nv1.7.0\n" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if a := f.get(path); string(a.body) != "v1.0.0\nv1.7.0\n" {
		t.Errorf("refreshed: %v", a)
	}
	f.close()
	f.open(world.URL("503"), o)
	time.Sleep(350 * time.Millisecond)
	for range 3 {
		if a := f.get(path); string(a.body) != "v1.0.0\nv1.7.0\n" {
			t.Errorf("with the upstream down: %v", a)
		}
	}
}

// With the upstream down and no list kept, what is held makes one; latest is
// what the go command means by it.
func TestListFromStore(t *testing.T) {
	world := proxytest.New(t)
	world.Add(holdings)
	f := start(t, world, world.URL("ok"), verified())
	for _, tt := range []struct {
		module string
		hold   []string
		list   string
		latest string
	}{
		{"example.com/a", []string{"v1.2.0", "v1.10.0", "v1.11.0-rc.1"}, "v1.2.0\nv1.10.0\nv1.11.0-rc.1\n", "v1.10.0"},
		{"example.com/b", []string{"v0.1.0-alpha", "v0.0.0-20200101000000-abcdefabcdef"}, "v0.1.0-alpha\n", "v0.1.0-alpha"},
		{"example.com/c", []string{"v0.0.0-20200101000000-abcdefabcdef", "v0.0.0-20210101000000-abcdefabcdef"}, "", "v0.0.0-20210101000000-abcdefabcdef"},
		{"example.com/d", []string{"v1.0.0", "v3.0.0+incompatible"}, "v1.0.0\nv3.0.0+incompatible\n", "v1.0.0"},
		{"example.com/e", []string{"v1.0.0", "v3.0.0+incompatible"}, "v1.0.0\nv3.0.0+incompatible\n", "v3.0.0+incompatible"},
		{"example.com/f", []string{"v2.0.0+incompatible", "v3.0.0+incompatible"}, "v2.0.0+incompatible\nv3.0.0+incompatible\n", "v3.0.0+incompatible"},
	} {
		for _, v := range tt.hold {
			f.want(tt.module + "/@v/" + v + ".info")
			f.want(tt.module + "/@v/" + v + ".mod")
		}
		for _, prefix := range []string{"cached-only/", ""} {
			header := []string{"Disable-Module-Fetch", "true"}
			if prefix != "" {
				header = nil
			}
			if a := f.get(prefix+tt.module+"/@v/list", header...); a.status != 200 || string(a.body) != tt.list {
				t.Errorf("%s%s list = %v, want %q", prefix, tt.module, a, tt.list)
			}
			a := f.get(prefix+tt.module+"/@latest", header...)
			var info struct{ Version string }
			if err := json.Unmarshal(a.body, &info); err != nil || info.Version != tt.latest {
				t.Errorf("%s%s latest = %v, want %s", prefix, tt.module, a, tt.latest)
			}
		}
	}
	if n := world.Count("example.com/a/@v/list"); n != 0 {
		t.Errorf("upstream was asked for a list %d times", n)
	}
	f.wantStatus("cached-only/example.com/a/@v/v1.3.0.mod", 404, "temporarily unavailable")
	f.wantStatus("cached-only/example.com/none/@v/list", 404, "temporarily unavailable")
	if n := world.Count("example.com/a/@v/v1.3.0.mod"); n != 0 {
		t.Error("a request for what is held asked upstream")
	}
}

// Absence is remembered for a moment, trouble is not.
func TestNegative(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range []string{"example.com/none/@v/list", "example.com/none/@latest", "example.com/none/@v/v1.0.0.mod", "example.com/none/@v/v1.0.0.info", "sumdb/sum.test.example/lookup/example.com/nothing@v1.0.0"} {
		f.wantStatus(path, 404)
		f.wantStatus(path, 404)
		if n := world.Count(path); n > 1 {
			t.Errorf("%s asked %d times, want once", path, n)
		}
	}
}

// A branch is asked for again after its time; what it names is passed on.
func TestQueries(t *testing.T) {
	world := newWorld(t)
	world.Set("example.com/hello/@v/main.info", []byte(`{"Version":"v1.1.0","Time":"2020-01-02T03:04:05Z","Origin":{"Ref":"refs/heads/main"}}`))
	world.Set("example.com/hello/@v/v2.0.0.info", []byte(`{"Version":"v2.0.0+incompatible","Time":"2020-01-02T03:04:05Z"}`))
	world.Set("example.com/hello/@v/evil.info", []byte(`{"Version":"v2.0.0","Time":"2020-01-02T03:04:05Z"}`))
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range []string{"example.com/hello/@v/main.info", "example.com/hello/@v/v2.0.0.info"} {
		a := f.want(path)
		if got := a.header.Get("Cache-Control"); got != "public, max-age=60" {
			t.Errorf("GET %s: Cache-Control %q", path, got)
		}
		f.want(path)
		if n := world.Count(path); n != 1 {
			t.Errorf("%s asked %d times", path, n)
		}
	}
	f.wantStatus("example.com/hello/@v/evil.info", 502, "bad answer")
}

// Damage on the disk is never served: the object is fetched again.
func TestDamage(t *testing.T) {
	world := newWorld(t)
	path := big(world, 1<<20)
	f := start(t, world, world.URL("ok"), verified())
	small := "example.com/hello/@v/v1.0.0.mod"
	f.want(path)
	f.want(small)
	f.close()
	flip(t, filepath.Join(f.dir, "data"), []byte("0123456789abcdef0123456789abcdef"))
	flip(t, filepath.Join(f.dir, "data"), []byte("module example.com/hello\n"))
	f.open(world.URL("ok"), verified())
	f.want(small)
	// Damage at the beginning is noticed before the answer, elsewhere the
	// answer breaks off.
	if a := f.get(path); a.err == nil && a.status == 200 && !bytes.Equal(a.body, world.File(path)) {
		t.Errorf("a damaged zip was served: %d bytes", len(a.body))
	}
	f.want(path)
	f.want(path)
	if n := world.Count(path); n != 2 {
		t.Errorf("fetched %d times, want twice", n)
	}
}

// flip changes a byte in the middle of every occurrence of text in the files of
// a directory.
func flip(t *testing.T, dir string, text []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.db"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := bytes.Index(data, text); at >= 0; {
			data[at+len(text)/2] ^= 1
			found++
			next := bytes.Index(data[at+len(text):], text)
			if next < 0 {
				break
			}
			at += len(text) + next
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Fatalf("%q is not in %s", text, dir)
	}
}

// A request that has been here before is not sent round again.
func TestLoop(t *testing.T) {
	world := newWorld(t)
	o := verified()
	o.config = func(c *proxy.Config) { c.Via = "assay-me" }
	f := start(t, world, world.URL("ok"), o)
	if a := f.get("example.com/hello/@v/list", "Via", "1.1 other, 1.1 assay-me"); a.status != http.StatusLoopDetected {
		t.Errorf("GET = %v", a)
	}
	if n := world.Count("*"); n != 0 {
		t.Errorf("%d requests upstream", n)
	}
}

// Another policy and another upstream hold from the next request on.
func TestReload(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("404"), verified())
	f.wantStatus("example.com/hello/@v/v1.0.0.info", 404)
	private, err := policy.New("example.com/old")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := fetch.New(fetch.Config{List: world.URL("ok")})
	if err != nil {
		t.Fatal(err)
	}
	f.server.Reload(chain, private)
	f.want("example.com/hello/@v/v1.0.0.info")
	f.wantStatus("example.com/old/@v/list", 404, "is private here")
}

// What is in memory is the same answer, and the same rules hold for it.
func TestHot(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range []string{"example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.info", "example.com/!upper/@v/v1.0.0-!r!c.1.mod"} {
		f.want(path)
		stored, hot := f.want(path), f.want(path)
		for _, name := range []string{"Etag", "Content-Length", "Content-Type", "Cache-Control", "Cache-Status", "Accept-Ranges"} {
			if got, want := hot.header.Get(name), stored.header.Get(name); got != want || got == "" {
				t.Errorf("%s: %s is %q from memory, %q from the store", path, name, got, want)
			}
		}
		part := f.do(http.MethodGet, path, "Range", "bytes=2-5")
		if part.status != http.StatusPartialContent || string(part.body) != string(world.File(path)[2:6]) {
			t.Errorf("%s: a part: %d, %q", path, part.status, part.body)
		}
		if same := f.do(http.MethodGet, path, "If-None-Match", hot.header.Get("Etag")); same.status != http.StatusNotModified {
			t.Errorf("%s: If-None-Match: %d", path, same.status)
		}
		if head := f.do(http.MethodHead, path); head.status != http.StatusOK || len(head.body) != 0 || head.header.Get("Content-Length") != hot.header.Get("Content-Length") {
			t.Errorf("%s: HEAD: %d, %v", path, head.status, head.header)
		}
		if cached := f.get("cached-only/" + path); cached.status != http.StatusOK || !bytes.Equal(cached.body, hot.body) {
			t.Errorf("cached-only/%s: %v", path, cached)
		}
	}

	private, err := policy.New("example.com")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := fetch.New(fetch.Config{List: world.URL("ok")})
	if err != nil {
		t.Fatal(err)
	}
	f.server.Reload(chain, private)
	f.wantStatus("example.com/hello/@v/v1.0.0.mod", http.StatusNotFound, "is private here")
}

func TestHotIsBounded(t *testing.T) {
	if kept := proxy.Hot(5000, 8<<10); kept == 0 || kept > proxy.HotBytes {
		t.Errorf("%d bytes are kept", kept)
	}
}

// A client that reads slowly, or not at all, delays nobody else.
func TestSlowClient(t *testing.T) {
	world := newWorld(t)
	path := big(world, 32<<20)
	f := start(t, world, world.URL("ok"), verified())
	var stuck []*http.Response
	for range 4 {
		resp, err := http.Get(f.url + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		stuck = append(stuck, resp)
		defer resp.Body.Close()
	}
	f.want(path)
	for i := range 20 {
		m := module.Version{Path: fmt.Sprintf("example.com/other%d", i), Version: "v1.0.0"}
		world.AddModule(m, []txtar.File{{Name: "x", Data: bytes.Repeat([]byte("x"), 300<<10)}})
		f.want(m.Path + "/@v/v1.0.0.zip")
	}
	for _, resp := range stuck {
		var got bytes.Buffer
		if _, err := got.ReadFrom(resp.Body); err != nil || !bytes.Equal(got.Bytes(), world.File(path)) {
			t.Errorf("the slow client got %d bytes, %v", got.Len(), err)
		}
	}
}

// A store that fails to keep something is an error, not a success.
func TestStoreFails(t *testing.T) {
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	f.want("example.com/hello/@v/v1.0.0.info")
	f.store.Close()
	a := f.get("example.com/hello/@v/v1.0.0.mod")
	if a.status != 500 && a.status != 503 {
		t.Errorf("GET = %v", a)
	}
	checkText(t, a)
}

// holdings are modules whose versions are of every sort.
const holdings = `
-- example.com/a@v1.2.0/go.mod --
module example.com/a
-- example.com/a@v1.10.0/go.mod --
module example.com/a
-- example.com/a@v1.11.0-rc.1/go.mod --
module example.com/a
-- example.com/b@v0.1.0-alpha/go.mod --
module example.com/b
-- example.com/b@v0.0.0-20200101000000-abcdefabcdef/go.mod --
module example.com/b
-- example.com/c@v0.0.0-20200101000000-abcdefabcdef/go.mod --
module example.com/c
-- example.com/c@v0.0.0-20210101000000-abcdefabcdef/go.mod --
module example.com/c
-- example.com/d@v1.0.0/go.mod --
module example.com/d

go 1.20
-- example.com/d@v3.0.0+incompatible/x.go --
package d
-- example.com/e@v1.0.0/x.go --
package e
-- example.com/e@v3.0.0+incompatible/x.go --
package e
-- example.com/f@v2.0.0+incompatible/x.go --
package f
-- example.com/f@v3.0.0+incompatible/x.go --
package f
`
