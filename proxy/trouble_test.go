package proxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// A removed directory for temporary files is no absence of a module. A zip with so many files
// that hashing it needs one is an error of our own if there cannot be one; other zips need none.
func TestScratchGone(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	many := "example.com/many/@v/v1.0.0.zip"
	var files []txtar.File
	for i := range 40_000 {
		files = append(files, txtar.File{Name: fmt.Sprintf("internal/package%d/file%d.go", i%1000, i)})
	}
	world.AddModule(module.Version{Path: "example.com/many", Version: "v1.0.0"}, files)
	f := start(t, world, world.URL("ok"), verified())
	scratch := filepath.Join(f.dir, "scratch")
	if err := os.RemoveAll(scratch); err != nil {
		t.Fatal(err)
	}
	f.want("example.com/hello/@v/v1.0.0.zip")
	f.want(many)
	if err := f.store.Delete(t.Context(), keyOf(many)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(scratch); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(scratch, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.want("example.com/hello/@v/v1.1.0.zip")
	if a := f.get(many); a.err == nil && a.status != http.StatusInternalServerError {
		t.Errorf("status %d, %d bytes and no error", a.status, len(a.body))
	}
	if f.holds(many) {
		t.Error("it is stored, and was not hashed")
	}
	if err := os.Remove(scratch); err != nil {
		t.Fatal(err)
	}
	f.want(many)
}

// Scratch files that a killed process left are removed, whatever the directory's
// name.
func TestScratchIsCleared(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	dir := filepath.Join(t.TempDir(), "a[b")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	left, other := filepath.Join(dir, "fill-1.part"), filepath.Join(dir, "other")
	for _, name := range []string{left, other} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := verified()
	o.config = func(c *proxy.Config) { c.Content.Scratch = dir }
	start(t, world, world.URL("ok"), o)
	if _, err := os.Stat(left); err == nil {
		t.Error("what was left is still there")
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("what is not ours is gone: %v", err)
	}
}

// badStore is a store in which some operations fail.
type badStore struct {
	storage.Store
	damaged string // key that can be neither read nor deleted
	panics  string // key whose creation panics
	full    string // key for which the disk is full
	cannot  string // key whose creation the file system does not support
	drafts  *draftCounter
}

func (s *badStore) Open(ctx context.Context, key string) (storage.Object, error) {
	if key == s.damaged {
		return nil, storage.ErrDamaged
	}
	return s.Store.Open(ctx, key)
}

func (s *badStore) Delete(ctx context.Context, key string) error {
	if key == s.damaged {
		return errors.New("the disk is read-only")
	}
	return s.Store.Delete(ctx, key)
}

func (s *badStore) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := s.fails(info.Key); err != nil {
		return err
	}
	return s.Store.Create(ctx, info, r)
}

func (s *badStore) Apply(ctx context.Context, b storage.Batch) error {
	for _, c := range b.Create {
		if err := s.fails(c.Info.Key); err != nil {
			return err
		}
	}
	return s.Store.Apply(ctx, b)
}

// fails returns the error of creating key.
func (s *badStore) fails(key string) error {
	switch key {
	case s.panics:
		panic("a defect")
	case s.full:
		return &fs.PathError{Op: "write", Path: "blobs.db", Err: syscall.ENOSPC}
	case s.cannot:
		return &fs.PathError{Op: "sync", Path: "blobs.db", Err: syscall.ENOTSUP}
	}
	return nil
}

func (s *badStore) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := s.Store.Draft(ctx, size)
	return badDraft{d, s}, err
}

// badDraft is a draft of a badStore.
type badDraft struct {
	storage.Draft
	s *badStore
}

func (d badDraft) Commit(ctx context.Context, info storage.Info) error {
	if err := d.s.fails(info.Key); err != nil {
		return err
	}
	return d.Draft.Commit(ctx, info)
}

