package daemon_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// The line of a request is that of slog, or left to slog.
func TestRequestLine(t *testing.T) {
	t.Parallel()
	plain := []string{"", "/a/@v/list", "assay; hit", "a=b", "~!#$%&'()*+,-./:;<>?@[]^_`{|}", "user name"}
	others := []string{`"`, `\`, "\n", "\x00", "\x7f", "é", "a\u00a0b", "\xff", "日本", "\u2028"}
	ends := []time.Time{time.Date(2026, 1, 2, 3, 4, 5, 999_999_999, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 5400)), time.Now()}
	for _, format := range []string{"text", "json"} {
		for i, text := range append(plain, others...) {
			for _, end := range ends {
				slogs, ours, ok := daemon.RequestLines(format, end, []slog.Attr{
					slog.String("path", text), slog.Int("status", 200), slog.Int64("bytes", -1<<62), slog.Float64("dur_ms", 0.001*float64(i)),
					slog.Float64("long", 1234567.891), slog.Float64("none", 0), slog.Bool("aborted", true),
				})
				if ok != (i < len(plain)) {
					t.Errorf("%s, %q: written here: %v", format, text, ok)
				}
				if ok && ours != slogs {
					t.Errorf("%s: %s, want %s", format, ours, slogs)
				}
			}
		}
	}
}

// Data that is kept back is sent with the next data, or at the end, and counted once.
func TestJoined(t *testing.T) {
	t.Parallel()
	of := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, n) }
	for _, parts := range [][][]byte{nil, {of(10)}, {of(4096), of(5000)}, {of(4096), of(5000), of(3)}, {of(4097), of(5)}} {
		sent, n := daemon.Joined(parts...)
		if got, want := bytes.Join(sent, nil), bytes.Join(parts, nil); !bytes.Equal(got, want) || n != len(want) {
			t.Errorf("%d bytes are sent, %d are reported, want %d", len(got), n, len(want))
		}
	}
}

// After a response that could not be sent whole, its connection has no other response: a client would take
// the beginning of the next one for the rest of this one.
func TestJoinedPartly(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	client := daemon.ServeJoined(t.Context(), 1000, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.ServeContent(w, r, "text", time.Time{}, strings.NewReader(strings.Repeat("x", 2500))) // which ignores the error
	})
	defer client.Close()
	go io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(client)
	// net/http may have read the second request with the first one, and then calls the handler once more, in vain.
	if err != nil || requests.Load() == 0 || len(all) != 1000 || bytes.Count(all, []byte("HTTP/1.1")) != 1 {
		t.Errorf("%d requests were answered with %d bytes, %v; want a part of the first response", requests.Load(), len(all), err)
	}
}

// Responses of all sizes arrive whole, also when requests are sent without waiting for responses.
func TestResponsesOfAllSizes(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	var paths []string
	for _, size := range []int{100, 1900, 3500, 3800, 4096, 7000, 9000, 20_000, 60_000, 70_000, 300_000} {
		m := module.Version{Path: fmt.Sprintf("example.com/m%d", size), Version: "v1.0.0"}
		world.AddModule(m, []txtar.File{
			{Name: "go.mod", Data: []byte("module " + m.Path + "\n" + strings.Repeat("// text\n", size/8))},
		})
		paths = append(paths, m.Path+"/@v/v1.0.0.mod", m.Path+"/@v/v1.0.0.zip")
	}
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB())
	for range 3 {
		for _, path := range paths {
			if status, body := assaytest.Fetch(t, p.url+"/"+path); status != http.StatusOK || body != string(world.File(path)) {
				t.Fatalf("GET %s = %d, %d bytes", path, status, len(body))
			}
		}
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		for _, path := range paths {
			fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: a\r\n\r\nHEAD /%[1]s HTTP/1.1\r\nHost: a\r\n\r\nGET /%[1]s HTTP/1.1\r\nHost: a\r\nRange: bytes=1-\r\n\r\n", path)
		}
	}()
	reader := bufio.NewReader(conn)
	for _, path := range paths {
		for i, want := range [][]byte{world.File(path), nil, world.File(path)[1:]} {
			r, _ := http.NewRequest([]string{http.MethodGet, http.MethodHead, http.MethodGet}[i], "/"+path, nil) // a valid request
			resp, err := http.ReadResponse(reader, r)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(body, want) {
				t.Errorf("%s, response %d: status %d, %d bytes, want %d, %v", path, i, resp.StatusCode, len(body), len(want), err)
			}
		}
	}
}
