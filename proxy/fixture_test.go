package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/sumdb"
)

// modules are in every world here: an ordinary module with several versions, one
// without go.mod, one with upper case, one with a major version.
const modules = `
-- example.com/hello@v1.0.0/go.mod --
module example.com/hello
-- example.com/hello@v1.0.0/hello.go --
package hello
-- example.com/hello@v1.1.0/go.mod --
module example.com/hello
-- example.com/hello@v1.1.0/hello.go --
package hello // 1.1
-- example.com/hello@v1.2.0-rc.1/go.mod --
module example.com/hello
-- example.com/hello@v0.0.0-20200101000000-abcdefabcdef/go.mod --
module example.com/hello
-- example.com/old@v2.0.0+incompatible/old.go --
package old
-- example.com/old@v1.5.0/old.go --
package old
-- example.com/Upper@v1.0.0-RC.1/go.mod --
module example.com/Upper
-- example.com/major/v2@v2.3.4/go.mod --
module example.com/major/v2
-- golang.org/toolchain@v0.0.1-go1.99.0.linux-amd64/bin/go --
not really
`

// fixture is a Server with the world that has its modules.
type fixture struct {
	t      *testing.T
	world  *proxytest.World
	dir    string
	store  *bolt.DB
	chain  *fetch.Chain
	mirror *sumdb.Mirror // nil without a database
	server *proxy.Server
	url    string
	logs   *lockedBuffer
}

// option changes the parts of a fixture.
type option struct {
	private  string
	database bool // false: sumdb off
	config   func(*proxy.Config)
	store    func(storage.Store) storage.Store // what the library and the mirror get
	lookup   sumdb.FetchFunc                   // of the database; nil: that of the upstream list
	storage  func(*bolt.Options)
	conn     func(net.Conn) // of each client
	budget   fetch.Budget
	log      func(slog.Handler) slog.Handler
}

// quick are budgets for upstreams that hang. On a busy machine one that answers may be too slow for them.
var quick = fetch.Budget{
	Connect: time.Second, TLS: time.Second, FirstByte: 300 * time.Millisecond, IdleBody: 300 * time.Millisecond, Answer: 2 * time.Second,
	Pause: 20 * time.Millisecond,
}

// hurried are budgets for upstreams that fail, and do not hang.
var hurried = fetch.Budget{Pause: quick.Pause}

func verified() option { return option{database: true} }

// newWorld returns a world with the modules.
func newWorld(t *testing.T) *proxytest.World {
	w := proxytest.New(t)
	w.Add(modules)
	return w
}

// start starts a server whose upstream list is list, on a store of its own.
func start(t *testing.T, world *proxytest.World, list string, o option) *fixture {
	t.Helper()
	f := &fixture{t: t, world: world, dir: t.TempDir(), logs: new(lockedBuffer)}
	f.open(list, o)
	return f
}

// open starts the server of f on the directory of f.
func (f *fixture) open(list string, o option) {
	f.t.Helper()
	f.build(list, o)
	httpServer := httptest.NewUnstartedServer(f.server)
	if o.conn != nil {
		httpServer.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { o.conn(c); return ctx }
	}
	httpServer.Start()
	f.url = httpServer.URL
	f.t.Cleanup(func() {
		httpServer.CloseClientConnections()
		httpServer.Close()
	})
}

