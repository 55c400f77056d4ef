//go:build conformance

package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The scripts of the go command that may send requests to a proxy, selected by name and content;
// the test counts those that do. Others compile for minutes and add no other requests.
var (
	scriptName = regexp.MustCompile(`^(badgo|get_|go(debug|line|toolchain|vcs)|import_|install_|list_|malformed_|mod|vendor_|work)`)
	scriptText = regexp.MustCompile(`go (get|mod|work) |@v|@latest|@upgrade|rsc\.io/|(example\.[a-z]+|golang\.org)/[^ ]* v[0-9]|toolchain`)
)

// fewestScripts is how many must go through Assay. If there are fewer, they were not found, or did
// not use it.
const fewestScripts = 200

// TestConformance runs the go command's own scripts of modules with Assay between them and the
// proxy that they contain: once as it is, and once with that proxy stopped and Assay started again,
// when everything that they need has been fetched before. The allowed differences are in
// testdata/conformance, by minor version of Go.
func TestConformance(t *testing.T) {
	s := newScripts(t)
	upstream := s.startProxy()
	data := t.TempDir()
	args := []string{"--data", data, "--upstream", upstream.url, "--sumdb", s.database(), "--log-level", "error", "--fresh"}
	address, server := startProcess(t, s.assay, append(args, "1m")...)

	s.to(address)
	failed := s.run(s.all())
	asked := s.askedBy()
	s.to(upstream.url)
	for name := range s.run(slices.Collect(maps.Keys(failed))) {
		t.Logf("%s does not count: it fails on this machine without Assay as well", name)
		delete(failed, name)
		asked = slices.DeleteFunc(asked, func(n string) bool { return n == name })
	}
	t.Logf("upstream alive: %d scripts go through Assay, %d of them fail", len(asked), len(failed))
	if len(asked) < fewestScripts {
		t.Errorf("%d scripts go through Assay, want at least %d", len(asked), fewestScripts)
	}
	s.compare("alive", asked, failed)

	upstream.stop()
	kill(t, server)
	address, _ = startProcess(t, s.assay, append(args, "1ms")...) // no answer is current
	s.to(address)
	asked = slices.DeleteFunc(asked, func(name string) bool { return failed[name] != "" })
	failed = s.run(asked)
	t.Logf("upstream gone: %d scripts go through Assay, %d of them fail", len(asked), len(failed))
	s.compare("outage", asked, failed)
}

// scripts are the scripts of the go command of this machine.
type scripts struct {
	t      *testing.T
	dir    string // $GOROOT/src/cmd/go
	minor  string // of Go: go1.26
	binary string // their test
	assay  string

	front  *httptest.Server // forwards the requests of each script
	target atomic.Pointer[url.URL]
	mu     sync.Mutex
	asked  map[string]int // requests by script
}

// newScripts builds the test of the go command, from the files in GOROOT. It changes one line: each
// script gets its own GOPROXY, with the name of the script in it.
func newScripts(t *testing.T) *scripts {
	env, err := exec.Command("go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, version, _ := strings.Cut(strings.TrimSpace(string(env)), "\n")
	s := &scripts{t: t, dir: filepath.Join(root, "src", "cmd", "go"), minor: regexp.MustCompile(`^go1\.[0-9]+`).FindString(version), asked: map[string]int{}}
	if _, err := os.Stat(filepath.Join(s.dir, "testdata", "script")); err != nil {
		if os.Getenv("CONFORMANCE") == "required" {
			t.Fatalf("this GOROOT has no tests of the go command: %v", err)
		}
		t.Skipf("this GOROOT has no tests of the go command, as those that distributions package: %v", err)
	}
	if _, err := os.Stat(s.list()); err != nil {
		t.Fatalf("no list of differences for %s: %v", version, err)
	}
	if s.assay, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	s.binary = s.build()
	s.front = httptest.NewServer(http.HandlerFunc(s.pass))
	t.Cleanup(s.front.Close)
	return s
}

func (s *scripts) build() (binary string) {
	const (
		line = "script.NewState(tbContext(ctx, t), workdir, env)"
		ours = `script.NewState(tbContext(ctx, t), workdir, append(env[:len(env):len(env)], "GOPROXY="+os.Getenv("CONFORMANCE_FRONT")+"/"+name+"/mod"))`
	)
	dir := s.t.TempDir()
	file := filepath.Join(s.dir, "script_test.go")
	text := s.read(file)
	if strings.Count(text, line) != 1 {
		s.t.Fatalf("%s has not the one line that is replaced: %s", file, line)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: filepath.Join(dir, "script_test.go")}})
	if err != nil {
		s.t.Fatal(err)
	}
	for name, data := range map[string]string{"script_test.go": strings.Replace(text, line, ours, 1), "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	binary = filepath.Join(dir, "go.test")
	cmd := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "cmd/go")
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("build the test of the go command: %v\n%s", err, out)
	}
	return binary
}

