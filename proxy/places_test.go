package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
)

const lookups = "sumdb/" + proxytest.Database + "/lookup/"

// hanging is a world of which some paths hang, or drip, until their client leaves or the
// test ends.
type hanging struct {
	url       string
	now, most atomic.Int32 // requests that hang
	stop      chan struct{}
	once      sync.Once
}

// hang makes the paths for which hangs is true hang; those that end in .zip get one byte
// of a long response every tenth of a second.
func hang(t *testing.T, world *proxytest.World, hangs func(path string) bool) *hanging {
	h := &hanging{stop: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hangs(r.URL.Path) {
			world.ServeHTTP(w, r)
			return
		}
		select {
		case <-h.stop: // otherwise aborted requests would be sent again and again
			w.WriteHeader(http.StatusNotImplemented)
			return
		default:
		}
		defer h.now.Add(-1)
		raise(&h.most, h.now.Add(1))
		h.drip(w, r)
	}))
	h.url = server.URL + "/ok"
	t.Cleanup(func() {
		h.release()
		server.CloseClientConnections()
		server.Close()
	})
	return h
}

// raise makes most at least n.
func raise(most *atomic.Int32, n int32) {
	for {
		if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
			return
		}
	}
}

// release ends the hanging requests, so that the test need not wait for the server.
func (h *hanging) release() { h.once.Do(func() { close(h.stop) }) }

