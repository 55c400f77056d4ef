package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

var soakTime = flag.Duration("soak", 6*time.Second, "how long TestSoak runs; 20m is a real one")

// soakFaults are the faults of the upstream during TestSoak, one after the other. None of them
// states that an object does not exist, so no client may get that answer.
var soakFaults = []string{
	"ok", "503", "503-once", "500", "403", "429-once", "hang", "hang-zip", "reset", "reset-mid", "reset-mid-each",
	"truncated", "truncated-mod", "slow", "list-503", "tampered-zip", "tampered-mod", "html", "html-modules", "wrong-info",
	"sumdb-503", "sumdb-hang", "sumdb-html", "sumdb-wrong", "sumdb-foreign", "sumdb-extra", "sumdb-tile", "sumdb-short",
	"sumdb-503-once", "sumdb-lost", "sumdb-once-lost",
}

const (
	soakClients    = 50
	soakFirstByte  = 31 * time.Second
	soakGoroutines = 3000
	soakFiles      = 1500
	soakMemory     = 500 << 20 // anonymous memory; the budget is 256 MiB
)

// soak is a server under a mixed load, and the state that its clients know.
type soak struct {
	t       *testing.T
	world   *proxytest.World
	dir     string
	program string
	end     time.Time

	mu       sync.Mutex
	url      string
	cmd      *exec.Cmd
	up       bool // the server was not killed since its last start
	lives    int  // number of starts
	versions []module.Version
	whole    map[string]bool // paths that a client has received completely
	counts   map[string]int  // of responses, by status
	slowest  time.Duration   // until a first byte
	peak     map[string]int64
}

// TestSoak runs the real program under a mixed load while everything around it fails: the upstream
// in thirty ways, or altogether, reloads, SIGKILL. Every byte that a client gets is right; no
// existing object is reported as absent; every response begins in time; memory, goroutines and
// descriptors stay within bounds; and all objects that a client has received completely are served
// afterwards, without any upstream.
func TestSoak(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &soak{t: t, world: proxytest.New(t), dir: t.TempDir(), program: program, end: time.Now().Add(*soakTime),
		whole: map[string]bool{}, counts: map[string]int{}, peak: map[string]int64{}}
	s.grow(0)
	s.setUpstream(s.world.URL("ok"))
	s.start()

	ctx, cancel := context.WithDeadline(t.Context(), s.end)
	defer cancel()
	var clients sync.WaitGroup
	for i := range soakClients {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		clients.Go(func() {
			for ctx.Err() == nil {
				s.request(ctx, random)
			}
		})
	}
	clients.Go(func() {
		for ctx.Err() == nil {
			s.measure()
			time.Sleep(100 * time.Millisecond)
		}
	})
	s.trouble(ctx)
	clients.Wait()
	s.kill()
	s.checkHeld()
	t.Logf("%d lives, %d versions, %d files had whole, slowest first byte %v, answers %v, peaks %v",
		s.lives, len(s.versions), len(s.whole), s.slowest.Round(time.Millisecond), s.counts, s.peak)
	if len(s.whole) < 5 || s.counts["200"] < 20 {
		t.Error("hardly anything was served: it was no test")
	}
}

// trouble goes through the faults until ctx ends. Each phase has new modules, of which nothing is
// held.
func (s *soak) trouble(ctx context.Context) {
	const phases = 40 // at least; a long soak repeats them
	phase := min(*soakTime/phases, 8*time.Second)
	first := rand.IntN(len(soakFaults)) // a short run has only some of them
	for n := 1; ctx.Err() == nil; n++ {
		s.grow(n)
		upstream := s.world.URL(soakFaults[(first+n)%len(soakFaults)])
		switch {
		case n%10 == 0:
			upstream = "http://127.0.0.1:1" // an unused port
		case n%7 == 0:
			upstream += "|" + s.world.URL("ok")
		}
		s.setUpstream(upstream)
		if n%9 == 0 {
			s.kill()
			s.start()
		} else if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			s.t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(phase):
		}
	}
}

