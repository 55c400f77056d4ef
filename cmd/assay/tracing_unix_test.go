//go:build unix

package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// otlpCollector receives spans by OTLP over HTTP.
type otlpCollector struct {
	*httptest.Server

	mu       sync.Mutex // guards the fields below
	received bytes.Buffer
	spans    []receivedSpan
	headers  []http.Header
	conns    int
}

// receivedSpan is a span as the collector got it.
type receivedSpan struct {
	id, parent, trace string
	name, scope       string
	attributes        map[string]string
	events            []string
	links             []string // spans
	failed            bool
}

// wantNoConnection checks that no exporter has connected.
func (c *otlpCollector) wantNoConnection(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns > 0 {
		t.Errorf("the collector got %d connections", c.conns)
	}
}

func newCollector(t *testing.T) *otlpCollector {
	t.Helper()
	c := &otlpCollector{}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(c.receive))
	c.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.conns++
		}
	}
	c.Start()
	t.Cleanup(c.Close)
	return c
}

func (c *otlpCollector) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var got collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &got)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint("not spans: ", r.URL.Path, err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received.Write(body)
	c.headers = append(c.headers, r.Header)
	for _, resource := range got.ResourceSpans {
		service := map[string]string{}
		for _, a := range resource.Resource.Attributes {
			service[a.Key] = a.Value.GetStringValue()
		}
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				span := receivedSpan{
					id: fmt.Sprintf("%x", s.SpanId), parent: fmt.Sprintf("%x", s.ParentSpanId), trace: fmt.Sprintf("%x", s.TraceId),
					name: s.Name, scope: service["service.name"], attributes: map[string]string{}, failed: s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR,
				}
				for _, a := range s.Attributes {
					span.attributes[a.Key] = a.Value.GetStringValue()
					if n := a.Value.GetIntValue(); n != 0 {
						span.attributes[a.Key] = fmt.Sprint(n)
					}
				}
				for _, e := range s.Events {
					span.events = append(span.events, e.Name)
				}
				for _, l := range s.Links {
					span.links = append(span.links, fmt.Sprintf("%x", l.SpanId))
				}
				c.spans = append(c.spans, span)
			}
		}
	}
}

// tracedProgram is assay serve as a process.
type tracedProgram struct {
	t   *testing.T
	url string
	cmd *exec.Cmd
	log *assaytest.Output
}

// startTraced starts it with variables of the environment.
func startTraced(t *testing.T, env []string, args ...string) *tracedProgram {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &tracedProgram{t: t, log: new(assaytest.Output)}
	p.cmd = assay(program, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", t.TempDir()}, args...)...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), quickExit}, env...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // in case it still runs
	if _, err := fmt.Fscanf(out, "Assay serves %s\n", &p.url); err != nil {
		t.Fatalf("%v\n%s", err, p.log.String())
	}
	return p
}

// get requests a path with headers, in pairs, and returns the status.
func (p *tracedProgram) get(path string, header ...string) int {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+"/"+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		p.t.Error(err)
	}
	return resp.StatusCode
}

// stop ends the program, which exports its last spans.
func (p *tracedProgram) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%v\n%s", err, p.log.String())
	}
}

// tracedWorld is an upstream whose faults depend on the module, and which keeps the headers of requests.
type tracedWorld struct {
	*proxytest.World
	address string

	mu      sync.Mutex // guards headers
	headers []http.Header
}

func newTracedWorld(t *testing.T) *tracedWorld {
	t.Helper()
	w := &tracedWorld{World: proxytest.New(t)}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.headers = append(w.headers, r.Header.Clone())
		w.mu.Unlock()
		fault := "ok"
		switch {
		case strings.HasPrefix(r.URL.Path, "/example.com/big"):
			fault = "gated"
		case strings.HasPrefix(r.URL.Path, "/example.com/hang"):
			fault = "hang"
		}
		r.URL.Path = "/" + fault + r.URL.Path
		w.World.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.address = server.URL
	return w
}

