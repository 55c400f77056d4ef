package main_test

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A fork that one server sees freezes both, and a server that starts later. A command on a third machine thaws
// them. So it is with one server that has lost its data directory.
func TestReplicasFreeze(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	world.Add(modulesArchive(t))
	server := s3test.Start(t)
	start := func(upstream string, more ...string) (string, *exec.Cmd) {
		args := []string{"--data", t.TempDir(), "--store", bucketURL(server.URL), "--upstream", world.URL(upstream), "--sumdb", world.GOSUMDB()}
		return startProcessIn(t, bucketEnv, program, append(args, more...)...)
	}
	await := func(url, value string) {
		t.Helper()
		line := `assay_sumdb_frozen{database="` + proxytest.Database + `"} ` + value + "\n"
		begin := time.Now()
		for end := begin.Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if _, body := assaytest.Fetch(t, url+"/metrics"); strings.Contains(body, line) {
				t.Logf("frozen %s after %v", value, time.Since(begin).Round(time.Millisecond))
				return
			} else if time.Now().After(end) {
				t.Fatalf("no %q in the metrics of a server", line)
			}
		}
	}
	thaw := func() {
		t.Helper()
		cmd := assay(program, "sumdb", "thaw", proxytest.Database, "--reason", "test", "--store", bucketURL(server.URL), "--data", t.TempDir())
		cmd.Env = bucketEnv
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "accepts new data again") {
			t.Fatalf("thaw: %v\n%s", err, out)
		}
	}
	one, first := start("ok")
	if status, body := assaytest.Fetch(t, one+"/sumdb/"+proxytest.Database+"/latest"); status != http.StatusOK {
		t.Fatalf("latest: %d %s", status, body)
	}
	two, second := start("sumdb-fork")
	if status, _ := assaytest.Fetch(t, two+"/example.com/hello/@v/v1.1.0.mod"); status != http.StatusServiceUnavailable {
		t.Errorf("a module during a fork: %d, want 503", status)
	}
	await(two, "1")
	await(one, "1")
	kill(t, second)
	three, third := start("ok")
	await(three, "1")
	thaw()
	await(one, "0")
	await(three, "0")
	goDownload(t, world, three, "example.com/hello@v1.0.0")
	kill(t, first)
	kill(t, third)

	alone, fourth := start("sumdb-fork", "--single-replica")
	if status, _ := assaytest.Fetch(t, alone+"/example.com/hello/@v/v1.1.0.mod"); status != http.StatusServiceUnavailable {
		t.Errorf("a module during a fork: %d, want 503", status)
	}
	await(alone, "1")
	shared := func() (open int) {
		server.Change("store/s/sumdb/"+proxytest.Database+"/forks", func(value []byte) []byte {
			open = bytes.Count(value, []byte(`"file"`)) - bytes.Count(value, []byte(`"cleared"`))
			return value
		})
		return open
	}
	for end := time.Now().Add(2 * time.Minute); shared() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the evidence is not in the bucket")
		}
	}
	kill(t, fourth)
	alone, fourth = start("ok", "--single-replica")
	await(alone, "1")
	kill(t, fourth)
	thaw()
	alone, fourth = start("ok", "--single-replica")
	await(alone, "0")
	kill(t, fourth)
}

// A client's head that the own log in the bucket does not have, shown to assay log check, stops two servers, and makes
// a command after it fail, too.
func TestReplicasFreezeByHead(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := s3test.Start(t)
	dir := t.TempDir()
	key, shown := filepath.Join(dir, "key"), filepath.Join(dir, "latest")
	run := func(args ...string) (string, error) {
		cmd := assay(program, append(args, "--store", bucketURL(server.URL), "--data", filepath.Join(dir, "admin"))...)
		cmd.Env = bucketEnv
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("log", "create", "--log-key", key, "--log-name", "sum.corp.example"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	urls := make([]string, 2)
	for i := range urls {
		urls[i], _ = startProcessIn(t, bucketEnv, program, "--data", t.TempDir(), "--store", bucketURL(server.URL), "--upstream", "off", "--sumdb", "off", "--log-key", key)
		if _, body := assaytest.Fetch(t, urls[i]+"/metrics"); !strings.Contains(body, "assay_log_frozen 0\n") {
			t.Fatal("a server refuses to sign from the start")
		}
	}
	secret, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(strings.TrimSpace(string(secret)))
	if err != nil {
		t.Fatal(err)
	}
	head, err := note.Sign(&note.Note{Text: string(tlog.FormatTree(tlog.Tree{N: 5}))}, signer)
	if err == nil {
		err = os.WriteFile(shown, head, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run("log", "check", "--head", shown); err == nil || !strings.Contains(out, "a client has seen a signed head of 5 entries") {
		t.Errorf("check: %v\n%s", err, out)
	}
	for _, url := range urls {
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if _, body := assaytest.Fetch(t, url+"/metrics"); strings.Contains(body, "assay_log_frozen 1\n") {
				break
			} else if time.Now().After(end) {
				t.Fatal("a server still signs")
			}
		}
	}
	if out, err := run("log", "check"); err == nil || !strings.Contains(out, "a client has seen") {
		t.Errorf("check without the head: %v\n%s", err, out)
	}
}