// startBad starts a server on a badStore.
func startBad(t *testing.T, bad *badStore) *fixture {
	o := verified()
	o.store = func(s storage.Store) storage.Store {
		if bad.drafts != nil {
			bad.drafts.Store = s
			s = bad.drafts
		}
		bad.Store = s
		return bad
	}
	world := newWorld(t)
	big(world, 2<<20)
	return start(t, world, world.URL("ok"), o)
}

// A damaged object that cannot be removed is an error of our own, not an absence.
func TestDamageThatStays(t *testing.T) {
	t.Parallel()
	const path = "example.com/hello/@v/v1.0.0.mod"
	f := startBad(t, &badStore{damaged: keyOf(path)})
	if err := f.store.Create(t.Context(), storage.Info{Key: keyOf(path), Size: 1, Hash: "x"}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	f.wantStatus(path, http.StatusInternalServerError)
	f.want("example.com/hello/@v/v1.1.0.mod")
}

// A system call that fails as not supported does not mean that the own log is read-only.
func TestUnsupportedOperation(t *testing.T) {
	t.Parallel()
	const path = "example.com/hello/@v/v1.0.0.mod"
	f := startBad(t, &badStore{cannot: keyOf(path)})
	f.wantStatus(path, http.StatusInternalServerError, "internal error")
	f.want("example.com/hello/@v/v1.1.0.mod")
}

// A held record that cannot be read is counted as an error, not as a hit.
func TestUnreadableRecordIsNoHit(t *testing.T) {
	t.Parallel()
	const path = "sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.0.0"
	world := newWorld(t)
	o := verified()
	o.config = func(c *proxy.Config) {
		mirror, err := sumdb.Open(t.Context(), sumdb.Config{Key: world.GOSUMDB(), Store: &badStore{Store: c.Content.Store, damaged: path}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(mirror.Close)
		c.Content.Databases = []*sumdb.Mirror{mirror}
	}
	f := start(t, world, world.URL("ok"), o)
	f.wantStatus(path, http.StatusInternalServerError)
	if got := f.results(); len(got) != 1 || got["error"] != 1 {
		t.Errorf("counted as %v, want one error", got)
	}
}

// A defect in a fill fails the requests that wait for it, and no others.
func TestFillPanics(t *testing.T) {
	t.Parallel()
	const mod, zip = "example.com/hello/@v/v1.0.0.mod", "example.com/big/@v/v1.0.0.zip"
	f := startBad(t, &badStore{panics: keyOf(mod)})
	for range 2 {
		f.wantStatus(mod, http.StatusInternalServerError, "internal error")
	}
	f.want(zip)
	drafts := new(draftCounter)
	f = startBad(t, &badStore{panics: keyOf(zip), drafts: drafts})
	if a := f.get(zip); a.err == nil && a.status == http.StatusOK {
		t.Errorf("status %d, %d bytes, and no error", a.status, len(a.body))
	}
	f.want(mod)
	f.close()
	left, err := filepath.Glob(filepath.Join(f.dir, "scratch", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("scratch files are left: %q, %v", left, err)
	}
	if drafts.open.Load() != 0 || drafts.opened.Load() == 0 {
		t.Errorf("%d of %d drafts are open", drafts.open.Load(), drafts.opened.Load())
	}
}

// A failure of our own would occur again: later clients get the reason, and not another
// aborted transfer.
func TestReasonAfterBrokenStream(t *testing.T) {
	t.Parallel()
	const zip = "example.com/big/@v/v1.0.0.zip"
	for _, tt := range []struct {
		store  *badStore
		status int
		text   string
	}{
		{&badStore{full: keyOf(zip)}, http.StatusServiceUnavailable, "disk is full"},
		{&badStore{panics: keyOf(zip)}, http.StatusInternalServerError, "internal error"},
	} {
		f := startBad(t, tt.store)
		if a := f.get(zip); a.err == nil {
			t.Errorf("the first: %d, %d bytes, and no error", a.status, len(a.body))
		}
		f.wantStatus(zip, tt.status, tt.text)
		f.wantStatus(zip, tt.status, tt.text)
	}
}

// A client that leaves in the middle of a response, or does not read it, is no error of
// this proxy.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 32<<20)
	f := start(t, world, world.URL("ok"), verified())
	f.want(path)
	for i := range 6 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		header := ""
		if i%2 == 1 {
			header = "Range: bytes=10-\r\n"
		}
		fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, header)
		if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	eventually(t, "all responses have ended", func() bool { return f.metric(t, "assay_cache_requests_total") == 1+6 })
	if log := f.logs.String(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") {
		t.Errorf("log: %s", log)
	}
}

// stuckWriter is a client that reads nothing, but keeps its connection open.
type stuckWriter struct{ *httptest.ResponseRecorder }

func (stuckWriter) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

func TestStuckClientIsNoError(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 1<<20)
	f := start(t, world, world.URL("ok"), verified())
	f.want(path)
	for _, path := range []string{path, "example.com/hello/@v/v1.0.0.mod"} {
		f.want(path)
		func() {
			defer func() {
				if got := recover(); got != http.ErrAbortHandler {
					t.Errorf("%s: panic with %v, want the answer to break off", path, got)
				}
			}()
			f.server.ServeHTTP(stuckWriter{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/"+path, nil))
		}()
	}
	if log := f.logs.String(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") {
		t.Errorf("log: %s", log)
	}
}

// A large response may take any time while it makes progress, also for a range.
func TestSlowRange(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 32<<20)
	f := start(t, world, world.URL("ok"), verified())
	f.want(path)
	server := httptest.NewUnstartedServer(f.server)
	server.Config.WriteTimeout = 300 * time.Millisecond
	server.Start()
	defer server.Close()
	for _, header := range [][2]string{{"Range", "bytes=1-"}, {"If-None-Match", `"other"`}, {"X", "y"}} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(header[0], header[1])
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || n != resp.ContentLength {
			t.Errorf("%v: %d of %d bytes, %v", header, n, resp.ContentLength, err)
		}
	}
}

// If an upstream announces a zip and sends nothing, a client waits no longer than for any
// response, and gets a status and a text.
func TestZipThatDoesNotBegin(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 2<<20)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".zip") {
			http.Redirect(w, r, world.URL("ok")+r.URL.Path, http.StatusFound)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(world.File(path))))
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(func() {
		upstream.CloseClientConnections()
		upstream.Close()
	})
	o := verified()
	o.config = func(c *proxy.Config) { c.Content.Times.Answer = 500 * time.Millisecond }
	f := start(t, world, upstream.URL, o)
	begin := time.Now()
	f.wantStatus(path, http.StatusGatewayTimeout, "still being fetched")
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_ = f.server.Close(ctx) // without waiting for the upstream
}