// The spans of requests say which route they had and what happened to them; those of upstream requests, of
// checksum databases and of version control are their children. No private name, no credential and no text of a
// client is in what the collector receives, and no trace in what upstreams receive.
func TestTracing(t *testing.T) {
	t.Parallel()
	c, world, code := newCollector(t), newTracedWorld(t), vcstest.New(t)
	world.Add("-- example.com/hello@v1.0.0/go.mod --\nmodule example.com/hello\n")
	big := world.AddBig(1, 2<<20)[0]
	code.Module("secret", "v1.0.0\n-- go.mod --\nmodule corp.example/secret\n")
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close() // so that its port refuses connections
	upstream := "http://hunter1:hunter2@" + strings.TrimPrefix(world.address, "http://")
	p := startTraced(t, []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20hunter3", "HTTPS_PROXY=" + code.Proxy(),
	}, "--upstream", "http://"+dead.Addr().String()+"|"+upstream, "--sumdb", world.GOSUMDB(), "--private", "corp.example", "--ca-file", code.CAFile(),
		"--zip-fills", "1", "--fresh", "1ms", "--answer-timeout", "4s", "--predict=false", "--log-format", "text", "--trusted-proxies", "127.0.0.0/8")
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	want := func(status int, path string, header ...string) {
		t.Helper()
		if got := p.get(path, header...); got != status {
			t.Errorf("GET %s = %d, want %d\n%s", path, got, status, p.log.String())
		}
	}

	// The first fetch makes the breaker of the dead upstream open.
	want(200, "example.com/hello/@v/v1.0.0.info")
	assaytest.WaitFor(t, func() bool {
		_, metrics := assaytest.Fetch(t, p.url+"/metrics")
		return strings.Contains(metrics, `assay_upstream_breaker_state{upstream="http://`+dead.Addr().String()+`"} 2`)
	})
	want(200, "example.com/hello/@v/v1.0.0.mod?token=hunter4", "Traceparent", "00-"+trace+"-"+span+"-01", "Tracestate", "v=hunter5", "Baggage", "v=hunter6",
		"X-Request-Id", "hunter7", "User-Agent", "hunter8", "Authorization", "Bearer hunter9")
	want(200, "example.com/hello/@v/v1.0.0.mod")
	want(200, "example.com/hello/@v/list")
	want(200, "example.com/hello/@v/list") // an older answer, while it is renewed
	for range 2 {                          // an upstream that is down says nothing about an object, but the database is found elsewhere
		want(404, "sumdb/"+proxytest.Database+"/lookup/example.com/none@v1.0.0")
	}
	want(200, "sumdb/"+proxytest.Database+"/lookup/example.com/hello@v1.0.0")

	// A fetch that hangs has the only place for zips.
	busy := 0
	for i := 0; busy != http.StatusServiceUnavailable && i < 5; i++ { // on a busy machine the time for an answer may be over first
		hanging, leave := context.WithCancel(t.Context())
		path := fmt.Sprintf("example.com/hang%d/@v/v1.0.0.zip", i)
		r, err := http.NewRequestWithContext(hanging, http.MethodGet, p.url+"/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		left := make(chan struct{})
		go func() {
			defer close(left)
			if resp, err := http.DefaultClient.Do(r); err == nil {
				resp.Body.Close()
			}
		}()
		assaytest.WaitFor(t, func() bool { return world.Count(path) > 0 })
		busy = p.get(fmt.Sprintf("example.com/hello%d/@v/v1.0.0.zip", i))
		leave()
		<-left
	}
	if busy != http.StatusServiceUnavailable {
		t.Errorf("without a place the status is %d", busy)
	}

	// Two clients share a fetch.
	var first, second *http.Response
	for _, resp := range []**http.Response{&first, &second} {
		if *resp, err = http.Get(p.url + "/" + big); err != nil {
			t.Fatal(err)
		}
		defer (*resp).Body.Close()
	}
	// Another one disconnects before the end.
	left, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(left, http.MethodGet, p.url+"/"+big, nil)
	if err != nil {
		t.Fatal(err)
	}
	aborted, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer aborted.Body.Close()
	leave()
	assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), " aborted=true") })
	world.OpenGate()
	for _, resp := range []*http.Response{first, second} {
		if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, world.File(big)) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}

	// Private names, as they are requested and as they are not.
	for path, status := range map[string]int{"v1.0.0.info": 200, "list": 200, "v9.9.9.mod": 404} { // on a busy machine not at once
		assaytest.WaitFor(t, func() bool { return p.get("corp.example/secret/@v/"+path) == status })
	}
	want(403, "sumdb/"+proxytest.Database+"/lookup/corp.example/secret@v1.0.0")
	for _, path := range []string{"corp.example/secret/bogus", "corp.example/secret/@v/v1.0.0.exe", "corp.example", "-/hooks/secret", "-/setup.sh"} {
		p.get(path)
	}
	p.stop()

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, never := range []string{"secret", "corp.example", "hunter"} {
		if bytes.Contains(c.received.Bytes(), []byte(never)) {
			t.Errorf("the collector received %q", never)
		}
	}
	for _, header := range c.headers {
		if got := header.Get("Authorization"); got != "Bearer hunter3" {
			t.Errorf("the exporter authenticates with %q", got)
		}
	}
	if log := p.log.String(); strings.Contains(log, "hunter3") || strings.Contains(log, "hunter2") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
	world.mu.Lock()
	defer world.mu.Unlock()
	for _, header := range world.headers {
		for name := range header {
			if lower := strings.ToLower(name); strings.HasPrefix(lower, "trace") || lower == "baggage" {
				t.Errorf("an upstream received %s: %s", name, header.Get(name))
			}
		}
	}

	has := func(s receivedSpan, events ...string) bool {
		for _, e := range events {
			if !slices.Contains(s.events, e) {
				return false
			}
		}
		return true
	}
	find := func(what string, match func(receivedSpan) bool) receivedSpan {
		t.Helper()
		for _, s := range c.spans {
			if match(s) {
				return s
			}
		}
		t.Errorf("no span of %s", what)
		return receivedSpan{attributes: map[string]string{}}
	}
	const route = "/{module}/@v/{version}"
	miss := find("a miss", func(s receivedSpan) bool { return s.trace == trace && s.parent == span })
	if miss.name != route+".mod" || miss.scope != "assay" || miss.attributes["http.route"] != miss.name || miss.attributes["assay.result"] != "miss" ||
		miss.attributes["assay.module"] != "example.com/hello" || miss.attributes["http.request.method"] != "GET" || miss.attributes["http.response.status_code"] != "200" {
		t.Errorf("the span of a miss: %+v", miss)
	}
	fill := find("a fill", func(s receivedSpan) bool { return s.parent == miss.id && s.name == "fill" })
	if !has(fill, "breaker_open") || fill.attributes["assay.outcome"] != "ok" {
		t.Errorf("the span of a fill beside a dead upstream: %+v", fill)
	}
	fetched := find("an upstream request", func(s receivedSpan) bool { return s.parent == fill.id && s.name == "upstream" })
	if fetched.attributes["assay.of"] != world.address || fetched.attributes["assay.outcome"] != "ok" {
		t.Errorf("the span of an upstream request: %+v", fetched)
	}
	proof := find("a proof", func(s receivedSpan) bool { return s.parent == fill.id && s.name == "sumdb" })
	if proof.attributes["assay.of"] != proxytest.Database {
		t.Errorf("the span of a proof: %+v", proof)
	}
	find("a request for a file of the database", func(s receivedSpan) bool { return s.parent == proof.id && s.name == "upstream" })
	find("a hit", func(s receivedSpan) bool { return s.name == route+".mod" && s.attributes["assay.result"] == "hit" })
	find("an old list", func(s receivedSpan) bool { return s.name == "/{module}/@v/list" && has(s, "served_stale") })
	find("a renewal", func(s receivedSpan) bool { return s.name == "renew" && s.attributes["assay.of"] == "list" })
	find("a known absence", func(s receivedSpan) bool {
		return s.attributes["assay.module"] == "example.com/none" && has(s, "negative_hit")
	})
	find("a request that was shed", func(s receivedSpan) bool {
		return s.name == route+".zip" && has(s, "shed") && s.attributes["http.response.status_code"] == "503"
	})
	cause := find("the first request for a zip", func(s receivedSpan) bool {
		return s.attributes["assay.module"] == "example.com/big0" && s.attributes["assay.result"] == "miss"
	})
	joined := find("a request that joined it", func(s receivedSpan) bool { return has(s, "coalesced") && s.name == route+".zip" })
	if !slices.Equal(joined.links, []string{cause.id}) {
		t.Errorf("it is linked to %v, want %s", joined.links, cause.id)
	}
	find("an aborted response", func(s receivedSpan) bool {
		return s.failed && s.attributes["http.response.status_code"] == "200" && s.name == route+".zip"
	})
	run := find("version control", func(s receivedSpan) bool {
		return s.name == "vcs" && s.attributes["assay.of"] == "mod" && s.attributes["assay.outcome"] == "ok"
	})
	private := find("a request for a private module", func(s receivedSpan) bool { return s.trace == run.trace && s.name == route+".info" })
	if module, ok := private.attributes["assay.module"]; ok {
		t.Errorf("the span of a private module has its path %q", module)
	}
	find("a set-up script", func(s receivedSpan) bool { return s.name == "/-/setup.sh" })
	for _, s := range c.spans {
		if s.name == "/metrics" || s.name == "/livez" {
			t.Error("the requests of machines are traced")
		}
	}
}

