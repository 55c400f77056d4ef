package proxy_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/storage/bolt"
)

// withMemory is an option with budgets; answers, for responses, may be nil.
func withMemory(m content.Memory, answers *memory.Budget) option {
	return option{config: func(c *proxy.Config) { c.Content.Memory, c.Answers = m, answers }, storage: func(o *bolt.Options) {
		o.Readers, o.Writers = answers, memory.New(bolt.WriterMemory)
	}, conn: func(c net.Conn) {
		_ = c.(*net.TCPConn).SetWriteBuffer(64 << 10) // otherwise the kernel buffers megabytes that a client does not read
	}}
}

// peak returns by how many bytes at most the objects of the program grew while do ran.
func peak(do func()) int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() int64 { metrics.Read(sample); return int64(sample[0].Value.Uint64()) }
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	debug.FreeOSMemory()
	before, most := read(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most = max(most, read()-before)
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Microsecond):
			}
		}
	}()
	do()
	close(stop)
	<-stopped
	return most
}

// all requests all paths at the same time, and returns the number of responses by status.
func (f *fixture) all(paths []string) map[int]int {
	var all sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for _, path := range paths {
		all.Go(func() {
			resp, err := http.Get(f.url + "/" + path)
			if err != nil {
				f.t.Error(err)
				return
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body) // an incomplete body does not matter here
			if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
				f.t.Errorf("%s: 503 without Retry-After", path)
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[resp.StatusCode]++
		})
	}
	all.Wait()
	return statuses
}

// Concurrent requests for large go.mod files take turns in the memory for them, or get a
// 503.
func TestLargeModsTogether(t *testing.T) {
	world := newWorld(t)
	mod := append([]byte("module example.com/large\n"), bytes.Repeat([]byte("// 0123456789ab\n"), 1<<20/16)...)
	var paths []string
	for i := range 30 {
		paths = append(paths, fmt.Sprintf("example.com/large/@v/v1.0.%d.mod", i))
		world.Set(paths[i], mod)
	}
	fetches := memory.New(3 << 20)
	f := start(t, world, world.URL("ok"), withMemory(content.Memory{Fetches: fetches}, nil))
	var statuses map[int]int
	grown := peak(func() { statuses = f.all(paths) })
	if statuses[200] == 0 || statuses[200]+statuses[503] != len(paths) {
		t.Errorf("statuses %v", statuses)
	}
	if limit := int64(3<<20 + bolt.WriterMemory + 8<<20); grown > limit { // 60 MB without a limit
		t.Errorf("%d MB, want at most %d", grown>>20, limit>>20)
	}
	if fetches.Used() != 0 {
		t.Errorf("%d bytes are lost", fetches.Used())
	}
}

