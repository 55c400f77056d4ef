package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// turning is an upstream whose fault changes while its URL stays.
type turning struct {
	url   string
	fault atomic.Value
}

func newTurning(t *testing.T, world *proxytest.World) *turning {
	u := new(turning)
	u.turn("ok")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u.fault.Load() == "alive" { // answers its probe, but no request about a module
			if !strings.Contains(r.URL.Path, "/@") {
				return
			}
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		r.URL.Path = "/" + u.fault.Load().(string) + r.URL.Path
		world.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	u.url = server.URL
	return u
}

func (u *turning) turn(fault string) { u.fault.Store(fault) }

// absentPaths are paths of every kind at which nothing exists. The absences of versions,
// branches and commits may be kept for an hour.
var (
	absentLists    = []string{"example.com/none/@v/list", "example.com/none/@latest", "example.com/hello/deep/@v/list"}
	absentVersions = []string{
		"example.com/hello/@v/v1.9.0.info", "example.com/hello/@v/v1.9.0.mod", "example.com/hello/@v/v1.9.0.zip",
		"example.com/hello/@v/main.info", "example.com/hello/@v/abcdef123456.info",
	}
)

// ask requests the paths, which are absent at an upstream, and stops the server.
func (f *fixture) askAbsent(paths ...string) {
	f.t.Helper()
	for _, path := range paths {
		if a := f.wantStatus(path, http.StatusNotFound); strings.Contains(string(a.body), "ago") || a.header.Get("Cache-Status") != "" {
			f.t.Errorf("%s while the upstream is well: %v %v", path, a, a.header)
		}
	}
	f.close()
}

// wantBridged checks that the paths are still absent, as before the outage.
func (f *fixture) wantBridged(paths ...string) {
	f.t.Helper()
	for _, path := range paths {
		a := f.wantStatus(path, http.StatusNotFound, "not found: "+path, " said so ", " ago\nit is unreachable now")
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Cache-Status") != "assay; hit; detail=stale" {
			f.t.Errorf("%s: headers %v", path, a.header)
		}
	}
}

func (f *fixture) wantTrouble(paths ...string) {
	f.t.Helper()
	for _, path := range paths {
		f.wantStatus(path, http.StatusBadGateway)
	}
}