// build makes the server of f on the directory of f. Without connections, it can be in a bubble.
func (f *fixture) build(list string, o option) {
	t := f.t
	t.Helper()
	handler := slog.Handler(slog.NewTextHandler(f.logs, nil))
	if o.log != nil {
		handler = o.log(handler)
	}
	log := slog.New(handler)
	var err error
	options := &bolt.Options{Logger: log}
	if o.storage != nil {
		o.storage(options)
	}
	if f.store, err = bolt.Open(filepath.Join(f.dir, "data"), options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.store.Close() })
	if f.chain, err = fetch.New(fetch.Config{List: list, Budget: o.budget, RedirectHosts: []string{"127.0.0.1"}, Logger: log}); err != nil {
		t.Fatal(err)
	}
	private, err := privacy.New(o.private)
	if err != nil {
		t.Fatal(err)
	}
	store := storagetest.Strict(t, f.store)
	if o.store != nil {
		store = o.store(store)
	}
	c := proxy.Config{
		Content: content.Config{
			Store: store, Logger: log, Scratch: filepath.Join(f.dir, "scratch"), Evidence: filepath.Join(f.dir, "evidence"),
		},
		Settings: content.Settings{Upstream: f.chain, Policy: private},
	}
	if o.database {
		ask := o.lookup
		if ask == nil && !f.chain.Offline() {
			ask = f.chain.SumDB(proxytest.Database, "http://127.0.0.1:1", true)
		}
		f.mirror, err = sumdb.Open(t.Context(), sumdb.Config{Key: f.world.GOSUMDB(), Store: store, Fetch: ask, Evidence: c.Content.Evidence, Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		c.Content.Databases = []*sumdb.Mirror{f.mirror}
	}
	if o.config != nil {
		o.config(&c)
	}
	if f.server, err = proxy.New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.closeWithin(0) }) // what an upstream that hangs has not sent is of no interest
}

// close stops the server of f, so that its directory can be opened again.
func (f *fixture) close() { f.closeWithin(5 * time.Second) }

// closeWithin is close that waits so long for running fetches.
func (f *fixture) closeWithin(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_ = f.server.Close(ctx) // running fetches may be aborted
	f.chain.Close()
	if f.mirror != nil {
		f.mirror.Close()
	}
	_ = f.store.Close() // a test that reopens it has closed it already
}

// response is the response that a client got.
type response struct {
	status int
	header http.Header
	body   []byte
	err    error // of the transfer
}

func (a response) String() string { return fmt.Sprintf("%d %q %v", a.status, a.body, a.err) }

// do sends a request; the header is pairs of names and values.
func (f *fixture) do(method, path string, header ...string) response {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.url+"/"+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return response{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, body, err}
}

func (f *fixture) get(path string, header ...string) response {
	f.t.Helper()
	return f.do(http.MethodGet, path, header...)
}

// want gets path and checks that the response is the file in the world.
func (f *fixture) want(path string) response {
	f.t.Helper()
	a := f.get(path)
	if a.status != http.StatusOK || a.err != nil || !bytes.Equal(a.body, f.world.File(path)) {
		f.t.Fatalf("GET %s = %.300v, want the world's", path, a)
	}
	return a
}

// wantStatus gets path and checks the status, and that the go command would show the
// text.
func (f *fixture) wantStatus(path string, status int, texts ...string) response {
	f.t.Helper()
	a := f.get(path)
	wantError(f.t, path, a, status, texts...)
	return a
}

// wantError checks a response to a request for path as wantStatus does.
func wantError(t *testing.T, path string, a response, status int, texts ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("GET %s = %v, want status %d", path, a, status)
	}
	checkText(t, a)
	for _, text := range texts {
		if !strings.Contains(string(a.body), text) {
			t.Errorf("GET %s says %q, want %q in it", path, a.body, text)
		}
	}
}

// checkText checks that the go command shows an error's text completely.
func checkText(t *testing.T, a response) {
	t.Helper()
	if ct := a.header.Get("Content-Type"); ct != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type of an error is %q", ct)
	}
	text := string(a.body)
	if strings.Count(text, "\n") > 8 || len(text) > 648 || strings.Contains(text, "\n\n") || strings.TrimSpace(text) == "" {
		t.Errorf("text %q does not fit: want at most 8 lines and 648 bytes, none empty", text)
	}
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// keyOf returns the key of a public file, as the database of the world vouches for it.
func keyOf(path string) string {
	if strings.HasSuffix(path, ".info") {
		return storage.Upstream.Key(path)
	}
	return storage.ProvedBy(proxytest.Database).Key(path)
}

// pinnedKey returns the key of a private file.
func pinnedKey(path string) string { return storage.PinnedIn("log.corp.example").Key(path) }

// holds reports whether anything is stored for a path, whatever vouches for it.
func (f *fixture) holds(path string) bool {
	for _, key := range []string{storage.Upstream.Key(path), storage.ProvedBy(proxytest.Database).Key(path), pinnedKey(path)} {
		if _, err := f.store.Stat(f.t.Context(), key); err == nil {
			return true
		}
	}
	return false
}