func (s *scripts) read(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// database returns the key of the checksum database at the proxy of the scripts.
func (s *scripts) database() string {
	key := regexp.MustCompile(`testSumDBVerifierKey = "(.+)"`).FindStringSubmatch(s.read(filepath.Join(s.dir, "proxy_test.go")))
	if key == nil {
		s.t.Fatal("no key of a checksum database in proxy_test.go")
	}
	return key[1]
}

// all returns the scripts that may send requests to a proxy.
func (s *scripts) all() (names []string) {
	files, err := filepath.Glob(filepath.Join(s.dir, "testdata", "script", "*.txt"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		if scriptName.MatchString(name) && scriptText.MatchString(s.read(file)) {
			names = append(names, name)
		}
	}
	return names
}

// scriptProxy is the proxy of the scripts, as a process of its own.
type scriptProxy struct {
	url string // with the path /mod
	cmd *exec.Cmd
}

func (s *scripts) startProxy() *scriptProxy {
	p := &scriptProxy{cmd: exec.Command(s.binary, "-proxy=localhost:0")}
	p.cmd.Dir = s.dir
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.stop)
	lines := bufio.NewReader(stderr)
	line, err := lines.ReadString('\n')
	_, p.url, _ = strings.Cut(strings.TrimSpace(line), "GOPROXY=")
	if p.url == "" {
		s.t.Fatalf("the proxy of the scripts says %q, %v", line, err)
	}
	go func() { _, _ = lines.WriteTo(os.Stderr) }()
	return p
}

func (p *scriptProxy) stop() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()
}

// to makes the scripts use the server at address, and clears the counts of requests.
func (s *scripts) to(address string) {
	u, err := url.Parse(address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.target.Store(u)
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.asked)
}

// pass forwards a request for /NAME/mod/PATH, as PATH below the target.
func (s *scripts) pass(w http.ResponseWriter, r *http.Request) {
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/mod/")
	s.mu.Lock()
	s.asked[name]++
	s.mu.Unlock()
	target, err := url.Parse(s.target.Load().String() + "/" + path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	proxy := httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL, p.Out.Host = target, "" }}
	proxy.ServeHTTP(w, r)
}

// askedBy returns the scripts that have sent requests.
func (s *scripts) askedBy() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.asked))
}

var scriptFailed = regexp.MustCompile(`(?m)^    --- FAIL: TestScript/(\S+) `)

// run runs the scripts with these names, and returns the output of those that failed and had sent
// requests.
func (s *scripts) run(names []string) map[string]string {
	s.t.Helper()
	if len(names) == 0 {
		return nil
	}
	cmd := exec.Command(s.binary, "-test.run=^TestScript$/^("+strings.Join(names, "|")+")$",
		fmt.Sprintf("-test.parallel=%d", 2*runtime.GOMAXPROCS(0)), "-test.timeout=10m")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "CONFORMANCE_FRONT="+s.front.URL)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	s.t.Logf("%d scripts took %v", len(names), time.Since(begin).Round(time.Second))
	found := scriptFailed.FindAllSubmatchIndex(out, -1)
	if err != nil && len(found) == 0 {
		s.t.Fatalf("the scripts did not run: %v\n%s", err, out)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := map[string]string{}
	for i, at := range found {
		end := len(out)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		if name := string(out[at[2]:at[3]]); s.asked[name] > 0 {
			failed[name] = string(out[at[0]:end])
		}
	}
	return failed
}

// compare compares the failed scripts with the list of allowed differences: each must be in it, and
// the list must contain no others.
func (s *scripts) compare(pass string, asked []string, failed map[string]string) {
	s.t.Helper()
	listed := s.listed(pass)
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		if listed[name] == "" {
			s.t.Errorf("%s, upstream %s: it fails, and is not in the list of differences\n%s", name, pass, tail(failed[name]))
		}
	}
	for name := range listed {
		switch {
		case !slices.Contains(asked, name):
			s.t.Errorf("%s, upstream %s: it does not go through Assay, and is in the list of differences", name, pass)
		case failed[name] == "":
			s.t.Errorf("%s, upstream %s: it passes, and is in the list of differences", name, pass)
		}
	}
}

// list returns the name of the file with the differences.
func (s *scripts) list() string { return filepath.Join("testdata", "conformance", s.minor+".txt") }

// listed returns the reasons for the differences in a pass, by script.
func (s *scripts) listed(pass string) map[string]string {
	reasons := map[string]string{}
	file := s.list()
	for line := range strings.Lines(s.read(file)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != "alive" && fields[1] != "outage" {
			s.t.Fatalf("%s: not a script, alive or outage, and a reason: %s", file, line)
		}
		if _, err := os.Stat(filepath.Join(s.dir, "testdata", "script", fields[0]+".txt")); err != nil {
			s.t.Errorf("%s: %s", file, err)
		}
		if fields[1] == pass {
			reasons[fields[0]] = strings.Join(fields[2:], " ")
		}
	}
	return reasons
}

// tail returns the last lines of the output of a script, where it failed.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}