// Without one of the variables, and with one that says so, no collector gets a connection.
func TestTracingOff(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	for _, env := range [][]string{
		nil, {"OTEL_SERVICE_NAME=assay", "OTEL_TRACES_SAMPLER=always_on"}, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=" + c.URL},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_TRACES_EXPORTER=none"}, {"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_SDK_DISABLED=true"},
	} {
		p := startTraced(t, env, "--upstream", "off", "--sumdb", "off")
		if got := p.get("example.com/none/@v/list"); got != http.StatusNotFound {
			t.Errorf("status %d", got)
		}
		p.stop()
		if log := p.log.String(); strings.Contains(log, "traced") || strings.Contains(log, "span") {
			t.Errorf("%v: %s", env, log)
		}
	}
	c.wantNoConnection(t)
}

// A variable that cannot be used is an error in the log, without its value, and the program serves.
func TestTracingRefused(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	for _, env := range []string{
		"OTEL_TRACES_EXPORTER=hunter2", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_HEADERS=authorization: Bearer hunter2", "OTEL_TRACES_SAMPLER=hunter",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=hunter2:4317", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://me:hunter2@[::1", "OTEL_RESOURCE_ATTRIBUTES=hunter",
		"OTEL_EXPORTER_OTLP_CERTIFICATE=/none", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY=/none", "OTEL_EXPORTER_OTLP_HEADERS=a=%zzhunter2",
		"OTEL_EXPORTER_OTLP_TIMEOUT=hunter2", "OTEL_BSP_MAX_QUEUE_SIZE=hunter2", "OTEL_EXPORTER_OTLP_COMPRESSION=hunter2",
		"OTEL_EXPORTER_OTLP_INSECURE=false", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://127.0.0.1:1;OTEL_EXPORTER_OTLP_INSECURE=true",
	} {
		p := startTraced(t, append([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL}, strings.Split(env, ";")...), "--upstream", "off", "--sumdb", "off")
		if got := p.get("example.com/none/@v/list"); got != http.StatusNotFound {
			t.Errorf("%s: status %d", env, got)
		}
		p.stop()
		log := p.log.String()
		if strings.Count(log, `level=ERROR msg="requests are not traced"`) != 1 || strings.Contains(log, "hunter2") {
			t.Errorf("%s: %s", env, log)
		}
	}
	c.wantNoConnection(t)
}

