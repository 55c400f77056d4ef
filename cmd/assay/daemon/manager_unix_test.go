//go:build unix

package daemon

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage/bolt"
)

// The watchdog of the service manager is told that the program works only if the program responds: not
// while connections are accepted without a response, and again as soon as any response comes.
func TestWatchdog(t *testing.T) {
	dir, err := os.MkdirTemp("", "notify") // a path that is short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	notifications, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notifications.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	next := func() string {
		t.Helper()
		buffer := make([]byte, 1000)
		if err := notifications.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := notifications.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}

	store, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var responds, closes atomic.Bool
	silent := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				if closes.Load() {
					return
				}
				if responds.Load() {
					_, _ = conn.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"))
					return
				}
				silent <- struct{}{}
				_, _ = conn.Read(make([]byte, 1)) // until the watchdog gives up
			}()
		}
	}()

	ready := &readiness{store: store, log: slog.New(slog.DiscardHandler)}
	ready.phase.Store(phaseReady)
	own := &supervised{ready, listener.Addr(), "http://localhost/readyz", slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		own.run(ctx)
	}()
	if got, want := next(), "READY=1\nSTATUS=serving on "+listener.Addr().String(); got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	for range 3 {
		<-silent
	}
	if err := notifications.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := notifications.Read(make([]byte, 1000)); err == nil {
		t.Errorf("%d bytes came while it did not respond", n)
	}
	responds.Store(true)
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("it says %q", got)
	}
	closes.Store(true) // as a busy server does
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("it says %q", got)
	}
	cancel()
	<-ended
}
