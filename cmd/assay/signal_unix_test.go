//go:build unix

package main

import (
	"io"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

// hangup sends this process what makes serve read its settings again.
func hangup(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// The second signal to stop does not wait for anybody.
func TestSecondSignalStopsAtOnce(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	path := bigModules(world, 1, 2<<20)[0]
	url, cmd := startProcess(t, program, "--data", t.TempDir(), "--upstream", world.URL("gated"), "--sumdb", world.GOSUMDB())
	resp, err := http.Get(url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for range 2 {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond) // two at once are one
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("it waits for a transfer after the second signal")
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the transfer has ended as if it were whole")
	}
}