// The error for a zip that cannot be fetched does not wait for its record.
func TestBrokenZipDoesNotWait(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 2<<20)
	var zips atomic.Int32
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/lookup/"):
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, ".zip") && zips.Add(1) > 1:
			http.Error(w, "no", http.StatusNotImplemented)
		case strings.HasSuffix(r.URL.Path, ".zip"):
			http.Redirect(w, r, world.URL("reset-mid")+r.URL.Path, http.StatusFound)
		default:
			http.Redirect(w, r, world.URL("ok")+r.URL.Path, http.StatusFound)
		}
	}))
	t.Cleanup(func() { upstream.CloseClientConnections(); upstream.Close() })
	f := start(t, world, upstream.URL, verified())
	begin := time.Now()
	f.wantStatus(path, http.StatusBadGateway, "an upstream failed")
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

// If the database hangs, no client waits longer than for any response: neither for an
// object that was stored without a proof, nor for the head of the database.
func TestDatabaseHangs(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), option{})
	const path = "example.com/hello/@v/v1.0.0.mod"
	f.want(path)
	f.close()
	o := verified()
	o.config = func(c *proxy.Config) { c.Content.Times.Answer = 300 * time.Millisecond }
	f.open(world.URL("sumdb-hang"), o)
	for _, path := range []string{path, "sumdb/sum.test.example/latest", "sumdb/sum.test.example/tile/8/0/000.p/1", "sumdb/sum.test.example/lookup/example.com/hello@v1.0.0"} {
		begin := time.Now()
		f.wantStatus(path, http.StatusGatewayTimeout, "still being fetched")
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("%s took %v", path, took)
		}
	}
}

