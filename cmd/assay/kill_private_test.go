package main_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// privateServer is a server of private and public modules that is killed again and again, and the
// objects that its clients have.
type privateServer struct {
	t       *testing.T
	program string
	data    string
	args    []string
	env     []string
	code    *vcstest.World

	name, key string // of its own log
	versions  []module.Version

	mu    sync.Mutex
	url   string
	whole map[string][]byte // the complete responses of clients, by path
}

// newPrivateServer creates a world of private repositories with several versions each, and public
// modules.
func newPrivateServer(t *testing.T) *privateServer {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go", "git"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	p := &privateServer{t: t, program: program, data: filepath.Join(t.TempDir(), "data"), code: vcstest.New(t), whole: map[string][]byte{}}
	world := proxytest.New(t)
	for i := range 3 {
		path := fmt.Sprintf("m%d", i)
		repo := p.code.Module(path)
		for j := range 8 {
			m := module.Version{Path: vcstest.PageHost + "/" + path, Version: fmt.Sprintf("v1.0.%d", j)}
			repo.Commit(fmt.Sprintf("-- go.mod --\nmodule %s\n-- m.go --\npackage m\n\nconst Version = %q\n", m.Path, m.Version))
			repo.Tag(m.Version)
			p.versions = append(p.versions, m)
		}
	}
	for i := range 8 {
		m := module.Version{Path: fmt.Sprintf("example.com/p%d", i), Version: "v1.0.0"}
		world.Add(fmt.Sprintf("-- %s/go.mod --\nmodule %s\n", m, m.Path))
		p.versions = append(p.versions, m)
	}
	p.args = []string{"--data", p.data, "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--private", vcstest.PageHost,
		"--unified", "--ca-file", p.code.CAFile(), "--log-level", "warn"}
	p.env = append(noAuthorities(), "PATH="+os.Getenv("PATH"), "TMPDIR="+t.TempDir(), "HTTPS_PROXY="+p.code.Proxy())
	return p
}

