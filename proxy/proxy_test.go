package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
)

// Every file of the protocol, as the go command requests it.
func TestProtocol(t *testing.T) {
	t.Parallel()
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
		if tag, want := again.header.Get("Etag"), fmt.Sprintf(`"sha256:%x"`, sha256.Sum256(first.body)); tag != want {
			t.Errorf("GET %s: ETag %q is not the SHA-256 of the bytes, %s", path, tag, want)
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
	t.Parallel()
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
	t.Parallel()
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

// Origin, and all other fields of an info, are passed on unchanged.
func TestInfoVerbatim(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	const path = "example.com/hello/@v/v1.0.0.info"
	world.Set(path, []byte(`{ "Version":"v1.0.0", "Time":"2020-01-02T03:04:05Z", "Origin":{"VCS":"git","URL":"https://example.com/hello","Hash":"abc","Ref":"refs/tags/v1.0.0"}, "More":1 }`))
	f := start(t, world, world.URL("ok"), verified())
	f.want(path)
	f.want(path)
}

// The response of an upstream, and the response for the client: the decision table.
func TestStatuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault, path string
		status      int
		text        string
	}{
		// The slowest come first, so that the others run beside them.
		{"hang-zip", "example.com/hello/@v/v1.0.0.zip", 504, "timeout"},
		{"sumdb-hang", "example.com/hello/@v/v1.0.0.mod", 504, "timeout"},
		{"ok", "example.com/none/@v/v1.0.0.mod", 404, "not found"},
		{"ok", "example.com/none/@v/list", 404, "not found"},
		{"ok", "example.com/none/@latest", 404, "not found"},
		{"410", "example.com/hello/@v/v1.0.0.info", 404, "not found"},
		{"503", "example.com/hello/@v/v1.0.0.info", 502, "the upstream says 503"},
		{"503", "example.com/hello/@v/list", 502, "an upstream failed"},
		{"500", "example.com/hello/@latest", 502, "an upstream failed"},
		{"403", "example.com/hello/@v/v1.0.0.zip", 403, "an upstream refuses"},
		{"reset", "example.com/hello/@v/v1.0.0.mod", 502, "an upstream failed"},
		{"429", "example.com/hello/@v/v1.0.0.mod", 503, "limits the rate of requests"},
		{"hang", "example.com/hello/@v/v1.0.0.mod", 504, "timeout"},
		{"hang", "example.com/hello/@v/list", 504, "timeout"},
		{"html-modules", "example.com/hello/@v/v1.0.0.info", 502, "invalid response"},
		{"html-modules", "example.com/hello/@v/list", 502, "invalid response"},
		{"html-modules", "example.com/hello/@latest", 502, "invalid response"},
		{"html-modules", "example.com/hello/@v/main.info", 502, "invalid response"},
		{"html-modules", "example.com/hello/@v/v1.0.0.mod", 403, "checksum mismatch"},
		{"html-modules", "example.com/hello/@v/v1.0.0.zip", 403, "checksum mismatch"},
		{"wrong-info", "example.com/hello/@v/v1.0.0.info", 502, "v9.9.9"},
		{"truncated", "example.com/hello/@v/v1.0.0.zip", 502, "an upstream failed"},
		{"truncated-mod", "example.com/hello/@v/v1.0.0.mod", 502, "an upstream failed"},
		{"tampered-mod", "example.com/hello/@v/v1.0.0.mod", 403, "checksum mismatch"},
		{"tampered-zip", "example.com/hello/@v/v1.0.0.zip", 403, "checksum mismatch"},
		{"sumdb-503", "example.com/hello/@v/v1.0.0.mod", 502, "an upstream failed"},
		{"sumdb-lost", "example.com/hello/@v/v1.0.0.mod", 403, "has no record of this version"},
		{"sumdb-html", "example.com/hello/@v/v1.0.0.zip", 502, "cannot verify: invalid data for the checksum database"},
		{"sumdb-wrong", "example.com/hello/@v/v1.0.0.mod", 502, "cannot verify: invalid data for the checksum database"},
		{"sumdb-foreign", "example.com/hello/@v/v1.1.0.mod", 502, "cannot verify: invalid data for the checksum database"},
		{"sumdb-tile", "example.com/hello/@v/v1.0.0.zip", 502, "cannot verify: invalid data for the checksum database"},
		{"sumdb-short", "example.com/hello/@v/v1.0.0.zip", 502, "cannot verify: invalid data for the checksum database"},
	} {
		t.Run(tt.fault+"/"+filepath.Base(tt.path), func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			o := verified()
			o.budget = hurried
			if strings.Contains(tt.fault, "hang") { // the client does not wait longer
				o.budget = quick
				o.config = func(c *proxy.Config) { c.Content.Times.Answer = 1500 * time.Millisecond }
			}
			f := start(t, world, world.URL(tt.fault), o)
			f.wantStatus(tt.path, tt.status, tt.text)
			if a := f.get(tt.path); a.status != tt.status {
				t.Errorf("the second answer is %v, want %d", a, tt.status)
			}
			if f.holds(tt.path) {
				t.Errorf("%s is in the store", tt.path)
			}
		})
	}
}