// age makes all stored absences of the stopped server of f older.
func (f *fixture) age(by time.Duration) {
	f.t.Helper()
	store, err := bolt.Open(filepath.Join(f.dir, "data"), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	defer store.Close()
	for name, data := range absenceStates(f.t, store) {
		var b bytes.Buffer
		for line := range strings.Lines(string(data)) {
			seconds, rest, _ := strings.Cut(line, " ")
			n, err := strconv.ParseInt(seconds, 10, 64)
			if err != nil {
				f.t.Fatal(err)
			}
			fmt.Fprintf(&b, "%d %s", n-int64(by/time.Second), rest)
		}
		if err := store.SetState(f.t.Context(), name, b.Bytes()); err != nil {
			f.t.Fatal(err)
		}
	}
}

// absenceStates returns the states with absences in a store, by name.
func absenceStates(t *testing.T, store storage.Store) map[string][]byte {
	t.Helper()
	states := map[string][]byte{}
	for i := range 256 {
		name := fmt.Sprintf("absent/%02x", i)
		data, err := store.State(t.Context(), name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		states[name] = data
	}
	if len(states) == 0 {
		t.Fatal("no absences are kept")
	}
	return states
}

// quickly has budgets for upstreams that fail; on a busy machine these do not look like
// ones that hang.
func quickly(private string) option {
	o := verified()
	o.budget, o.private = quick, private
	o.budget.FirstByte, o.budget.IdleBody = quick.Answer, quick.Answer
	return o
}

// Objects that the upstream stated to be absent are absent in its outage too, and no
// others.
func TestOutage(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	upstream := newTurning(t, world)
	f := start(t, world, upstream.url, quickly(""))
	f.want("example.com/hello/@v/v1.0.0.mod")
	const lookup = "sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.9.0"
	f.wantStatus(lookup, http.StatusNotFound)
	f.askAbsent(append(absentLists, absentVersions...)...)
	for _, fault := range []string{"503", "reset", "500"} {
		upstream.turn(fault)
		f.open(upstream.url, quickly(""))
		f.want("example.com/hello/@v/v1.0.0.mod")
		f.wantBridged(append(absentLists, absentVersions...)...)
		f.wantTrouble("example.com/other/@v/list", "example.com/hello/@v/v1.8.0.mod", lookup)
		f.close()
	}
	v, err := verifyStore(t, filepath.Join(f.dir, "data"))
	if err != nil || v.Damaged != 0 {
		t.Errorf("verify finds %+v, %v", v, err)
	}

	// It is back, with newly published versions.
	upstream.turn("ok")
	world.Add("-- example.com/none@v1.0.0/go.mod --\nmodule example.com/none\n")
	f.open(upstream.url, quickly(""))
	f.want("example.com/none/@v/v1.0.0.mod")
	if a := f.get("example.com/none/@v/list"); string(a.body) != "v1.0.0\n" {
		t.Errorf("list %v", a)
	}
	f.askAbsent(absentVersions...)
}

func verifyStore(t *testing.T, dir string) (storage.Verified, error) {
	t.Helper()
	store, err := bolt.Open(dir, &bolt.Options{Existing: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	return store.Verify(t.Context(), storage.VerifyOptions{})
}

// An absence counts only up to its age limit, and only for the upstream setting under
// which it was stated.
func TestOutageLimits(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	for name, tt := range map[string]struct {
		by              time.Duration
		list            func(url string) string
		private         string
		lists, versions bool
	}{
		"an hour less":      {by: 59 * time.Minute, lists: true, versions: true},
		"an hour":           {by: time.Hour, lists: true},
		"a week less":       {by: 7*24*time.Hour - time.Minute, lists: true},
		"a week":            {by: 7 * 24 * time.Hour},
		"a clock set back":  {by: -2 * time.Minute},
		"another upstream":  {list: func(url string) string { return url + "/ok" }},
		"one more upstream": {list: func(url string) string { return url + ",http://127.0.0.1:1" }},
		"another credential": {list: func(url string) string {
			return strings.Replace(url, "http://", "http://user:pass@", 1)
		}},
		"direct behind it": {list: func(url string) string { return url + "|direct" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := newTurning(t, world)
			f := start(t, world, upstream.url, quickly(""))
			f.askAbsent(absentLists[0], absentVersions[0])
			upstream.turn("503")
			f.age(tt.by)
			list := upstream.url
			if tt.list != nil {
				list = tt.list(list)
			}
			f.open(list, quickly(""))
			for path, bridged := range map[string]bool{absentLists[0]: tt.lists, absentVersions[0]: tt.versions} {
				a := f.get(path)
				if got := a.status == http.StatusNotFound && strings.Contains(string(a.body), "said so"); got != bridged {
					t.Errorf("%s = %v, want an absence of before: %t", path, a, bridged)
				}
			}
		})
	}
}

// Only an outage is bridged: not an upstream that answers its probe, nor an error of our
// own, nor a list with one healthy upstream.
func TestNoOutage(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	for _, faults := range []string{"alive alive", "alive 503", "503 ok", "ok 503", "429 429", "403 403", "hang 503"} {
		t.Run(faults, func(t *testing.T) {
			t.Parallel()
			upstream, other := newTurning(t, world), newTurning(t, world)
			list := upstream.url + "|" + other.url
			f := start(t, world, list, quickly(""))
			f.askAbsent(absentLists[0], absentVersions[0])
			first, second, _ := strings.Cut(faults, " ")
			upstream.turn(first)
			other.turn(second)
			o := quickly("")
			if first == "hang" { // and the client's time is short
				o.config = func(c *proxy.Config) { c.Content.Times.Answer = 100 * time.Millisecond }
			}
			f.open(list, o)
			for _, path := range []string{absentLists[0], absentVersions[0]} {
				if a := f.get(path); a.status < 500 && a.status != http.StatusForbidden || strings.Contains(string(a.body), "said so") {
					t.Errorf("%s = %v", path, a)
				}
			}
		})
	}
}

// An absence that only one of two upstreams stated is not kept.
func TestOutageOfPartOfList(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	upstream, other := newTurning(t, world), newTurning(t, world)
	list := upstream.url + "|" + other.url
	f := start(t, world, list, quickly(""))
	upstream.turn("404")
	other.turn("503")
	f.wantTrouble(absentLists[0], absentVersions[0])
	f.close()
	upstream.turn("503")
	f.open(list, quickly(""))
	f.wantTrouble(absentLists[0], absentVersions[0])
}

// A public upstream's absence is not served for a module that has become private, nor
// after a reload with another upstream.
func TestOutageReload(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	upstream := newTurning(t, world)
	f := start(t, world, upstream.url, quickly(""))
	f.askAbsent(absentLists[0])
	upstream.turn("503")
	f.open(upstream.url, quickly(""))
	f.wantBridged(absentLists[0])
	reload := func(list, patterns string) {
		t.Helper()
		chain, err := fetch.New(fetch.Config{List: list, Budget: quickly("").budget})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(chain.Close)
		private, err := privacy.New(patterns)
		if err != nil {
			t.Fatal(err)
		}
		f.server.Reload(content.Settings{Upstream: chain, Policy: private})
	}
	reload(upstream.url, "example.com/none")
	if a := f.wantStatus(absentLists[0], http.StatusNotFound, "private here"); strings.Contains(string(a.body), "said so") {
		t.Errorf("private: %v", a)
	}
	reload("http://127.0.0.1:1", "")
	f.wantTrouble(absentLists[0])
	reload(upstream.url, "")
	f.wantBridged(absentLists[0])
}

// With a full disk an absence is still an absence, and the log says once that it is not
// kept.
func TestOutageDiskFull(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	upstream := newTurning(t, world)
	o := quickly("")
	o.config = func(c *proxy.Config) { c.Content.Store = fullForAbsences{c.Content.Store} }
	f := start(t, world, upstream.url, o)
	f.askAbsent(absentLists...)
	if n := strings.Count(f.logs.String(), "absences not saved"); n != 1 {
		t.Errorf("the log says %d times that absences are not kept, want once\n%s", n, f.logs)
	}
	upstream.turn("503")
	f.open(upstream.url, o)
	f.wantTrouble(absentLists[0])
}

type fullForAbsences struct{ storage.Store }

func (s fullForAbsences) SwapState(ctx context.Context, name string, old, value []byte) error {
	if strings.HasPrefix(name, "absent/") {
		return fmt.Errorf("set %s: %w", name, syscall.ENOSPC)
	}
	return s.Store.SwapState(ctx, name, old, value)
}