// zipOfMany returns the zip of example.com/many@v1.0.0, as Go writes it, with the given
// number of empty files.
func zipOfMany(t *testing.T, files int) []byte {
	// One compressor for all: each one clears its tables, which takes the race detector a millisecond.
	var empty, b bytes.Buffer
	c, err := flate.NewWriter(&empty, flate.DefaultCompression)
	if err == nil {
		err = c.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(&b)
	for i := range files {
		w, err := z.CreateRaw(&zip.FileHeader{
			Name:   fmt.Sprintf("example.com/many@v1.0.0/internal/package%d/file%d.go", i%1000, i),
			Method: zip.Deflate, CompressedSize64: uint64(empty.Len()),
		})
		if err == nil {
			_, err = w.Write(empty.Bytes())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Hashing three zips with 40,000 files each at the same time takes the memory for one of
// them, and no object for each file.
func TestZipsOfManyFiles(t *testing.T) {
	world := newWorld(t)
	data := zipOfMany(t, 40_000)
	var paths []string
	for _, name := range []string{"many", "mane", "mani"} { // their zips have the same length
		paths = append(paths, "example.com/"+name+"/@v/v1.0.0.zip")
		world.Set("example.com/"+name+"/@v/v1.0.0.zip", bytes.ReplaceAll(data, []byte("example.com/many@"), []byte("example.com/"+name+"@")))
	}
	proofs := memory.New(modzip.Memory)
	f := start(t, world, world.URL("ok"), withMemory(content.Memory{Proofs: proofs}, nil))
	var statuses map[int]int
	grown := peak(func() { statuses = f.all(paths) })
	if statuses[200] != len(paths) {
		t.Errorf("statuses %v", statuses)
	}
	if limit := int64(modzip.Memory + bolt.WriterMemory + 8<<20); grown > limit { // 90 MB with archive/zip
		t.Errorf("%d MB, want at most %d", grown>>20, limit>>20)
	}
	if proofs.Used() != 0 {
		t.Errorf("%d bytes are lost", proofs.Used())
	}
}

// stall sends a request and reads only the first line of the response.
func (f *fixture) stall(path string) (status string) {
	f.t.Helper()
	u, err := url.Parse(f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10) // otherwise the kernel buffers much of it
	fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(line, "HTTP/1.1 "))
}

// taken returns how many bytes objects and stacks have.
func taken() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// Clients that stop reading one zip share its chunks: each takes some ten KiB, not 280.
func TestStoppedClients(t *testing.T) {
	world := newWorld(t)
	path := big(world, 12<<20)
	f := start(t, world, world.URL("ok"), withMemory(content.Memory{}, memory.New(64<<20)))
	f.want(path)
	const clients = 150
	before := taken()
	for range clients {
		if status := f.stall(path); status != "200 OK" {
			t.Fatal(status)
		}
	}
	if each := (taken() - before) / clients; each > 100<<10 {
		t.Errorf("a client that has stopped takes %d KiB", each>>10)
	}
}

// A client that stops reading large lists uses up its part of the memory for responses,
// and is then refused; other clients still get lists and zips.
func TestStoppedListReaders(t *testing.T) {
	world := newWorld(t)
	zip := big(world, 12<<20)
	var list bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&list, "v1.0.%d-alpha.beta\n", i)
	}
	world.Set("example.com/hello/@v/list", list.Bytes())
	answers := memory.New(16 << 20)
	o := withMemory(content.Memory{}, answers)
	byMemory := o.config
	o.config = func(c *proxy.Config) { byMemory(c); byClient(c) }
	f := start(t, world, world.URL("ok"), o)
	f.want("example.com/hello/@v/list")
	f.want(zip)
	var served, refused atomic.Int64
	for range 12 { // 23 MB of lists
		switch status := f.stall("example.com/hello/@v/list"); status {
		case "200 OK":
			served.Add(1)
		case "503 Service Unavailable":
			refused.Add(1)
		default:
			t.Error(status)
		}
	}
	if served.Load() == 0 || refused.Load() == 0 || answers.Used() > answers.Size() {
		t.Errorf("%d served, %d refused, %d bytes of %d", served.Load(), refused.Load(), answers.Used(), answers.Size())
	}
	if a := f.get("example.com/hello/@v/list"); a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "no memory for") {
		t.Errorf("one more of the same client gets %d", a.status)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	for _, path := range []string{"example.com/hello/@v/list", zip} {
		if w := f.ask(request, "192.0.2.2", path); w.Code != http.StatusOK {
			t.Errorf("another client's %s: %d %.200s", path, w.Code, w.Body)
		}
	}
}

// Slow fetches for one client leave memory for the requests of others.
func TestSlowModsOfOneClient(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	var now atomic.Int32
	stop := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "slow.example/") {
			world.ServeHTTP(w, r)
			return
		}
		select {
		case <-stop: // otherwise aborted requests would be sent again
			w.WriteHeader(http.StatusNotFound)
			return
		default:
		}
		now.Add(1)
		w.Header().Set("Content-Length", fmt.Sprint(10<<20))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-stop:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}))
	defer upstream.Close()
	defer close(stop)
	fetches := memory.New(24 << 20)
	o := withMemory(content.Memory{Fetches: fetches}, nil)
	byMemory := o.config
	o.config = func(c *proxy.Config) { byMemory(c); byClient(c) }
	f := start(t, world, upstream.URL+"/ok", o)
	f.server.Hasten(time.Hour, time.Hour) // no work yields
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	for i := range 4 {
		go f.ask(request, "192.0.2.1", fmt.Sprintf("slow.example/m%d/@v/v1.0.0.mod", i))
	}
	eventually(t, "all asked for", func() bool { return now.Load() == 4 && fetches.Used() > 0 })
	time.Sleep(100 * time.Millisecond) // no other client gets memory meanwhile
	if fetches.Used() > 18<<20 {
		t.Errorf("one client has %d bytes of %d", fetches.Used(), fetches.Size())
	}
	if w := f.ask(request, "192.0.2.2", "example.com/hello/@v/v1.0.0.mod"); w.Code != http.StatusOK {
		t.Errorf("another client: %d %s", w.Code, w.Body)
	}
}

// ListMemory is enough to clean and store the largest list of the shortest versions, and
// one that is a single line with very many fields.
func TestLargestList(t *testing.T) {
	world := newWorld(t)
	var list bytes.Buffer
	for i := 0; list.Len() < 4<<20-10; i++ {
		fmt.Fprintf(&list, "v%d.%d.%d\n", i%2, i/2%10, i/20)
	}
	line := "v1.0.0" + strings.Repeat(" x", 2<<20-10)
	world.Set("example.com/many/@v/list", list.Bytes())
	world.Set("example.com/line/@v/list", []byte(line))
	world.Set("example.com/line/@v/v1.0.0.info", []byte(`{"Version":"v1.0.0"}`))
	fetches := memory.New(content.ListMemory)
	f := start(t, world, world.URL("ok"), withMemory(content.Memory{Fetches: fetches}, nil))
	for path, want := range map[string]string{"example.com/many/@v/list": "v1.9.", "example.com/line/@v/list": "v1.0.0\n", "example.com/line/@latest": "v1.0.0"} {
		grown := peak(func() {
			resp, err := http.Get(f.url + "/" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%s: %s %.200s %v", path, resp.Status, body, err)
			}
		})
		if limit := int64(content.ListMemory + 16<<20); grown > limit { // 16 MiB are for this client
			t.Errorf("%s: %d MiB, want at most %d", path, grown>>20, limit>>20)
		}
		t.Logf("%s: %d MiB", path, grown>>20)
	}
	if fetches.Used() != 0 {
		t.Errorf("%d bytes are lost", fetches.Used())
	}
}
