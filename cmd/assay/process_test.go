package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// Killed again and again in the middle of fills, the program loses no object that a client has
// completely, and never serves wrong bytes.
func TestKilled(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	paths := world.AddBig(12, 1<<20)
	dir := t.TempDir()
	complete := map[string]bool{}
	for round := range 8 {
		url, cmd := startProcess(t, program, "--data", dir, "--upstream", world.URL("slow"), "--sumdb", world.GOSUMDB())
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, path := range paths {
			wg.Go(func() {
				resp, err := http.Get(url + "/" + path)
				if err != nil {
					return
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != http.StatusOK {
					return
				}
				if !bytes.Equal(got, world.File(path)) {
					t.Errorf("round %d: %s is wrong", round, path)
				}
				mu.Lock()
				defer mu.Unlock()
				complete[path] = true
			})
		}
		time.Sleep(time.Duration(round*200) * time.Millisecond)
		kill(t, cmd)
		wg.Wait()
	}
	url, cmd := startProcess(t, program, "--data", dir, "--upstream", "off", "--sumdb", world.GOSUMDB())
	for _, path := range paths {
		resp, err := http.Get(url + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusNotFound && !complete[path]:
		case resp.StatusCode != http.StatusOK || err != nil || !bytes.Equal(got, world.File(path)):
			t.Errorf("%s: status %d, %d bytes, %v; a client had it complete: %t", path, resp.StatusCode, len(got), err, complete[path])
		}
	}
	kill(t, cmd)
	t.Logf("%d of %d were complete", len(complete), len(paths))
	left, err := filepath.Glob(filepath.Join(dir, "spool", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in spool/: %q, %v", left, err)
	}
	out, err := assay(program, "verify", "--data", dir).CombinedOutput()
	if err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
}

// quickExit is for processes of this program: with the race detector, each would wait a second at
// its end.
const quickExit = "GORACE=atexit_sleep_ms=0"

// assay returns a command that runs this test binary as the program.
func assay(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Args[0] = "assay" // see testscript.Main
	cmd.Env = append(os.Environ(), quickExit)
	return cmd
}

// startProcess starts assay serve as a process.
func startProcess(t *testing.T, program string, args ...string) (url string, cmd *exec.Cmd) {
	t.Helper()
	return startProcessIn(t, []string{}, program, args...)
}

// startProcessIn is startProcess with additional environment variables.
func startProcessIn(t testing.TB, env []string, program string, args ...string) (url string, cmd *exec.Cmd) {
	t.Helper()
	cmd = assay(program, append([]string{"serve", "--listen", "127.0.0.1:0", "--access-log=false"}, args...)...)
	cmd.Env = env
	return startCommand(t, cmd), cmd
}

// startCommand starts a command that becomes assay serve, and returns its URL.
func startCommand(t testing.TB, cmd *exec.Cmd) (url string) {
	t.Helper()
	var stderr assaytest.Output
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // in case it still runs
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server printed at last:\n%s", lastLines(stderr.String(), 40))
		}
	})
	if _, err := fmt.Fscanf(stdout, "Assay serves %s\n", &url); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return url
}

// lastLines returns at most the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
}
