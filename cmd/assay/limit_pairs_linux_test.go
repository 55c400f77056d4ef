package main_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// hidden are the statuses of what a client may not know of.
var hidden = []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound}

// publicZips gives the server a public world of its own, and returns the paths of n zips in it.
func (p *privateServer) publicZips(n, size int) (*proxytest.World, []string) {
	world := proxytest.New(p.t)
	p.args[slices.Index(p.args, "--upstream")+1] = world.URL("ok")
	return world, world.AddBig(n, size)
}

// addBig makes a private module, whose zip is too large to be stored with others, or to be kept in memory.
func (p *privateServer) addBig(name string) module.Version {
	content := make([]byte, bigZip)
	rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", name)))).Read(content)
	m := module.Version{Path: vcstest.PageHost + "/" + name, Version: "v1.0.0"}
	repo := p.code.Module(name)
	repo.Commit("-- go.mod --\nmodule " + m.Path + "\n-- data --\n" + base64.StdEncoding.EncodeToString(content) + "\n")
	repo.Tag(m.Version)
	return m
}

// createToken makes a token of a group in a data directory.
func (p *privateServer) createToken(data, group string) string {
	p.t.Helper()
	if err := os.MkdirAll(data, 0o700); err != nil {
		p.t.Fatal(err)
	}
	out, err := assay(p.program, "token", "create", "--data", data, "alice", "--groups", group).Output()
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// zipOf is the path of the zip of a version.
func zipOf(m module.Version) string { return m.Path + "/@v/" + m.Version + ".zip" }

// evictedOf returns a path of zips that a server has evicted.
func evictedOf(t *testing.T, url string, paths []string) string {
	t.Helper()
	for _, path := range paths {
		if status, _ := assaytest.Fetch(t, url+"/cached-only/"+path); status == http.StatusNotFound {
			return path
		}
	}
	t.Fatal("nothing was evicted")
	return ""
}

// The own log proves all modules, and a rule hides one, while a limit evicts public zips: private versions stay; an evicted
// zip is fetched and proved again; a client without the right gets nothing of what is hidden, before and after.
func TestLimitUnified(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	const size, limit = 600 << 10, 12 << 20
	world, paths := p.publicZips(32, size)
	secret, open := p.addBig("secret"), p.addBig("open")
	token := p.createToken(p.data, "team")
	p.args = append(p.args, "--access", secret.Path+"=team", "--disk-limit", "12MiB")
	cmd := p.start()
	zips := map[string][]byte{}
	for _, path := range []string{zipOf(secret), zipOf(open)} {
		status, body := getAs(t, p.url, path, token)
		if status != http.StatusOK || len(body) < bigZip {
			t.Fatalf("%s: %d, %d bytes", path, status, len(body))
		}
		zips[path] = body
	}
	check := func(when string) {
		t.Helper()
		for path, want := range zips {
			if status, got := getAs(t, p.url, "cached-only/"+path, token); status != http.StatusOK || !bytes.Equal(got, want) {
				t.Errorf("%s: the private %s is %d, %d bytes", when, path, status, len(got))
			}
		}
		if status, got := getAs(t, p.url, zipOf(open), ""); status != http.StatusOK || !bytes.Equal(got, zips[zipOf(open)]) {
			t.Errorf("%s: what is open to all is %d, %d bytes", when, status, len(got))
		}
		base := strings.TrimSuffix(zipOf(secret), "zip")
		for _, path := range []string{base + "zip", base + "info", base + "mod", secret.Path + "/@v/list", secret.Path + "/@latest",
			"cached-only/" + base + "zip", "cached-only/" + secret.Path + "/@v/list", "sumdb/" + p.name + "/lookup/" + secret.String()} {
			if status, body := getAs(t, p.url, path, ""); !slices.Contains(hidden, status) {
				t.Errorf("%s: %s without the right is %d, %d bytes", when, path, status, len(body))
			}
		}
	}
	check("at the start")
	for _, path := range paths {
		if !fetchWhole(t, world, p.url, path) {
			t.Errorf("%s is not sent", path)
		}
		if used := diskUse(t, p.data); used > limit+size+32000 {
			t.Errorf("the data directory takes %d bytes, limit %d", used, limit)
		}
	}
	check("after evictions")

	// The stock go command gets an evicted version again, and verifies it with the own log.
	path := evictedOf(t, p.url, paths)
	before := world.Count(path)
	path, _, _ = strings.Cut(path, "/@v/")
	if err := p.goCommand(t.TempDir(), module.Version{Path: path, Version: "v1.0.0"}, open); err != nil {
		t.Error(err)
	}
	if world.Count(path+"/@v/v1.0.0.zip") == before {
		t.Errorf("the evicted zip of %s was not fetched again", path)
	}
	check("after a zip came again")
	kill(t, cmd)

	// It is proved again: other bytes than the first time are not served.
	cmd = p.start("--upstream", world.URL("tampered-zip"))
	path = evictedOf(t, p.url, paths)
	if fetchInTrouble(t, world, p.url, path) {
		t.Errorf("%s is sent, although the upstream has other bytes", path)
	}
	check("beside an upstream that lies")
	kill(t, cmd)
	cmd = p.start("--upstream", "off", "--vcs", "off")
	check("without any upstream or repository")
	kill(t, cmd)
}

// With the smallest memory budget several clients want several times the limit at once, each in another order: all of them
// get all of it, and the limit holds at each moment.
func TestLimitMemoryBudget(t *testing.T) {
	t.Parallel()
	const size = 600 << 10
	s := newLimitedServer(t, 8e6)
	paths := s.world.AddBig(30, size)
	s.start(s.world.URL("ok"), "--memory-budget", "144")
	var clients sync.WaitGroup
	for i := range uint64(5) {
		clients.Go(func() {
			for _, n := range rand.New(rand.NewPCG(i, 1)).Perm(len(paths)) {
				s.get(info(paths[n]))
				s.get(paths[n])
			}
		})
	}
	ended := make(chan struct{})
	go func() { defer close(ended); clients.Wait() }()
	most := int64(0)
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-time.After(5 * time.Millisecond):
		}
		most = max(most, s.du())
	}
	if most > s.limit+size+30000 || most < s.limit/2 {
		t.Errorf("the data directory takes at most %d bytes, with a limit of %d", most, s.limit)
	}
	if n := evicted(t, s.url); n < 10*size {
		t.Errorf("only %d bytes were evicted", n)
	}
	kill(t, s.cmd)
	if out := s.command("verify"); !strings.Contains(out, " 0 damaged") {
		t.Errorf("verify says %s", out)
	}
}