// A client never sees a temporary failure of an upstream, or of the database.
func TestPassingFailures(t *testing.T) {
	t.Parallel()
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

// After an upstream has recovered its objects are served again, even after a mismatch.
func TestNothingSticks(t *testing.T) {
	t.Parallel()
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
			o.budget = hurried
			f.open(world.URL("ok"), o)
			for _, path := range paths {
				f.want(path)
			}
		})
	}
}

// series returns the series of a metric.
func (f *fixture) series(name string) []*dto.Metric {
	f.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(f.server.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()
		}
	}
	return nil
}

// metric returns the sum of a metric's series.
func (f *fixture) metric(t *testing.T, name string) float64 {
	t.Helper()
	var sum float64
	for _, m := range f.series(name) {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// results returns how many requests were counted with each result.
func (f *fixture) results() map[string]float64 {
	f.t.Helper()
	counts := map[string]float64{}
	for _, m := range f.series("assay_cache_requests_total") {
		for _, label := range m.GetLabel() {
			if n := m.GetCounter().GetValue(); label.GetName() == "result" && n > 0 {
				counts[label.GetValue()] += n
			}
		}
	}
	return counts
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

// A private name, in any spelling, reaches no upstream.
func TestPrivate(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	o := verified()
	o.private = "corp.example/*,github.com/MyCorp,example.com/Upper"
	f := start(t, world, world.URL("ok"), o)
	for _, path := range []string{
		"corp.example/secret/@v/list", "corp.example/!secret/@v/list", "corp.example/secret.git/@v/v1.0.0.zip", "corp.example/secret/@latest", "corp.example/secret/@v/v1.0.0.info", "corp.example/secret/@v/v1.0.0.mod",
		"corp.example/secret/@v/v1.0.0.zip", "corp.example/secret/@v/main.info", "corp.example/secret/sub/v2/@v/v2.0.0.zip",
		"github.com/!my!corp/x/@v/list", "github.com/mycorp/x/@v/v1.0.0.mod", "github.com/!m!y!c!o!r!p.git/x/@latest", "github.com/%21my%21corp/x/@v/list", "github.com/%21my!corp/%78/@v/v1.0.0.mod", "%63orp.example/secret/@v/list",
		"example.com/!upper/@v/v1.0.0-!r!c.1.mod", "cached-only/corp.example/secret/@v/list", "cached-only/corp.example/secret/@v/v1.0.0.zip",
	} {
		a := f.wantStatus(path, http.StatusNotFound, "is private here", "is disabled (--vcs off)")
		if got := a.header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("GET %s: Cache-Control %q", path, got)
		}
	}
	for _, path := range []string{"corp.example/secret@v1.0.0", "github.com/!my!corp/x@v1.0.0", "github.com/%21my%21corp/x@v1.0.0", "github.com/!my!corp@v1.0.0", "example.com/%21upper@v1.0.0-!r!c.1"} {
		f.wantStatus("sumdb/sum.test.example/lookup/"+path, http.StatusForbidden, "is private here", "go env -w GONOSUMDB=")
	}
	for _, path := range []string{"github.com/mycorp/x@v1.0.0", "github.com/!my!corp.git/x@v1.0.0", "example.com/upper@v1.0.0"} {
		f.wantStatus("sumdb/sum.test.example/lookup/"+path, http.StatusForbidden, "is private here", "require it by its own name")
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
	t.Parallel()
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
	f.wantStatus(path, http.StatusForbidden, "toolchains need a checksum database, and it is off")
	f.want("example.com/hello/@v/v1.0.0.zip")
}

// An object that was stored without a proof is not served as if it had one.
func TestDatabaseSwitchedOn(t *testing.T) {
	t.Parallel()
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

// A new process serves all objects that were served before, with the upstream unreachable
// or switched off.
func TestRestartWithoutUpstream(t *testing.T) {
	t.Parallel()
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
	// Without an upstream a list, and the latest version, are made from the held
	// versions.
	if a := f.get("example.com/hello/@v/list"); string(a.body) != "v1.0.0\n" {
		t.Errorf("list = %v", a)
	}
	if a := f.get("example.com/hello/@latest"); !strings.Contains(string(a.body), `"v1.0.0"`) {
		t.Errorf("latest = %v", a)
	}
	f.wantStatus("example.com/hello/@v/v1.1.0.mod", 404)
	f.wantStatus("sumdb/other.example/supported", http.StatusForbidden)
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

// A request that has already passed this proxy is not sent upstream again.
func TestLoop(t *testing.T) {
	t.Parallel()
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

// Another policy and another upstream count from the next request on.
func TestReload(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("404"), verified())
	f.wantStatus("example.com/hello/@v/v1.0.0.info", 404)
	private, err := privacy.New("example.com/old")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := fetch.New(fetch.Config{List: world.URL("ok")})
	if err != nil {
		t.Fatal(err)
	}
	f.server.Reload(content.Settings{Upstream: chain, Policy: private})
	f.want("example.com/hello/@v/v1.0.0.info")
	f.wantStatus("example.com/old/@v/list", 404, "is private here")
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
