package main_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// earlier is the commit of the program that runs beside today's: the last one before the layout of the bucket, or what
// servers tell each other in it, was changed. A commit that changes one of them sets it to the commit before.
const earlier = "b64b2e5b967cca45db5608f33a6e2140817efa19"

// buildEarlier builds the program of an earlier commit.
func buildEarlier(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("git", "rev-parse", "--is-shallow-repository").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "false" {
		t.Skipf("the history is not here, so the program of then cannot be built: shallow %s, %v", out, err)
	}
	if err := exec.Command("git", "cat-file", "-e", earlier+"^{commit}").Run(); err != nil {
		t.Skipf("commit %s is not in this history, so the program of then cannot be built: %v", earlier, err)
	}
	// The flags are those of the static program in .ci/run, so that what it has compiled is used.
	script := fmt.Sprintf("git -C ../.. archive %s | tar -x -C '%s' && cd '%s' && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o '%[2]s/assay' ./cmd/assay", earlier, dir, dir)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "assay")
}

// Servers of two versions of the program share a bucket: both fetch, pin, list and purge, and a client that verifies goes
// from one to the other.
func TestTwoVersions(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds an earlier program")
	}
	p := newPrivateServer(t)
	old := buildEarlier(t)
	objects := s3test.Start(t)
	store := bucketURL(objects.URL)
	p.env = append(p.env, bucketEnv...)
	p.args = append(p.args, "--store", store, "--log-key", filepath.Join(t.TempDir(), "key"))
	command := func(program string, args ...string) (string, error) {
		cmd := assay(program, append(args, "--store", store)...)
		cmd.Env = append(cmd.Env, bucketEnv...)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	var err error
	if p.key, err = command(old, "log", "create", "--log-key", p.args[len(p.args)-1], "--log-name", "sum.corp.example", "--data", t.TempDir()); err != nil {
		t.Fatalf("%v\n%s", err, p.key)
	}
	p.key, _, _ = strings.Cut(p.key, "\n")
	p.name = "sum.corp.example"
	var servers []*privateServer
	for i, program := range []string{old, p.program} {
		args := append(p.args[:len(p.args):len(p.args)], "--data", filepath.Join(t.TempDir(), fmt.Sprint(i)))
		url, cmd := startProcessIn(t, p.env, program, args...)
		servers = append(servers, &privateServer{t: t, versions: p.versions, name: p.name, key: p.key, url: url, whole: map[string][]byte{}})
		t.Cleanup(func() { _ = cmd.Wait() })
		t.Cleanup(func() { _ = cmd.Process.Kill() })
	}
	// Two clients at the same time, one for each server; then each client goes to the other server.
	clients := []*logClient{newLogClient(servers[0]), newLogClient(servers[1])}
	for round := range uint64(2) {
		var all sync.WaitGroup
		for i, c := range clients {
			all.Go(func() { c.use(rand.New(rand.NewPCG(round, uint64(i)))) })
		}
		all.Wait()
		servers[0].url, servers[1].url = servers[1].url, servers[0].url
	}
	for _, c := range clients {
		if c.Broken() != nil || len(c.Seen) == 0 {
			t.Errorf("a client has verified %d records, and says %v", len(c.Seen), c.Broken())
		}
	}
	for _, m := range p.versions {
		a, _, _ := servers[0].get(m.Path + "/@v/list")
		if b, status, err := servers[1].get(m.Path + "/@v/list"); status != http.StatusOK || string(a) != string(b) {
			t.Errorf("lists of %s: %q and %q, %v", m.Path, a, b, err)
		}
	}
	// Each version purges a module without a server, and both servers hear of it.
	for i, program := range []string{old, p.program} {
		m := p.versions[len(p.versions)-1-i]
		path := "cached-only/" + m.Path + "/@v/" + m.Version + ".mod"
		for _, s := range servers {
			if _, status, err := s.get(path); status != http.StatusOK {
				t.Errorf("%s: %d %v", path, status, err)
			}
		}
		if out, err := command(program, "purge", m.String(), "--reason", "test", "--data", t.TempDir()); err != nil {
			t.Errorf("purge: %v\n%s", err, out)
		}
		for _, s := range servers {
			assaytest.WaitFor(t, func() bool {
				_, status, _ := s.get(path)
				return status == http.StatusNotFound
			})
		}
		for program, what := range map[string][]string{old: {"verify"}, p.program: {"log", "check"}} {
			if out, err := command(program, what...); err != nil {
				t.Errorf("%v: %v\n%s", what, err, out)
			}
		}
	}
	// A newer layout is refused by both.
	o, err := s3.ParseURL(store)
	if err != nil {
		t.Fatal(err)
	}
	db, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.SetState(t.Context(), "store", []byte("assay store 2 later")); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	for _, program := range []string{old, p.program} {
		out, err := command(program, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir())
		if err == nil || !strings.Contains(out, "has the layout") || !strings.Contains(out, "use that version of Assay") {
			t.Errorf("serve with a newer layout: %v\n%s", err, out)
		}
	}
}
