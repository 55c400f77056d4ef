//go:build unix

package main_test

import (
	"io"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	main "github.com/assay-proxy/assay/cmd/assay"
	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// The second signal to stop ends the program without waiting.
func TestSecondSignalStopsAtOnce(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	path := world.AddBig(1, 2<<20)[0]
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
		time.Sleep(200 * time.Millisecond) // two signals at once are delivered as one
	}
	select {
	case <-ended:
	case <-time.After(25 * time.Second): // less than --shutdown-timeout
		t.Error("it waits for a transfer after the second signal")
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the transfer has ended as if it were whole")
	}
}

// A second signal is not lost if it arrives while the first one is handled.
func TestSecondSignalIsNotLost(t *testing.T) {
	t.Parallel()
	signals := make(chan os.Signal, 2)
	stopped, ended := make(chan bool, 1), make(chan int, 1)
	go main.StopOn(signals, func() {
		signals <- syscall.SIGTERM // before anything has been stopped
		stopped <- true
	}, func(status int) { ended <- status })
	signals <- syscall.SIGTERM
	if <-stopped; <-ended != 1 {
		t.Error("the second signal ends the program with a status of success")
	}
}

// For shutdown-delay after the signal all requests are served, and /readyz says that the server
// stops; a second signal ends the program at once.
func TestShutdownDelay(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, signals := range []int{1, 2} {
		delay := "1s"
		if signals == 2 {
			delay = "1h"
		}
		url, cmd := startProcess(t, program, "--data", t.TempDir(), "--upstream", "off", "--sumdb", "off", "--shutdown-delay", delay)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // every request needs the listener
		saw := false
		assaytest.WaitFor(t, func() bool {
			resp, err := client.Get(url + "/readyz")
			if err != nil {
				return true // too late on a very slow machine, see below
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			saw = saw || err == nil && resp.StatusCode == http.StatusServiceUnavailable && string(body) == "stopping\n"
			return saw
		})
		if !saw {
			t.Errorf("%d signals: /readyz has never said that it is stopping", signals)
		}
		if signals == 2 {
			if resp, err := client.Get(url + "/livez"); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("livez: %v", err)
			} else {
				resp.Body.Close()
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case err := <-ended:
			if (err != nil) != (signals == 2) {
				t.Errorf("%d signals: %v", signals, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%d signals: it does not end", signals)
		}
	}
}