// A collector that refuses connections, does not answer or answers errors changes no response, and is one warning.
func TestTracingDeadCollector(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	world.Add("-- example.com/hello@v1.0.0/go.mod --\nmodule example.com/hello\n")
	refusing := httptest.NewServer(nil)
	refusing.Close()
	asked := make(chan struct{}, 1000)
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection ends the request
		<-r.Context().Done()
	}))
	defer hanging.Close()
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		http.Error(w, r.Header.Get("Authorization"), http.StatusUnauthorized)
	}))
	defer failing.Close()
	// These write a part of what they get, which only they know, wherever they can.
	token := func(r *http.Request) string { return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") }
	echoing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		http.Error(w, token(r), http.StatusUnauthorized)
	}))
	defer echoing.Close()
	raw := func(answer string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, answer, token(r))
		}))
	}
	reason, garbage := raw("HTTP/1.1 401 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), raw("HTTP/1.1 %s\r\n\r\n")
	defer reason.Close()
	defer garbage.Close()
	partial := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		body, err := proto.Marshal(&collector.ExportTraceServiceResponse{
			PartialSuccess: &collector.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: token(r)},
		})
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(body)
	}))
	defer partial.Close()
	for name, url := range map[string]string{
		"refusing": refusing.URL, "hanging": hanging.URL, "failing": failing.URL,
		"echoing": echoing.URL, "reason": reason.URL, "garbage": garbage.URL, "partial": partial.URL,
	} {
		p := startTraced(t, []string{
			"OTEL_EXPORTER_OTLP_ENDPOINT=" + url, "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20hunter2",
			"OTEL_BSP_SCHEDULE_DELAY=20", "OTEL_BSP_EXPORT_TIMEOUT=100", "OTEL_BSP_MAX_QUEUE_SIZE=16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=8",
		}, "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB())
		requests := func() {
			t.Helper()
			for range 100 { // more than the queue has room for
				if got := p.get("example.com/hello/@v/v1.0.0.mod"); got != http.StatusOK {
					t.Fatalf("%s: status %d", name, got)
				}
			}
		}
		requests()
		assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), "level=WARN") })
		for range 3 { // exports, which fail as well
			if requests(); name != "refusing" {
				<-asked
			}
		}
		p.stop()
		log := p.log.String()
		if strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, "spans cannot be exported") || strings.Contains(log, "hunter2") {
			var warnings []string
			for line := range strings.Lines(log) {
				if !strings.Contains(line, "msg=request ") {
					warnings = append(warnings, line)
				}
			}
			t.Errorf("%s: %s", name, strings.Join(warnings, ""))
		}
	}
}

