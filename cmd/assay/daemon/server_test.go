package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// program is a running assay serve.
type program struct {
	t    *testing.T
	url  string
	stop context.CancelFunc
	done chan error
	log  *assaytest.Output
}

// serveIn runs serve in this process, with the arguments, until the end of the test or a call of
// stop.
func serveIn(t *testing.T, args ...string) *program {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Parse(append([]string{"--listen", "127.0.0.1:0"}, args...)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{t: t, stop: cancel, done: make(chan error, 1), log: new(assaytest.Output)}
	out, in := io.Pipe()
	load := func() (config.Config, config.Sources, error) {
		return config.Load(flags, func(string) string { return "" })
	}
	go func() {
		err := daemon.Run(ctx, daemon.Options{Load: load, Version: "test", Out: in, Err: p.log})
		in.CloseWithError(fmt.Errorf("serve ended: %w", err))
		p.done <- err
	}()
	t.Cleanup(p.end)
	if slices.Contains(args, "json") { // the announcement is a line of the log
		go io.Copy(io.Discard, out)
		assaytest.WaitFor(t, func() bool { p.url = announced(p.log.String()); return p.url != "" })
		return p
	}
	if _, err := fmt.Fscanf(out, "Assay serves %s\n", &p.url); err != nil {
		t.Fatalf("%v\n%s", err, p.log)
	}
	go io.Copy(io.Discard, out)
	return p
}

// announced returns the URL in the announcement of a JSON log, or "".
func announced(log string) string {
	for line := range strings.Lines(log) {
		var record struct{ Msg, URL string }
		if json.Unmarshal([]byte(line), &record) == nil && record.Msg == "serving" {
			return record.URL
		}
	}
	return ""
}

// end stops the program and waits for it.
func (p *program) end() {
	p.stop()
	select {
	case err := <-p.done:
		p.done <- err
		if err != nil {
			p.t.Errorf("serve: %v", err)
		}
	case <-time.After(time.Minute):
		p.t.Error("serve did not end")
	}
}

func (p *program) addr() string { return strings.TrimPrefix(p.url, "http://") }

// A signal to stop lets transfers finish.
func TestShutdownFinishesTransfers(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	path := world.AddBig(1, 2<<20)[0]
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("slow"), "--sumdb", world.GOSUMDB())
	resp, err := http.Get(p.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p.stop()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, world.File(path)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	p.end()
	if log := p.log.String(); !strings.Contains(log, "msg=stopped") {
		t.Errorf("log: %s", log)
	}
}

// A request has an id, the client's if it has only plain characters, and a line in the log, without
// its query.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	p := serveIn(t, "--data", t.TempDir(), "--upstream", "off", "--sumdb", "off", "--log-format", "json")
	get := func(path, id string) http.Header {
		r, err := http.NewRequest(http.MethodGet, p.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if id != "" {
			r.Header.Set("X-Request-Id", id)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.Header
	}
	if got := get("/livez?token=hunter2", "ci-job_42").Get("X-Request-Id"); got != "ci-job_42" {
		t.Errorf("id %q, want the client's", got)
	}
	if got := get("/example.com/a/@v/list", "a b\tc").Get("X-Request-Id"); got == "" || strings.Contains(got, " ") {
		t.Errorf("id %q", got)
	}
	if a, b := get("/livez", "").Get("X-Request-Id"), get("/livez", "").Get("X-Request-Id"); a == b {
		t.Errorf("two requests have the id %q", a)
	}
	p.end()
	log := p.log.String()
	for _, want := range []string{`"request":"ci-job_42"`, `"path":"/livez"`, `"status":200`, `"path":"/example.com/a/@v/list"`, `"status":404`} {
		if !strings.Contains(log, want) {
			t.Errorf("log lacks %s:\n%s", want, log)
		}
	}
	if strings.Contains(log, "hunter2") {
		t.Errorf("the query is in the log:\n%s", log)
	}
	for line := range strings.Lines(log) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the log is not JSON: %s", line)
		}
	}
	if ms := regexp.MustCompile(`"dur_ms":(\d+(\.\d{1,3})?)[,}]`).FindAllString(log, -1); len(ms) != 4 {
		t.Errorf("%d of 4 access lines have their time in milliseconds:\n%s", len(ms), log)
	}
	if n := strings.Count(log, `"msg":"request"`); n != 4 {
		t.Errorf("%d access lines for 4 requests:\n%s", n, log)
	}
}

// A predicted file is in the metrics of predictions, and in no line of the access log and no other
// count of requests, until a client requests it.
func TestPredictedFilesAreNotRequests(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	world.Add("-- example.com/old@v1.0.0/go.mod --\nmodule example.com/old\nrequire example.com/a v1.0.0\n-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--log-format", "json")
	if status, body := assaytest.Fetch(t, p.url+"/example.com/old/@v/v1.0.0.mod"); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	metrics := ""
	assaytest.WaitFor(t, func() bool {
		_, metrics = assaytest.Fetch(t, p.url+"/metrics")
		return strings.Contains(metrics, `assay_predicted_total{kind="mod"} 1`)
	})
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "assay_cache_requests_total") && strings.Contains(line, `kind="mod"`) && !strings.HasSuffix(line, " 0\n") {
			if !strings.HasSuffix(line, " 1\n") || !strings.Contains(line, `result="miss"`) {
				t.Errorf("requests: %s", line)
			}
		}
	}
	p.end()
	lines := 0
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, `"msg":"request"`) && strings.Contains(line, ".mod") {
			lines++
		}
		if strings.Contains(line, "example.com/a/") {
			t.Errorf("the log has what no client has requested: %s", line)
		}
	}
	if lines != 1 {
		t.Errorf("%d lines for one request", lines)
	}
}

// readyz does not depend on the upstream; the metrics count the requests.
func TestOperations(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	world.Add("-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	p := serveIn(t, "--data", t.TempDir(), "--upstream", world.URL("ok")+"|"+world.URL("503"), "--sumdb", world.GOSUMDB())
	for path, want := range map[string]string{"/livez": "ok\n", "/readyz": "ok\n"} {
		if status, body := assaytest.Fetch(t, p.url+path); status != 200 || body != want {
			t.Errorf("GET %s = %d %q", path, status, body)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		resp, err := http.Head(p.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ContentLength != 3 {
			t.Errorf("HEAD %s = %d, %d bytes", path, resp.StatusCode, resp.ContentLength)
		}
	}
	for range 3 {
		if status, _ := assaytest.Fetch(t, p.url+"/example.com/a/@v/v1.0.0.mod"); status != 200 {
			t.Errorf("status %d", status)
		}
	}
	_, metrics := assaytest.Fetch(t, p.url+"/metrics")
	for _, want := range []string{
		`assay_cache_requests_total{kind="mod",result="hit"} 2`, `assay_cache_requests_total{kind="mod",result="miss"} 1`,
		`assay_http_responses_total{code="200"}`, "assay_http_request_duration_seconds_count", "go_goroutines", "process_resident_memory_bytes", "assay_build_info{",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(metrics, "example.com/a") {
		t.Error("a module path is in the metrics")
	}
	if status, body := assaytest.Fetch(t, p.url+"/"); status != 200 || !strings.Contains(body, "go env -w GOPROXY=http://") {
		t.Errorf("GET / = %d %q", status, body)
	}
}