// grow adds modules to the world.
func (s *soak) grow(phase int) {
	var added []module.Version
	for i := range 4 {
		m := module.Version{Path: fmt.Sprintf("example.com/p%d/m%d", phase, i), Version: "v1.0.0"}
		content := make([]byte, 1000)
		if i == 0 {
			content = make([]byte, 600<<10) // is streamed
		}
		rand.NewChaCha8([32]byte{byte(phase), byte(phase >> 8), byte(i)}).Read(content)
		s.world.AddModule(m, []txtar.File{{Name: "go.mod", Data: []byte("module " + m.Path + "\n")}, {Name: "data", Data: content}})
		added = append(added, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = append(s.versions, added...)
}

// setUpstream writes the configuration file.
func (s *soak) setUpstream(list string) {
	text := fmt.Sprintf("data = %q\nupstream = %q\nsumdb = %q\nlisten = \"127.0.0.1:0\"\naccess_log = false\nlog_level = \"error\"\n",
		filepath.Join(s.dir, "data"), list, s.world.GOSUMDB())
	name := filepath.Join(s.dir, "assay.toml")
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		s.t.Fatal(err)
	}
}

func (s *soak) start() {
	cmd := assay(s.program, "serve", "--config", filepath.Join(s.dir, "assay.toml"))
	cmd.Env = []string{}
	url := startCommand(s.t, cmd)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url, s.cmd, s.up = url, cmd, true
	s.lives++
}

func (s *soak) kill() {
	s.mu.Lock()
	s.up = false // running requests may get no response
	s.mu.Unlock()
	kill(s.t, s.cmd)
}

// request sends a request, mostly for a new object, and checks the response.
func (s *soak) request(ctx context.Context, random *rand.Rand) {
	s.mu.Lock()
	url, up, life := s.url, s.up, s.lives
	n := len(s.versions)
	if random.IntN(3) > 0 {
		n = min(n, 8)
	}
	m := s.versions[len(s.versions)-1-random.IntN(n)]
	s.mu.Unlock()
	kind := []string{"@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/v1.0.0.zip", "@v/list", "@latest", "lookup", "readyz"}[random.IntN(8)]
	path := m.Path + "/" + kind
	switch kind {
	case "lookup":
		path = "sumdb/" + proxytest.Database + "/lookup/" + m.String()
	case "readyz":
		path = kind
	}
	ctx, cancel := context.WithTimeout(ctx, soakFirstByte+time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/"+path, nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	begin := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(r)
	took := time.Since(begin)
	if err != nil { // only a killed server gives no response
		s.mu.Lock()
		defer s.mu.Unlock()
		s.counts["none"]++
		if ctx.Err() == nil && up && s.up && life == s.lives {
			s.t.Errorf("%s: %v", path, err)
		}
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil || resp.StatusCode != http.StatusOK {
		s.check(kind, path, m, resp, body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowest = max(s.slowest, took)
	if took > soakFirstByte {
		s.t.Errorf("%s: the first byte came after %v", path, took)
	}
	switch {
	case err != nil:
		s.counts["broken off"]++
	default:
		s.counts[strconv.Itoa(resp.StatusCode)]++
		s.whole[path] = s.whole[path] || resp.StatusCode == http.StatusOK && strings.Contains(kind, "v1.0.0")
	}
}

// check checks a complete response.
func (s *soak) check(kind, path string, m module.Version, resp *http.Response, body []byte) {
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
		if !s.right(kind, path, m, body) {
			s.t.Errorf("%s is wrong: %d bytes, %.200q", path, len(body), body)
		}
	case status == http.StatusNotFound && kind != "lookup", status == http.StatusInternalServerError, status < 400:
		s.t.Errorf("%s: %s: %s", path, resp.Status, body)
	case kind != "readyz" && (bytes.Count(body, []byte("\n")) > 8 || len(body) == 0 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain")):
		s.t.Errorf("%s: %s with a text that the go command does not show: %q", path, resp.Status, body)
	}
}

func (s *soak) right(kind, path string, m module.Version, body []byte) bool {
	switch kind {
	case "@v/list":
		return string(body) == "v1.0.0\n" || len(body) == 0
	case "@latest":
		var info struct{ Version string }
		return json.Unmarshal(body, &info) == nil && info.Version == m.Version
	case "lookup":
		return bytes.Contains(body, []byte("\n"+m.Path+" v1.0.0 h1:"))
	case "readyz":
		return true
	}
	return bytes.Equal(body, s.world.File(path))
}

var goroutinesLine = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)

// measure compares the resources of the server with their bounds.
func (s *soak) measure() {
	s.mu.Lock()
	url, pid := s.url, s.cmd.Process.Pid
	s.mu.Unlock()
	now := map[string]int64{}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
		now["files"] = int64(len(files))
	}
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		if _, rest, ok := strings.Cut(string(status), "RssAnon:"); ok {
			var kilobytes int64
			if _, err := fmt.Sscan(rest, &kilobytes); err == nil {
				now["memory"] = kilobytes << 10
			}
		}
	}
	if resp, err := http.Get(url + "/metrics"); err == nil {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if found := goroutinesLine.FindSubmatch(text); found != nil {
			now["goroutines"], _ = strconv.ParseInt(string(found[1]), 10, 64)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, bound := range map[string]int64{"files": soakFiles, "memory": soakMemory, "goroutines": soakGoroutines} {
		s.peak[name] = max(s.peak[name], now[name])
		if now[name] > bound {
			s.t.Errorf("%s: %d, the bound is %d", name, now[name], bound)
		}
	}
}

// checkHeld starts the server without an upstream, compares everything that a client has received
// completely, and verifies it like a go command.
func (s *soak) checkHeld() {
	s.setUpstream("off")
	s.start()
	defer s.kill()
	client := sumdbtest.Client{Key: s.world.GOSUMDB, Remote: func(path string) ([]byte, error) {
		body, status, err := s.get("sumdb/" + proxytest.Database + path)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%s: %d %s", path, status, body)
		}
		return body, err
	}}
	database := modsumdb.NewClient(&client)
	for path := range s.whole {
		if !s.whole[path] {
			continue
		}
		body, status, err := s.get(path)
		if err != nil || status != http.StatusOK || !bytes.Equal(body, s.world.File(path)) {
			s.t.Errorf("%s, which a client has had: %d, %d bytes, %v", path, status, len(body), err)
		}
		if name, ok := strings.CutSuffix(path, "/@v/v1.0.0.zip"); ok {
			if _, err := database.Lookup(name, "v1.0.0"); err != nil {
				s.t.Errorf("record of %s: %v", name, err)
			}
		}
	}
}

func (s *soak) get(path string) (body []byte, status int, err error) {
	resp, err := http.Get(s.url + "/" + path)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return body, resp.StatusCode, err
}
