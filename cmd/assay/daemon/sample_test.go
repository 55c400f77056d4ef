package daemon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// requestLine is what a test reads of the line of a request.
type requestLine struct {
	Msg, Request, Path, Cache string
	Status, Sampled           int
	Aborted                   bool
}

// requestLines returns the lines of requests in a JSON log, by the id of the request.
func requestLines(t *testing.T, log string) map[string]requestLine {
	t.Helper()
	lines := map[string]requestLine{}
	for text := range strings.Lines(log) {
		var line requestLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if line.Msg == "request" {
			lines[line.Request] = line
		}
	}
	return lines
}

// request sends a request with an id.
func request(t *testing.T, url, id string) (status int) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Request-Id", id)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// With access-log-sample only one of so many hits has a line, which says so. All other requests have
// theirs, and metrics count all.
func TestAccessLogSample(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	world.Add("-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	const file = "/example.com/a/@v/v1.0.0.mod"
	// Of a milliard hits one has a line: none of the few here.
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--log-format", "json", "--access-log-sample", "1000000000")
	if status := request(t, p.url+file, "miss"); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	for _, id := range []string{"hit-1", "hit-2", "hit-3"} {
		request(t, p.url+file, id)
	}
	request(t, p.url+"/example.com/none/@v/list", "absent")
	request(t, p.url+"/example.com/none/@v/list", "absent-again")
	request(t, p.url+"/livez", "probe")
	_, metrics := assaytest.Fetch(t, p.url+"/metrics")
	p.end()
	lines := requestLines(t, p.log.String())
	for _, id := range []string{"miss", "absent", "absent-again", "probe"} {
		if line, ok := lines[id]; !ok || line.Sampled != 0 {
			t.Errorf("the line of %s is %+v", id, line)
		}
	}
	for _, id := range []string{"hit-1", "hit-2", "hit-3"} {
		if line, ok := lines[id]; ok {
			t.Errorf("a hit has the line %+v", line)
		}
	}
	if want := `assay_cache_requests_total{kind="mod",result="hit"} 3`; !strings.Contains(metrics, want) {
		t.Errorf("the metrics lack %s", want)
	}
}

// A client that disconnects in a range of a hit has a line, as one that disconnects in the whole file has.
func TestAccessLogSampleAbortedRange(t *testing.T) {
	t.Parallel()
	const size = 32 << 20 // more than the buffers of a connection have room for
	world := proxytest.New(t)
	file := world.AddBig(1, size)[0]
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--log-format", "json", "--access-log-sample", "1000000000")
	if status, body := assaytest.Fetch(t, p.url+"/"+file); status != http.StatusOK || len(body) != len(world.File(file)) {
		t.Fatalf("status %d, %d bytes", status, len(body))
	}
	for id, header := range map[string]string{"whole": "", "range": "Range: bytes=1000-\r\n"} {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: a\r\nX-Request-Id: %s\r\n%s\r\n", file, id, header)
		if _, err := io.CopyN(io.Discard, conn, 64<<10); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	p.end()
	lines := requestLines(t, p.log.String())
	for _, id := range []string{"whole", "range"} {
		if line, ok := lines[id]; !ok || !line.Aborted {
			t.Errorf("the line of %s is %+v", id, line)
		}
	}
}

// Which hits have a line is random: about one of n, and not each nth, so that no client has a rhythm in
// which it is always logged or never.
func TestAccessLogSampleIsRandom(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	world.Add("-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--log-format", "json", "--access-log-sample", "2")
	const hits = 400
	for i := range hits + 1 { // the first one is a miss
		request(t, p.url+"/example.com/a/@v/v1.0.0.mod", "id-"+strconv.Itoa(i))
	}
	p.end()
	lines := requestLines(t, p.log.String())
	if line := lines["id-0"]; line.Sampled != 0 || line.Status != http.StatusOK {
		t.Errorf("the line of the miss is %+v", line)
	}
	logged, changes := 0, 0
	for i := 1; i <= hits; i++ {
		line, ok := lines["id-"+strconv.Itoa(i)]
		if _, before := lines["id-"+strconv.Itoa(i-1)]; ok != before {
			changes++
		}
		if !ok {
			continue
		}
		logged++
		if line.Sampled != 2 || line.Cache != "assay; hit" {
			t.Fatalf("the line of a hit is %+v", line)
		}
	}
	// Both are about 200 with a standard deviation of 10; a counter would make one of them 400.
	if logged < 100 || logged > 300 || changes < 100 || changes > 300 {
		t.Errorf("of %d hits %d have a line, and %d differ in that from the one before", hits, logged, changes)
	}
}

// What an administrator looks for in a log is never omitted.
func TestAccessLogSampleKeeps(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status  int
		cache   string
		aborted bool
		err     error
		hit     bool
	}{
		{200, "assay; hit", false, nil, true},
		{206, "assay; hit", false, nil, true},
		{304, "assay; hit", false, nil, true},
		{416, "assay; hit", false, nil, false},
		{200, "assay; hit", true, nil, false},
		{200, "assay; hit", false, access.ErrUnavailable, false},
		{200, "assay; hit; detail=stale", false, nil, false},
		{200, "assay; fwd=miss; stored", false, nil, false},
		{200, "assay; fwd=miss; collapsed", false, nil, false},
		{200, "", false, nil, false},
		{404, "", false, nil, false},
	} {
		if got := daemon.IsHit(test.status, test.cache, test.aborted, test.err); got != test.hit {
			t.Errorf("%+v counts as a hit: %v", test, got)
		}
	}
}
