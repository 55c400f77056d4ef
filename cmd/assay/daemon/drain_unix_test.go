//go:build unix

package daemon

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

// A server that stops answers the connections that wait in the kernel, and refuses later ones, although a
// transfer continues. With a socket of a service manager, both wait for the next process.
func TestDrain(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "drain") // a path that is short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, test := range []struct {
		network, address string
		passed           bool
	}{
		{"tcp", "127.0.0.1:0", false},
		{"unix", filepath.Join(dir, "own"), false},
		{"tcp", "127.0.0.1:0", true},
		{"unix", filepath.Join(dir, "passed"), true},
	} {
		t.Run(fmt.Sprintf("%s passed=%v", test.network, test.passed), func(t *testing.T) {
			inner, err := net.Listen(test.network, test.address)
			if err != nil {
				t.Fatal(err)
			}
			addr := inner.Addr()
			l := newListener(inner, 1000, newConnections(memory.New(100*connectionMemory), connectionMemory, 900), slog.New(slog.DiscardHandler))
			l.passed = test.passed
			defer l.Close()
			release := make(chan struct{})
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				<-release // all of them are transfers that take long
				writeText(w, http.StatusOK, "ok\n")
			})}
			server.SetKeepAlivesEnabled(false)
			connect := func() net.Conn {
				t.Helper()
				conn, err := net.Dial(addr.Network(), addr.String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				return conn
			}
			var waiting []net.Conn
			for range 20 { // before Accept is called at all
				waiting = append(waiting, connect())
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				l.drain(t.Context())
			}()
			for l.phase.Load() != draining {
				time.Sleep(time.Millisecond)
			}
			go server.Serve(l)
			defer server.Close()
			for l.phase.Load() != drained {
				time.Sleep(time.Millisecond)
			}
			late, err := net.Dial(addr.Network(), addr.String())
			if err == nil {
				late.Close()
			}
			if (err == nil) != test.passed {
				t.Errorf("a later client gets %v", err)
			}
			close(release)
			<-ended
			if test.passed {
				if err := inner.(deadliner).SetDeadline(time.Time{}); err != nil {
					t.Fatal(err)
				}
				for range waiting { // as the next process
					conn, err := inner.Accept()
					if err != nil {
						t.Fatal(err)
					}
					conn.Close()
				}
				return
			}
			for _, conn := range waiting {
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatalf("a client that was waiting gets %v", err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("a client that was waiting gets %s", resp.Status)
				}
			}
		})
	}
}