func (h *hanging) drip(w http.ResponseWriter, r *http.Request) {
	zip := strings.HasSuffix(r.URL.Path, ".zip")
	if zip {
		w.Header().Set("Content-Length", "1000000")
	}
	for {
		if zip {
			_, _ = w.Write([]byte("P"))
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-h.stop:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// byClient takes the address of a client from a header.
func byClient(c *proxy.Config) {
	c.Remote = func(r *http.Request) string { return r.Header.Get("X-Client") }
}

// ask sends a request to the server without a connection.
func (f *fixture) ask(r *http.Request, client, path string) *httptest.ResponseRecorder {
	r = r.Clone(r.Context())
	r.URL.Path = "/" + path
	r.Header.Set("X-Client", client)
	w := httptest.NewRecorder()
	defer func() { _ = recover() }() // of an aborted response
	f.server.ServeHTTP(w, r)
	return w
}

// eventually waits until a condition is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 6000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func hangingLookup(path string) bool { return strings.Contains(path, "/lookup/hang.example/") }

// One client with 700 hanging lookups gets a limited part of the places. A miss of
// another client, a lookup of a fill, and hits are answered at once.
func TestHangingLookups(t *testing.T) {
	world := newWorld(t)
	h := hang(t, world, hangingLookup)
	o := verified()
	o.config = byClient
	f := start(t, world, h.url, o)
	defer h.release()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	f.server.Hasten(time.Hour, time.Hour) // no work yields: other clients have places of their own
	held := lookups + "example.com/hello@v1.0.0"
	if w := f.ask(request, "192.0.2.9", held); w.Code != 200 {
		t.Fatal(w.Body)
	}
	before := runtime.NumGoroutine()
	var refused atomic.Int32
	for i := range 700 {
		go func() {
			w := f.ask(request, "192.0.2.1", fmt.Sprintf("%shang.example/m%d@v1.0.0", lookups, i))
			if w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), "this user or address") && w.Header().Get("Retry-After") != "" {
				refused.Add(1)
			}
		}()
	}
	const places, queue = 24, 256
	eventually(t, "bounded", func() bool { return refused.Load() == 700-places-queue && h.now.Load() == places })
	if n := runtime.NumGoroutine() - before; n > 2*(places+queue)+20*places {
		t.Errorf("%d goroutines for %d lookups under way and %d that wait", n, places, queue)
	}
	for _, path := range []string{lookups + "example.com/hello@v1.1.0", "example.com/old/@v/v1.5.0.zip", "example.com/hello/@v/list"} {
		if w := f.ask(request, "192.0.2.2", path); w.Code != 200 {
			t.Errorf("another client's %s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := f.ask(request, "192.0.2.1", held); w.Code != 200 {
		t.Errorf("a record that is held: %d %s", w.Code, w.Body)
	}
	if h.most.Load() > places {
		t.Errorf("%d requests to the upstream at once, want %d at most", h.most.Load(), places)
	}
	if f.metric(t, "assay_places_refused_total") != 700-places-queue || f.metric(t, "assay_places_waiting") != queue {
		t.Errorf("metrics: %v refused, %v waiting", f.metric(t, "assay_places_refused_total"), f.metric(t, "assay_places_waiting"))
	}
}

// 700 clients with one hanging lookup each take all places; a client that requests a
// module of another host gets a place as soon as the oldest of them reach their time
// limit.
func TestHangingLookupsOfMany(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{t: t, world: world, dir: t.TempDir(), logs: new(lockedBuffer)}
		o := verified()
		o.config = byClient
		var now, most atomic.Int32 // lookups that hang
		o.lookup = func(ctx context.Context, path string, limit int64) ([]byte, error) {
			if !hangingLookup("/" + path) {
				return world.Log.Fetch(ctx, path, limit)
			}
			raise(&most, now.Add(1))
			defer now.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		f.build("file://"+filepath.ToSlash(t.TempDir()), o)
		f.server.Hasten(time.Second, time.Second)
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		for i := range 700 {
			go f.ask(request, fmt.Sprintf("192.0.%d.%d", i/250, i%250), fmt.Sprintf("%shang.example/m%d@v1.0.0", lookups, i))
		}
		synctest.Wait()
		if now.Load() != 32 {
			t.Errorf("%d lookups hang, want one in each place", now.Load())
		}
		begin := time.Now()
		if w := f.ask(request, "198.51.100.1", lookups+"example.com/hello@v1.0.0"); w.Code != 200 {
			t.Errorf("another client: %d %s", w.Code, w.Body)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("another client waited %v", took)
		}
		if most.Load() > 2*32 { // the next lookup may begin before the one that yields has ended
			t.Errorf("%d lookups at once", most.Load())
		}
	})
}

// A site with a whole IPv6 /48, and so with any number of clients, takes neither all
// places nor the whole queue from a client elsewhere.
func TestHangingLookupsOfOneSite(t *testing.T) {
	world := newWorld(t)
	h := hang(t, world, hangingLookup)
	o := verified()
	o.config = byClient
	f := start(t, world, h.url, o)
	defer h.release()
	f.server.Hasten(time.Hour, time.Hour) // no work yields
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	for i := range 1100 {
		go f.ask(request, fmt.Sprintf("2001:db8:1:%x::1", i), fmt.Sprintf("%shang.example/m%d@v1.0.0", lookups, i))
	}
	eventually(t, "queue full", func() bool { return h.now.Load() == 24 && f.metric(t, "assay_places_waiting") == 1024 })
	for _, client := range []string{"198.51.100.1", "2001:db8:2::1"} {
		if w := f.ask(request, client, lookups+"example.com/hello@v1.0.0"); w.Code != 200 {
			t.Errorf("client %s: %d %s", client, w.Code, w.Body)
		}
	}
}

// Any number of clients that request the same hanging record cause one request upstream;
// after a failure it is not repeated at once.
func TestLookupsAreShared(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	var asked atomic.Int32
	h := hang(t, world, func(path string) bool {
		if hangingLookup(path) {
			asked.Add(1)
		}
		return hangingLookup(path)
	})
	o := verified()
	o.budget = quick
	o.budget.FirstByte = 4 * time.Second // longer than a response may take
	o.config = func(c *proxy.Config) { byClient(c); c.Content.Times.Answer = 2 * time.Second }
	f := start(t, world, h.url, o)
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			if w := f.ask(request, fmt.Sprint("192.0.2.", i), lookups+"hang.example/m@v1.0.0"); w.Code != http.StatusGatewayTimeout {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	wg.Wait()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if w := f.ask(request, "192.0.2.1", lookups+"hang.example/m@v1.0.0"); w.Code != http.StatusGatewayTimeout {
			t.Errorf("again: %d %s", w.Code, w.Body)
		}
	}()
	for waiting := true; waiting; {
		if n := h.now.Load(); n > 1 {
			t.Fatalf("%d requests for one record are under way at the same time", n)
		}
		select {
		case <-answered:
			waiting = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	if n := asked.Load(); n == 0 || n > 4 { // attempts of one lookup, one after the other
		t.Errorf("the upstream was asked %d times by 301 clients", n)
	}
}

// Requests for tiles beyond the end that do not exist cause few requests upstream, and
// cost other clients nothing.
func TestTilesBeyond(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	world.Log.Fill(300)
	o := verified()
	o.config = byClient
	f := start(t, world, world.URL("ok"), o)
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	tiles := "sumdb/" + proxytest.Database + "/tile/8/"
	world.Log.ShowLatest(300)
	f.ask(request, "192.0.2.1", "sumdb/"+proxytest.Database+"/latest")
	world.Log.Fill(900)
	world.ResetCounts()
	var (
		wg   sync.WaitGroup
		next atomic.Int32
	)
	for range 50 {
		wg.Go(func() {
			for n := next.Add(1); n <= 1000; n = next.Add(1) {
				w := f.ask(request, "192.0.2.1", fmt.Sprintf("%s0/x001/%03d.p/7", tiles, n-1))
				if w.Code != http.StatusNotFound && w.Code != http.StatusServiceUnavailable {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
		})
	}
	wg.Wait()
	if n := world.Count(tiles + "*"); n > 2*(16+4) || n == 0 {
		t.Errorf("%d requests for 1000 tiles that do not exist", n)
	}
	if w := f.ask(request, "192.0.2.1", tiles+"0/000"); w.Code != 200 {
		t.Errorf("a tile that is there, for the same client: %d %s", w.Code, w.Body)
	}
	if w := f.ask(request, "192.0.2.2", tiles+"0/002"); w.Code != 200 {
		t.Errorf("a tile beyond our head that exists, for another client: %d %s", w.Code, w.Body)
	}
}

// No request of a cold job on 200 machines behind one address is refused.
func TestFleet(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	var paths []string
	for i := range 40 {
		m := module.Version{Path: fmt.Sprintf("example.com/fleet%d", i), Version: "v1.0.0"}
		world.AddModule(m, []txtar.File{{Name: "x", Data: bytes.Repeat([]byte("x"), 10<<10)}})
		base := m.Path + "/@v/" + m.Version
		paths = append(paths, base+".info", base+".mod", base+".zip", lookups+m.String())
	}
	f := start(t, world, world.URL("ok"), verified())
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	var wg sync.WaitGroup
	for machine := range 200 {
		wg.Go(func() {
			for i := range 20 {
				path := paths[(machine*7+i*13)%len(paths)]
				if w := f.ask(request, "192.0.2.1", path); w.Code != 200 {
					t.Errorf("%s: %d %s", path, w.Code, w.Body)
				}
			}
		})
	}
	wg.Wait()
	for _, path := range paths {
		if n := world.Count(path); n > 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
}

func TestClientKey(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ user, remote, want string }{
		{"", "192.0.2.7", "192.0.2.7"},
		{"", "::ffff:192.0.2.7", "192.0.2.7"},
		{"", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
		{"", "2001:db8:1:2::1", "2001:db8:1:2::/64"},
		{"", "fe80::1%eth0", "fe80::/64"},
		{"", "no address", "no address"},
		{"", "", "unknown"},
		{"ci", "192.0.2.7", "user basic ci"},
	} {
		if got := proxy.ClientKey(test.user, test.remote); got != test.want {
			t.Errorf("client of %q at %q is %q, want %q", test.user, test.remote, got, test.want)
		}
	}
}

// Sixteen dripping zips of sixteen clients delay no other client, whether those clients
// still wait or have left. While there are free places they continue.
func TestDrippingZips(t *testing.T) {
	t.Parallel()
	for _, left := range []bool{false, true} {
		t.Run(fmt.Sprint("left=", left), func(t *testing.T) {
			world := newWorld(t)
			h := hang(t, world, func(path string) bool {
				return strings.Contains(path, "/hang.example/") && strings.HasSuffix(path, ".zip")
			})
			defer h.release()
			f := start(t, world, h.url, option{config: byClient})
			f.server.Hasten(2*time.Second, time.Second)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			drip := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
			var clients sync.WaitGroup
			for n := range 16 {
				clients.Go(func() { f.ask(drip, fmt.Sprint("192.0.2.", n), fmt.Sprintf("hang.example/m%d/@v/v1.0.0.zip", n)) })
			}
			eventually(t, "sixteen zips drip", func() bool { return h.now.Load() == 16 })
			if left {
				leave()
				clients.Wait()
			}
			time.Sleep(1500 * time.Millisecond)
			if n := h.now.Load(); n != 16 {
				t.Errorf("%d zips drip while no place is short, want 16", n)
			}
			path := "example.com/hello/@v/v1.0.0.zip"
			w := f.ask(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), "198.51.100.1", path)
			if w.Code != 200 || !bytes.Equal(w.Body.Bytes(), world.File(path)) {
				t.Errorf("another client's zip: %d %.200s", w.Code, w.Body)
			}
			if n := f.metric(t, "assay_places_yielded_total"); n != 1 {
				t.Errorf("%v zips had to yield, want 1", n)
			}
			leave()
			clients.Wait()
		})
	}
}

// draftCounter is a store that counts its drafts.
type draftCounter struct {
	storage.Store
	open, opened atomic.Int32
}

func (s *draftCounter) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := s.Store.Draft(ctx, size)
	if err != nil {
		return nil, err
	}
	s.open.Add(1)
	s.opened.Add(1)
	return &countedDraft{d, s}, nil
}

type countedDraft struct {
	storage.Draft
	s *draftCounter
}

func (d *countedDraft) Close() error {
	d.s.open.Add(-1)
	return d.Draft.Close()
}

// A client that is slower than the fill gets the rest from the stored object: the draft is
// not kept for it.
func TestSlowClientLetsDraftGo(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 32<<20)
	drafts := new(draftCounter)
	o := verified()
	o.config = func(c *proxy.Config) { drafts.Store, c.Content.Store = c.Content.Store, drafts }
	f := start(t, world, world.URL("gated"), o)
	resp, err := http.Get(f.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if drafts.open.Load() != 1 {
		t.Errorf("%d drafts are open", drafts.open.Load())
	}
	world.OpenGate() // the client follows a running fill
	var got bytes.Buffer
	eventually(t, "stored", func() bool {
		return f.holds(path)
	})
	eventually(t, "the draft is closed before the client is done", func() bool {
		if _, err := io.CopyN(&got, resp.Body, 64<<10); err != nil {
			t.Fatalf("after %d bytes: %v", got.Len(), err)
		}
		return drafts.open.Load() == 0
	})
	if got.Len() > 16<<20 { // the kernel buffers some megabytes that the client has not read
		t.Errorf("the draft was closed only after %d bytes", got.Len())
	}
	if _, err := got.ReadFrom(resp.Body); err != nil || !bytes.Equal(got.Bytes(), world.File(path)) {
		t.Errorf("the slow client got %d bytes, %v", got.Len(), err)
	}
}

// A path that is too long for a key is malformed, in each kind of request.
func TestTooLongPath(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	for _, size := range []int{1900, 2100, 4000, 5000, 30000} {
		name := "example.com" + strings.Repeat("/abcdefghi", size/10)
		for _, path := range []string{name + "/@v/list", name + "/@latest", name + "/@v/v1.0.0.info", name + "/@v/v1.0.0.mod", name + "/@v/v1.0.0.zip",
			name + "/@v/main.info", lookups + name + "@v1.0.0", "example.com/hello/@v/" + strings.Repeat("b", size) + ".info"} {
			if a := f.get(path); a.status != http.StatusNotFound {
				t.Errorf("%d bytes: %.20s...%s: %.300v", size, path, path[len(path)-12:], a)
			}
		}
	}
}