// start starts the server and returns its process.
func (p *privateServer) start(more ...string) *exec.Cmd {
	p.t.Helper()
	url, cmd := startProcessIn(p.t, p.env, p.program, slices.Concat(p.args, more)...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.url = url
	if p.key == "" {
		key, err := os.ReadFile(filepath.Join(p.data, "log", "key.pub"))
		if err != nil {
			p.t.Fatal(err)
		}
		p.key = strings.TrimSpace(string(key))
		p.name, _, _ = strings.Cut(p.key, "+")
	}
	return cmd
}

// killStarting kills a server some time after its process was started.
func (p *privateServer) killStarting(after time.Duration) {
	p.t.Helper()
	cmd := assay(p.program, append([]string{"serve", "--listen", "127.0.0.1:0"}, p.args...)...)
	cmd.Env = p.env
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	time.Sleep(after)
	kill(p.t, cmd)
}

// get fetches a path. A complete response must equal earlier ones.
func (p *privateServer) get(path string) (body []byte, status int, err error) {
	p.mu.Lock()
	url := p.url
	p.mu.Unlock()
	client := http.Client{Timeout: time.Minute} // longer than --answer-timeout
	resp, err := client.Get(url + "/" + path)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || strings.HasPrefix(path, "sumdb/") || strings.HasSuffix(path, "/@v/list") {
		return body, resp.StatusCode, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, ok := p.whole[path]; ok && !bytes.Equal(before, body) {
		p.t.Errorf("%s has changed:\n%q\n%q", path, before, body)
	}
	p.whole[path] = body
	return body, resp.StatusCode, nil
}

// logClient is the part of a go command that verifies, with its stored heads, which outlive the
// processes.
type logClient struct {
	*privateServer
	sumdbtest.Client
}

func newLogClient(p *privateServer) *logClient {
	return &logClient{p, sumdbtest.Client{Key: func() string { return p.key }, Remote: func(path string) ([]byte, error) {
		body, status, err := p.get("sumdb/" + p.name + path)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%s: %d %s", path, status, body)
		}
		return body, err
	}}}
}

// use fetches versions in an order of its own, and verifies them, until the server is killed.
func (c *logClient) use(random *rand.Rand) {
	client := modsumdb.NewClient(&c.Client)
	for _, i := range random.Perm(len(c.versions)) {
		m := c.versions[i]
		c.checkHeld(m.Path)
		hashes := map[string]string{}
		for _, kind := range []string{"info", "zip", "mod"}[random.IntN(3):] {
			body, status, err := c.get(m.Path + "/@v/" + m.Version + "." + kind)
			if err != nil {
				return
			}
			if status != http.StatusOK {
				c.t.Errorf("%s.%s: %d %s", m, kind, status, body)
				return
			}
			hashes[kind] = hashOf(c.t, kind, body)
		}
		lines, err := client.Lookup(m.Path, m.Version)
		if err != nil {
			if errors.Is(err, modsumdb.ErrSecurity) {
				c.t.Errorf("%s: %v", m, err)
			}
			return
		}
		if zip := hashes["zip"]; zip != "" && !slices.Contains(lines, m.Path+" "+m.Version+" "+zip) {
			c.t.Errorf("%s is %s, the log says %q", m, zip, lines)
		}
	}
}

// checkHeld checks that each version of a module which is listed as held is served, also while another
// client fetches it, and right after a kill.
func (p *privateServer) checkHeld(path string) {
	list, status, err := p.get("cached-only/" + path + "/@v/list")
	if err != nil || status != http.StatusOK {
		return // the server was killed, or nothing is held yet
	}
	for _, version := range strings.Fields(string(list)) {
		if body, status, err := p.get("cached-only/" + path + "/@v/" + version + ".info"); err == nil && status != http.StatusOK {
			p.t.Errorf("%s@%s is listed and not served: %d %s", path, version, status, body)
		}
	}
}

// hashOf returns the hash of a zip or a go.mod.
func hashOf(t *testing.T, kind string, body []byte) string {
	files := map[string]func() (io.ReadCloser, error){}
	switch kind {
	case "zip":
		content, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
		if err != nil {
			t.Errorf("a zip: %v", err)
			return ""
		}
		for _, file := range content.File {
			files[file.Name] = file.Open
		}
	case "mod":
		files["go.mod"] = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	hash, err := dirhash.Hash1(slices.Collect(maps.Keys(files)), func(name string) (io.ReadCloser, error) { return files[name]() })
	if err != nil {
		t.Errorf("%s: %v", kind, err)
	}
	return hash
}

// goCommand runs the real go command, whose GOPATH is never cleared. It may fail, because the
// server is killed meanwhile, but never with a SECURITY ERROR.
func (p *privateServer) goCommand(gopath string, versions ...module.Version) error {
	args := []string{"mod", "download"}
	for _, m := range versions {
		args = append(args, m.String())
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = gopath
	p.mu.Lock()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + gopath, "GOPATH=" + gopath, "GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=-modcacherw",
		"GOPROXY=" + p.url, "GOSUMDB=" + p.key, "GOVCS=*:off", "SYSTEMROOT=" + os.Getenv("SYSTEMROOT")}
	p.mu.Unlock()
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go mod download: %w\n%s", err, out)
	}
	if bytes.Contains(out, []byte("SECURITY ERROR")) || bytes.Contains(out, []byte("mismatch")) {
		p.t.Error(err)
	}
	return err
}

// checkLog checks the log against a head that a client has seen.
func (p *privateServer) checkLog(head []byte) {
	p.t.Helper()
	args := []string{"log", "check", "--data", p.data}
	if len(head) > 0 {
		file := filepath.Join(p.t.TempDir(), "head")
		if err := os.WriteFile(file, head, 0o600); err != nil {
			p.t.Fatal(err)
		}
		args = append(args, "--head", file)
	}
	if out, err := assay(p.program, args...).CombinedOutput(); err != nil {
		p.t.Errorf("log check: %v\n%s\nhead: %s", err, out, head)
	}
}

// Killed again and again while clients fetch private and public versions, the server contradicts no
// head that a client has seen, loses no object that a client has, and serves nothing incomplete.
func TestKilledPrivate(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	gopath := t.TempDir()
	var clients []*logClient
	for range 3 {
		clients = append(clients, newLogClient(p))
	}
	for round := range 8 {
		if round%3 == 1 {
			p.killStarting(time.Duration(random.IntN(50)) * time.Millisecond)
		}
		cmd := p.start()
		var wg sync.WaitGroup
		for _, c := range clients {
			random := rand.New(rand.NewPCG(random.Uint64(), 1))
			wg.Go(func() { c.use(random) })
		}
		some := p.versions[random.IntN(len(p.versions)):]
		wg.Go(func() { _ = p.goCommand(gopath, some[:min(3, len(some))]...) })
		time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
		kill(t, cmd)
		wg.Wait()
		p.checkLog(clients[round%len(clients)].Seen)
		for _, c := range clients {
			if c.Broken() != nil {
				t.Fatal(c.Broken())
			}
		}
	}
	for _, c := range clients {
		p.checkLog(c.Seen)
	}
	t.Logf("%d files are complete somewhere", len(p.whole))
	p.checkWhole(gopath)
}

// checkWhole checks the data directory after the kills: without upstreams and repositories,
// everything that a client has is served, and equals the log; with them, everything works.
func (p *privateServer) checkWhole(gopath string) {
	t := p.t
	cmd := p.start("--upstream", "off", "--vcs", "off")
	for path := range maps.Clone(p.whole) {
		if body, status, err := p.get(path); err != nil || status != http.StatusOK {
			t.Errorf("%s is lost: %d %s %v", path, status, body, err)
		}
	}
	kill(t, cmd)
	cmd = p.start()
	if err := p.goCommand(gopath, p.versions...); err != nil {
		t.Error(err)
	}
	client := newLogClient(p)
	client.use(rand.New(rand.NewPCG(1, 1)))
	kill(t, cmd)
	latest, err := os.ReadFile(filepath.Join(gopath, "pkg", "sumdb", p.name, "latest"))
	if err != nil {
		t.Fatal(err)
	}
	p.checkLog(latest)
	if out, err := assay(p.program, "verify", "--data", p.data).CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
}
