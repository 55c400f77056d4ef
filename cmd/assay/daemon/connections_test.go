package daemon

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

// source is the address from which connections seem to come.
type source struct {
	address  atomic.Pointer[string]
	accepted atomic.Int64
}

func (s *source) set(address string) { s.address.Store(&address) }

// sourced is a listener whose connections seem to come from a source.
type sourced struct {
	net.Listener
	from *source
}

func (l sourced) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(*l.from.address.Load())
	l.from.accepted.Add(1)
	if err != nil {
		return nil, err
	}
	return sourcedConn{conn, net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 1000))}, nil
}

type sourcedConn struct {
	net.Conn
	addr net.Addr
}

func (c sourcedConn) RemoteAddr() net.Addr { return c.addr }

// startRoom starts a server that has memory for at most most connections, which seem to come from
// the source from, and returns its address. The response to /wait is complete only after release is
// closed.
func startRoom(t *testing.T, most int64, release <-chan struct{}, from *source) (string, *memory.Budget) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	budget := memory.New(most * connectionMemory)
	l := newListener(sourced{listener, from}, 1000, newConnections(budget, connectionMemory, 1000-reserved(1000)), slog.New(slog.DiscardHandler))
	go l.refusals.serve(nil, slog.New(slog.DiscardHandler))
	server := &http.Server{ConnState: noteState, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close(); l.Close() })
	return listener.Addr().String(), budget
}

// knock sends a request over a connection of its own, and returns the connection and the first line
// of the response.
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

// When there is no memory for another connection, an idle one makes room. If all are busy, the new
// one gets 503, and is served once another has ended.
func TestRoom(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var from source
	addr, budget := startRoom(t, 4, release, &from)
	want := func(path, want string) {
		t.Helper()
		// A connection becomes idle a moment after its response.
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
	from.set("10.0.0.1")
	want("/wait", "200 OK")
	want("/wait", "200 OK")
	for range 8 { // two of them fit, become idle, and are closed one after the other
		want("/", "200 OK")
	}
	want("/wait", "200 OK")
	from.set("10.0.0.2")
	want("/wait", "200 OK")
	if _, status := knock(t, addr, "/"); status != "503 Service Unavailable" {
		t.Errorf("a fifth beside four that are busy: %s", status)
	}
	close(release)
	want("/", "200 OK")
}

// All memory is given back when connections are closed.
func TestRoomReturns(t *testing.T) {
	t.Parallel()
	var from source
	from.set("10.0.0.1")
	addr, budget := startRoom(t, 20, nil, &from)
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

// One client never has all connections: neither with unfinished requests, nor with silent
// connections, nor from many addresses of one site. The next client is served at once.
func TestRoomForOthers(t *testing.T) {
	t.Parallel()
	for _, send := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\nA: ", "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"} {
		t.Run(fmt.Sprintf("%.9q", send), func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			defer close(release)
			var from source
			addr, budget := startRoom(t, 8, release, &from)
			for i := range 20 {
				from.set(fmt.Sprintf("2001:db8:0:%x::1", i))
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, send) // it may be refused already
				want := int64(min(i+1, 6)) * connectionMemory
				for begin := time.Now(); from.accepted.Load() <= int64(i) || budget.Used() != want; time.Sleep(time.Millisecond) {
					if time.Since(begin) > 30*time.Second {
						t.Fatalf("with %d connections of one client %d bytes are used, want %d", i+1, budget.Used(), want)
					}
				}
			}
			from.set("2001:db8:1::1")
			for range 5 {
				if _, status := knock(t, addr, "/"); status != "200 OK" {
					t.Errorf("the next client: %s", status)
				}
			}
		})
	}
}

// The requests of an HTTP/2 connection count for its client, and give their memory back.
func TestRoomForStreams(t *testing.T) {
	t.Parallel()
	budget := memory.New(8 * connectionMemory)
	r := newConnections(budget, connectionMemory, 1000)
	for i := range 8 {
		if got, want := r.beginStream("mallory"), i < 6; got != want {
			t.Errorf("request %d of one client: %v, want %v", i, got, want)
		}
	}
	if !r.beginStream("alice") {
		t.Error("another client is refused")
	}
	for range 6 {
		r.endStream("mallory")
	}
	r.endStream("alice")
	if budget.Used() != 0 || len(r.clients) != 0 {
		t.Errorf("%d bytes are lost, %v", budget.Used(), r.clients)
	}
}