// The redirect of a collector is not followed: spans, and the headers of the configuration, go to no other address.
func TestTracingRedirect(t *testing.T) {
	t.Parallel()
	var inside atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside.Add(1) }))
	defer other.Close()
	redirecting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/"+r.Header.Get("X-Token"), http.StatusTemporaryRedirect)
	}))
	defer redirecting.Close()
	p := startTraced(t, []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + redirecting.URL, "OTEL_EXPORTER_OTLP_HEADERS=x-token=hunter2", "OTEL_BSP_SCHEDULE_DELAY=20",
	}, "--upstream", "off", "--sumdb", "off")
	p.get("example.com/none/@v/list")
	assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), "spans cannot be exported") || inside.Load() > 0 })
	p.stop()
	if n := inside.Load(); n > 0 {
		t.Errorf("the other address got %d requests", n)
	}
	if log := p.log.String(); !strings.Contains(log, "redirect") || strings.Contains(log, "hunter2") {
		t.Errorf("the log:\n%s", log)
	}
}

// A client that is no trusted proxy decides neither that its requests are traced nor that they are not.
func TestTracingForcedSample(t *testing.T) {
	t.Parallel()
	const low, high, span = "4bf92f3577b34da60000000000000001", "4bf92f3577b34da6ffffffffffffffff", "00f067aa0ba902b7"
	for name, test := range map[string]struct {
		sampler, ratio, parent string
		args                   []string
		least, most            int
	}{
		"sampled-id":   {"traceidratio", "0.001", "00-" + low + "-" + span + "-00", nil, 0, 2},
		"sampled-flag": {"parentbased_traceidratio", "0.001", "00-" + high + "-" + span + "-01", nil, 0, 2},
		"no-flag":      {"parentbased_always_on", "", "00-" + high + "-" + span + "-00", nil, 100, 100},
		"proxy":        {"parentbased_traceidratio", "0.001", "00-" + high + "-" + span + "-01", []string{"--trusted-proxies", "127.0.0.0/8"}, 100, 100},
	} {
		c := newCollector(t)
		env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_TRACES_SAMPLER=" + test.sampler, "OTEL_TRACES_SAMPLER_ARG=" + test.ratio}
		p := startTraced(t, env, append([]string{"--upstream", "off", "--sumdb", "off"}, test.args...)...)
		for range 100 {
			if got := p.get("example.com/none/@v/list", "Traceparent", test.parent); got != http.StatusNotFound {
				t.Fatalf("status %d", got)
			}
		}
		p.stop()
		c.mu.Lock()
		if n := len(c.spans); n < test.least || n > test.most {
			t.Errorf("%s: of 100 requests %d are traced, want %d to %d", name, n, test.least, test.most)
		}
		for _, s := range c.spans {
			if of := s.trace == low || s.trace == high; of != (test.args != nil) || of != (s.parent == span) {
				t.Errorf("%s: a span has the trace %s and the parent %s", name, s.trace, s.parent)
				break
			}
		}
		c.mu.Unlock()
	}
}

// Spans for which a slow collector leaves no place in the queue are counted, and are one warning.
func TestTracingSlowCollector(t *testing.T) {
	t.Parallel()
	c, gate := newCollector(t), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-gate
		c.receive(w, r)
	}))
	defer slow.Close()
	p := startTraced(t, []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + slow.URL, "OTEL_EXPORTER_OTLP_TIMEOUT=600000", "OTEL_BSP_EXPORT_TIMEOUT=600000",
		"OTEL_BSP_SCHEDULE_DELAY=20", "OTEL_BSP_MAX_QUEUE_SIZE=16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=8",
	}, "--upstream", "off", "--sumdb", "off")
	for range 100 {
		if got := p.get("example.com/none/@v/list"); got != http.StatusNotFound {
			t.Fatalf("status %d", got)
		}
	}
	close(gate)
	assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), "spans cannot be exported") })
	_, metrics := assaytest.Fetch(t, p.url+"/metrics")
	p.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if want := fmt.Sprintf("\nassay_trace_spans_dropped_total %d\n", 100-len(c.spans)); len(c.spans) > 24 || !strings.Contains(metrics, want) {
		t.Errorf("the collector got %d spans, the metrics lack %q", len(c.spans), want)
	}
	if log := p.log.String(); strings.Count(log, "spans cannot be exported") != 1 || !strings.Contains(log, "OTEL_BSP_MAX_QUEUE_SIZE") {
		t.Errorf("the log:\n%s", log)
	}
}