// Killed again and again while clients want several times the limit, the server stays within it, sends no wrong bytes, and
// loses nothing that may not be evicted.
func TestLimitKilled(t *testing.T) {
	t.Parallel()
	const size = 600 << 10
	s := newLimitedServer(t, 8e6)
	paths := s.world.AddBig(24, size)
	s.start(s.world.URL("ok"))
	s.get(paths[0])
	kept, version, _ := strings.Cut(strings.TrimSuffix(paths[0], ".zip"), "/@v/")
	s.command("pin", kept+"@"+version)
	for round := range kills(t, 4) {
		var clients sync.WaitGroup
		var whole sync.WaitGroup
		whole.Add(10) // so many are served before the kill, which is in the middle of others
		for i := range uint64(3) {
			clients.Go(func() {
				for _, n := range rand.New(rand.NewPCG(uint64(round), i)).Perm(len(paths)) {
					served := fetchInTrouble(t, s.world, s.url, paths[n])
					if i == 0 && n < 10 {
						whole.Done()
					}
					if i == 0 && n < 10 && !served {
						t.Errorf("round %d: %s is not sent before the kill", round, paths[n])
					}
				}
			})
		}
		whole.Wait()
		kill(t, s.cmd)
		clients.Wait()
		s.within(fmt.Sprint("killed in round ", round), size+24000)
		s.start(s.world.URL("ok"))
		if !s.held(paths[0]) {
			t.Errorf("round %d: the pinned %s was evicted", round, paths[0])
		}
	}
	for _, path := range paths {
		s.get(path)
		s.within(path, size+24000)
	}
	kill(t, s.cmd)
	if out := s.command("verify"); !strings.Contains(out, " 0 damaged") {
		t.Errorf("verify says %s", out)
	}
}
