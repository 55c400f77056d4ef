package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

// startRoom starts a server that has memory for so many connections, and returns its
// address. A request for /wait is answered whole when release is closed.
func startRoom(t *testing.T, connections int64, release <-chan struct{}) (string, *memory.Budget) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	budget := memory.New(connections * connectionMemory)
	log := &logger{Logger: slog.New(slog.DiscardHandler)}
	d := newDoor(listener, 1000, log.Logger)
	d.room = newRoom(budget, connectionMemory)
	s := &server{log: log}
	go s.serveRefusals(d)
	server := &http.Server{ConnState: noteState, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})}
	go server.Serve(d)
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String(), budget
}

// knock sends a request on a connection of its own, and returns it and the first line
// of its answer.
func knock(t *testing.T, addr, path string) (conn net.Conn, status string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return conn, strings.TrimSpace(strings.TrimPrefix(line, "HTTP/1.1 "))
}

// When there is no memory for another connection, one that is idle makes room; where
// all are busy the next one gets 503, and is served when one has ended.
func TestRoom(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	addr, budget := startRoom(t, 4, release)
	want := func(path, want string) {
		t.Helper()
		// A connection is idle a moment after its answer.
		for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			_, status := knock(t, addr, path)
			if status == want {
				break
			}
			if time.Since(begin) > 30*time.Second {
				t.Fatalf("%s: %s, want %s", path, status, want)
			}
		}
		if budget.Used() > budget.Size() {
			t.Errorf("%d of %d bytes are used", budget.Used(), budget.Size())
		}
	}
	want("/wait", "200 OK")
	want("/wait", "200 OK")
	for range 8 { // two of them fit, idle, and give way one after the other
		want("/", "200 OK")
	}
	want("/wait", "200 OK")
	want("/wait", "200 OK")
	if _, status := knock(t, addr, "/"); status != "503 Service Unavailable" {
		t.Errorf("a fifth beside four that are busy: %s", status)
	}
	close(release)
	want("/", "200 OK")
}

// All memory comes back when connections are closed.
func TestRoomReturns(t *testing.T) {
	t.Parallel()
	addr, budget := startRoom(t, 20, nil)
	for range 30 {
		conn, _ := knock(t, addr, "/")
		conn.Close()
	}
	for begin := time.Now(); budget.Used() != 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("%d bytes are lost", budget.Used())
		}
	}
}
