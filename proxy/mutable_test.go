package proxy_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// A list has tagged versions only, sorted.
func TestList(t *testing.T) {
	t.Parallel()
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

// A list is fetched once within Fresh, refreshed in the background, and served stale
// while the upstream is down.
func TestListFreshness(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	const path = "example.com/hello/@v/list"
	o := verified()
	o.budget = hurried
	fresh := func(d time.Duration) {
		o.config = func(c *proxy.Config) { c.Content.Times.Fresh = d }
	}
	fresh(time.Hour)
	f := start(t, world, world.URL("ok"), o)
	before := f.get(path)
	f.get(path)
	if n := world.Count(path); n != 1 {
		t.Errorf("asked %d times within its time, want once", n)
	}
	world.Set(path, []byte("v1.0.0\nv1.7.0\n"))
	f.close()
	fresh(time.Millisecond)
	f.open(world.URL("ok"), o)
	time.Sleep(10 * time.Millisecond)
	if a := f.get(path); !bytes.Equal(a.body, before.body) || a.header.Get("Cache-Status") != "assay; hit; detail=stale" {
		t.Errorf("while refreshing: %v %v", a, a.header)
	}
	eventually(t, "it is refreshed", func() bool { return string(f.get(path).body) == "v1.0.0\nv1.7.0\n" })
	f.close()
	f.open(world.URL("503"), o)
	time.Sleep(10 * time.Millisecond)
	for range 3 {
		if a := f.get(path); string(a.body) != "v1.0.0\nv1.7.0\n" {
			t.Errorf("with the upstream down: %v", a)
		}
	}
}

// While the upstream is down, and no list is stored, the held versions make one; latest
// follows from it by the rules of the go command.
func TestListFromStore(t *testing.T) {
	t.Parallel()
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

// A list that is made from the store because of an error is marked as stale, and the log
// has the reason; a decision of this proxy is an error for the client.
func TestListFromStoreInTrouble(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/v1.0.0.info")
	const list = "corp.example/lib/@v/list"
	h.code.Password("ci", "secret-of-git")
	for range 2 {
		h.wantStatus(list, http.StatusForbidden, "git.corp.example denies this proxy access to")
	}
	h.code.Password("", "")
	h.code.Status(http.StatusServiceUnavailable)
	if a := h.get(list); string(a.body) != "v1.0.0\n" || a.header.Get("Cache-Status") != "assay; hit; detail=stale" {
		t.Errorf("while the host is down: %v %v", a, a.header)
	}
	h.wantLogged(t, "from stored versions")
}

// A client waits for a refresh no longer than for any response.
func TestRefreshInTime(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		c.Content.Times.Answer, c.Content.Times.Fresh = 300*time.Millisecond, time.Millisecond
	})
	h.code.Module("lib", lib)
	const list = "corp.example/lib/@v/list"
	waitUntil(t, func() bool { return h.get(list).status == http.StatusOK })
	h.code.Hang(true)
	defer h.code.Hang(false)
	begin := time.Now()
	h.ok(list)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// An absence is remembered for a moment, a failure is not.
func TestNegative(t *testing.T) {
	t.Parallel()
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

// A branch is fetched again after Fresh; its commit is passed on.
func TestQueries(t *testing.T) {
	t.Parallel()
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
	f.wantStatus("example.com/hello/@v/evil.info", 502, "invalid response")
}