// A request for a stored object causes no request to others.
func TestCachedOnlyAsksNobody(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range []string{
		"example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/list", "example.com/hello/@latest", "example.com/hello/@v/main.info",
		"sumdb/sum.test.example/latest", "sumdb/sum.test.example/lookup/example.com/hello@v1.0.0",
	} {
		f.wantStatus("cached-only/"+path, http.StatusNotFound, "not found: temporarily unavailable")
	}
	if n := world.Count("*"); n != 0 {
		t.Errorf("%d requests upstream: %q", n, world.Paths())
	}
}

// While a zip arrives the hash of its bytes is not known: there is no entity tag, and a
// client with an earlier one gets the zip. Afterwards the tag counts.
func TestConditionalWhileStreaming(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 2<<20)
	f := start(t, world, world.URL("gated"), verified())
	tag := fmt.Sprintf(`"sha256:%x"`, sha256.Sum256(world.File(path)))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("If-None-Match", tag)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Etag"); resp.StatusCode != http.StatusOK || got != "" {
		t.Errorf("while it arrives: %s, ETag %q, want none", resp.Status, got)
	}
	world.OpenGate()
	if body, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(body, world.File(path)) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	for _, header := range []string{tag, `"a", W/` + tag} {
		same := f.get(path, "If-None-Match", header)
		if same.status != http.StatusNotModified || len(same.body) != 0 || same.header.Get("Etag") != tag {
			t.Errorf("If-None-Match %s: %v, ETag %q", header, same, same.header.Get("Etag"))
		}
	}
}

// The text has the next step, however long the names before it are.
func TestLongNamesKeepTheNextStep(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), option{database: true, private: "corp.example"})
	name := "corp.example/" + strings.Repeat("very-long/", 80) + "x"
	f.wantStatus(name+"/@v/list", http.StatusNotFound, "go env -w GOPRIVATE=corp.example\n")
	f.wantStatus("sumdb/sum.test.example/lookup/"+name+"@v1.0.0", http.StatusForbidden, "go env -w GONOSUMDB=corp.example\n")
}

// No answer is older than Stale.
func TestStale(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	const path = "example.com/hello/@v/list"
	o := verified()
	o.config = func(c *proxy.Config) {
		c.Content.Times.Fresh, c.Content.Times.Stale = 50*time.Millisecond, 100*time.Millisecond
	}
	f := start(t, world, world.URL("ok"), o)
	f.get(path)
	world.Set(path, []byte("v1.0.0\nv1.7.0\n"))
	time.Sleep(150 * time.Millisecond)
	if a := f.get(path); string(a.body) != "v1.0.0\nv1.7.0\n" {
		t.Errorf("older than it may be: %v", a)
	}
}

// Of concurrent requests for a list one counts as a miss.
func TestOneMissOfMany(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	m := module.Version{Path: "example.com/many", Version: "v1.0.0"}
	world.AddModule(m, []txtar.File{{Name: "go.mod", Data: []byte("module example.com/many\n")}})
	release := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		http.Redirect(w, r, world.URL("ok")+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(upstream.Close)
	f := start(t, world, upstream.URL, option{})
	status := make(chan string)
	const clients = 5
	for range clients {
		go func() { status <- f.get("example.com/many/@v/list").header.Get("Cache-Status") }()
	}
	eventually(t, "all wait", func() bool { return f.objects().Clients == clients })
	close(release)
	miss := 0
	for range clients {
		if <-status == "assay; fwd=miss; stored" {
			miss++
		}
	}
	if miss != 1 {
		t.Errorf("%d of %d have missed, want 1", miss, clients)
	}
}
