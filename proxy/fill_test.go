package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/storage"
)

// A mismatch is kept as evidence, logged and counted; its content is not stored.
func TestMismatch(t *testing.T) {
	t.Parallel()
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

// Evidence is kept of each mismatch, even if names are similar, but only of a limited
// number: a page with other content each time must not fill the disk.
func TestEvidence(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	modules := []string{"example.com/a/b", "example.com/a_b", "example.com/" + strings.Repeat("x/", 90) + "a", "example.com/" + strings.Repeat("x/", 90) + "b"}
	for _, path := range modules {
		world.AddModule(module.Version{Path: path, Version: "v1.0.0"}, nil)
	}
	f := start(t, world, world.URL("html-modules"), verified())
	for _, path := range modules {
		f.wantStatus(path+"/@v/v1.0.0.zip", http.StatusForbidden, "checksum mismatch")
	}
	dir := filepath.Join(f.dir, "evidence")
	kept := func() []string {
		names, err := filepath.Glob(filepath.Join(dir, "mismatch-*.txt"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	first := kept()
	if len(first) != len(modules) {
		t.Fatalf("evidence %q, want %d files", first, len(modules))
	}
	for i := range evidence.Most { // links, because a thousand files are slow on some file systems
		if err := os.Link(first[0], filepath.Join(dir, fmt.Sprintf("mismatch-%d.txt", i))); err != nil {
			t.Fatal(err)
		}
	}
	before := len(kept())
	f.wantStatus("example.com/hello/@v/v1.0.0.zip", http.StatusForbidden, "checksum mismatch")
	if names := kept(); len(names) != before {
		t.Errorf("%d files of evidence, want no more than the %d there were", len(names), before)
	}
	f.wantLogged(t, "evidence of a checksum mismatch not saved")
}

// A zip reaches the client while it arrives, except for its last part.
func TestStreams(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 4<<20)
	f := start(t, world, world.URL("gated"), verified())
	resp, err := http.Get(f.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	want := world.File(path)
	if resp.ContentLength != int64(len(want)) || resp.Header.Get("Etag") != "" { // the bytes are not known yet
		t.Errorf("Content-Length %d, ETag %q", resp.ContentLength, resp.Header.Get("Etag"))
	}
	got := make([]byte, len(want))
	n := 0
	for n < len(want)/2 { // the gate closes after the first half
		m, err := resp.Body.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if f.holds(path) {
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
	// When a client has the complete zip it is in the store.
	if !f.holds(path) {
		t.Error("it is not")
	}
}

// If a large zip does not match the database, every waiting client gets a broken transfer
// without the last part, and later clients get the reason.
func TestTamperedStream(t *testing.T) {
	t.Parallel()
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
	if f.holds(path) {
		t.Error("stored")
	}
}

// An object is fetched once, for any number of clients, whenever they leave.
func TestOneFill(t *testing.T) {
	t.Parallel()
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

// A client that leaves does not stop its fill.
func TestFillOutlivesClient(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 1<<20)
	f := start(t, world, world.URL("slow"), verified())
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/"+path, nil) // a good one
		if resp, err := http.DefaultClient.Do(req); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	eventually(t, "the upstream is asked", func() bool { return world.Count(path) == 1 })
	leave()
	<-left
	eventually(t, "it is stored", func() bool { return f.holds(path) })
	if n := world.Count(path); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// A request for a go.mod never waits for a zip, and never causes a fetch of one.
func TestModAlone(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	world := newWorld(t)
	o := verified()
	o.config = func(c *proxy.Config) { c.Content.Fills.Zips = 2 }
	f := start(t, world, world.URL("gated"), o)
	f.want("example.com/hello/@v/v1.0.0.mod")
	var wg sync.WaitGroup
	for _, path := range []string{"example.com/hello/@v/v1.0.0.zip", "example.com/hello/@v/v1.1.0.zip", "example.com/old/@v/v1.5.0.zip"} {
		wg.Go(func() { f.want(path) })
	}
	eventually(t, "one zip waits for a place", func() bool { return f.metric(t, "assay_places_waiting") == 1 })
	begin := time.Now()
	f.want("example.com/hello/@v/v1.0.0.mod")
	f.want("example.com/hello/@v/v1.1.0.mod")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v behind the zips", took)
	}
	world.OpenGate()
	wg.Wait()
}

// stuckStore is a store that begins no object.
type stuckStore struct {
	storage.Store
	stuck atomic.Int32 // how many wait
}

func (s *stuckStore) Draft(ctx context.Context, _ int64) (storage.Draft, error) {
	return nil, s.wait(ctx)
}

func (s *stuckStore) Create(ctx context.Context, _ storage.Info, _ io.Reader) error {
	return s.wait(ctx)
}

func (s *stuckStore) wait(ctx context.Context) error {
	s.stuck.Add(1)
	defer s.stuck.Add(-1)
	<-ctx.Done()
	return ctx.Err()
}

// busy calls test in a bubble, with a server that has one place for zips and one for other
// objects, both taken: by clients of the zip and the info of example.com/hello@v1.0.0.
func busy(t *testing.T, test func(t *testing.T, get func(path string) response)) {
	t.Parallel()
	world := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		tree := t.TempDir()
		for _, version := range []string{"v1.0.0", "v1.1.0"} {
			for _, kind := range []string{".info", ".zip"} {
				path := "example.com/hello/@v/" + version + kind
				name := filepath.Join(tree, filepath.FromSlash(path))
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, world.File(path), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		store := new(stuckStore)
		f := &fixture{t: t, world: world, dir: t.TempDir(), logs: new(lockedBuffer)}
		f.build("file://"+filepath.ToSlash(tree), option{
			config: func(c *proxy.Config) { // clients give up before the fills count as silent
				c.Content.Fills.Objects, c.Content.Fills.Zips, c.Content.Times.Answer = 1, 1, 4*time.Second
			},
			store: func(s storage.Store) storage.Store { store.Store = s; return store },
		})
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		get := func(path string) response {
			w := f.ask(request, "", path)
			return response{w.Code, w.Header(), w.Body.Bytes(), nil}
		}
		go get("example.com/hello/@v/v1.0.0.zip")
		go get("example.com/hello/@v/v1.0.0.info")
		synctest.Wait()
		if store.stuck.Load() != 2 {
			t.Fatalf("%d places are taken, want 2", store.stuck.Load())
		}
		test(t, get)
	})
}

// When no place becomes free in time, clients get an error that says so.
func TestBusy(t *testing.T) {
	busy(t, func(t *testing.T, get func(string) response) {
		path := "example.com/hello/@v/v1.1.0.zip"
		a := get(path)
		wantError(t, path, a, http.StatusServiceUnavailable, "busy")
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		path = "example.com/hello/@v/v1.0.0.zip"
		wantError(t, path, get(path), http.StatusGatewayTimeout, "still being fetched")
	})
}

// A client that waits for a place for a list gets this error too.
func TestBusyLists(t *testing.T) {
	busy(t, func(t *testing.T, get func(string) response) {
		paths := []string{"example.com/hello/@v/list", "example.com/hello/@latest", "example.com/hello/@v/main.info"}
		got := make([]response, len(paths))
		var clients sync.WaitGroup
		for i, path := range paths {
			clients.Go(func() { got[i] = get(path) })
		}
		clients.Wait()
		for i, path := range paths {
			wantError(t, path, got[i], http.StatusServiceUnavailable, "busy")
		}
	})
}

// Damage on the disk is never served: the object is fetched again.
func TestDamage(t *testing.T) {
	t.Parallel()
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
	// Damage at the beginning is detected before the response starts; damage elsewhere
	// aborts the response.
	if a := f.get(path); a.err == nil && a.status == 200 && !bytes.Equal(a.body, world.File(path)) {
		t.Errorf("a damaged zip was served: %d bytes", len(a.body))
	}
	f.want(path)
	f.want(path)
	if n := world.Count(path); n != 2 {
		t.Errorf("fetched %d times, want twice", n)
	}
}

// An object in memory gives the same response, under the same rules.
func TestHot(t *testing.T) {
	t.Parallel()
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

	private, err := privacy.New("example.com")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := fetch.New(fetch.Config{List: world.URL("ok")})
	if err != nil {
		t.Fatal(err)
	}
	f.server.Reload(content.Settings{Upstream: chain, Policy: private})
	f.wantStatus("example.com/hello/@v/v1.0.0.mod", http.StatusNotFound, "is private here")
}

// A client that reads slowly, or not at all, delays no other client.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 16<<20) // more than the kernel buffers
	// The server ends a transfer without progress for a minute, so what takes a busy machine long is done before.
	var others []string
	for i := range 10 {
		m := module.Version{Path: fmt.Sprintf("example.com/other%d", i), Version: "v1.0.0"}
		world.AddModule(m, []txtar.File{{Name: "x", Data: bytes.Repeat([]byte("x"), 300<<10)}})
		others = append(others, m.Path+"/@v/v1.0.0.zip")
	}
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
	for _, other := range others {
		f.want(other)
	}
	for _, resp := range stuck {
		got := bytes.NewBuffer(make([]byte, 0, len(world.File(path))+bytes.MinRead))
		if _, err := got.ReadFrom(resp.Body); err != nil || !bytes.Equal(got.Bytes(), world.File(path)) {
			t.Errorf("the slow client got %d bytes, %v", got.Len(), err)
		}
	}
}

// If the store fails to store an object, the response is an error.
func TestStoreFails(t *testing.T) {
	t.Parallel()
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
