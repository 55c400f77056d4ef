package daemon

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

// What a connection takes besides what is held for an answer: its goroutine, its
// buffers, a request's header. With TLS there are records, and what HTTP/2 keeps. Of a
// connection with HTTP/2 each request takes as much again.
const (
	connectionMemory    = 24 << 10
	tlsConnectionMemory = 48 << 10
)

// connection is one that is counted.
type connection struct {
	net.Conn
	idle   atomic.Int64 // since when, in nanoseconds of Unix time; 0 while it has a request
	client string       // that it counts for, once it has entered
	once   sync.Once
	close  func(*connection) // called once, when it is closed
}

// Close closes the connection.
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.close(c) })
	return err
}

// connections is the memory for connections, which their clients share. When none is left, or a
// client has its part, an idle connection is closed for the sake of a new one.
type connections struct {
	budget *memory.Budget
	each   int64
	most   int // connections of one client

	mu      sync.Mutex
	open    map[*connection]struct{}
	clients map[string]int // connections, and requests of HTTP/2, by client
}

// newConnections makes the room for so many connections at most, or fewer if there is no more
// memory. One client has three quarters of them: the next one finds a place.
func newConnections(budget *memory.Budget, each, most int64) *connections {
	n := min(budget.Size()/each, most)
	return &connections{budget: budget, each: each, most: int(n - n/4), open: map[*connection]struct{}{}, clients: map[string]int{}}
}

// enter takes the memory for a connection, and reports whether there was any.
func (r *connections) enter(c *connection) bool {
	c.client = siteOf(c.RemoteAddr().String())
	for {
		entered, of := r.tryEnter(c)
		if entered {
			return true
		}
		if !r.makeRoom(of) {
			return false
		}
	}
}

// tryEnter takes the memory for a connection if there is any. If not, room must be made
// among the connections of the client that it returns, "" for all.
func (r *connections) tryEnter(c *connection) (entered bool, of string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients[c.client] >= r.most {
		return false, c.client
	}
	if !r.budget.Try(r.each) {
		return false, ""
	}
	r.open[c] = struct{}{}
	r.clients[c.client]++
	return true, ""
}

// makeRoom closes a connection that is idle, of one client unless that is "", and reports
// whether there was any.
func (r *connections) makeRoom(of string) bool {
	idle := r.longestIdle(of)
	if idle == nil {
		return false
	}
	_ = idle.Close() // it is given up; this gives its memory back
	return true
}

// longestIdle returns the connection that was idle for longest, of the client that has the
// most unless one is named; nil if all have a request under way. If its client is just
// sending one, it notices that it must connect again.
func (r *connections) longestIdle(of string) *connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found *connection
	var least int64
	for c := range r.open {
		since := c.idle.Load()
		if since == 0 || of != "" && c.client != of {
			continue
		}
		if more := r.clients[c.client]; found == nil || more > r.clients[found.client] || more == r.clients[found.client] && since < least {
			found, least = c, since
		}
	}
	return found
}

// leave gives the memory of a connection back, if it has any.
func (r *connections) leave(c *connection) {
	r.mu.Lock()
	_, entered := r.open[c]
	delete(r.open, c)
	if entered {
		r.count(c.client, -1)
	}
	r.mu.Unlock()
	if entered {
		r.budget.Give(r.each)
	}
}

// count adds n to what a client has. The caller holds r.mu.
func (r *connections) count(client string, n int) {
	if r.clients[client] += n; r.clients[client] == 0 {
		delete(r.clients, client)
	}
}

// siteOf returns the client that a connection from an address, with or without a
// port, counts for: of IPv6 the first 48 bits, which one site has.
func siteOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a.String()
	}
	prefix, _ := a.Prefix(48) // valid for every IPv6 address
	return prefix.String()
}

// noteState notes since when a connection is idle, for http.Server.ConnState. It takes
// no lock: it is called twice for each request.
func noteState(conn net.Conn, state http.ConnState) {
	if encrypted, ok := conn.(*tls.Conn); ok {
		conn = encrypted.NetConn()
	}
	c, ok := conn.(*connection)
	switch {
	case !ok:
	case state == http.StateIdle, state == http.StateNew: // a request counts once its header is there
		c.idle.Store(time.Now().UnixNano())
	case state == http.StateActive:
		c.idle.Store(0)
	}
}

// boundStreams takes memory for each request of a connection with HTTP/2, which has
// many at the same time. They count for the client that remote returns.
func (r *connections) boundStreams(remote func(*http.Request) string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.ProtoMajor >= 2 {
				client := siteOf(remote(req))
				if !r.beginStream(client) {
					w.Header().Set("Retry-After", "5")
					writeText(w, http.StatusServiceUnavailable, crowded+"\ntry again in a few seconds\n")
					return
				}
				defer r.endStream(client)
			}
			next.ServeHTTP(w, req)
		})
	}
}

// beginStream takes the memory for a request of HTTP/2, and reports whether there was any.
func (r *connections) beginStream(client string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients[client] >= r.most || !r.budget.Try(connectionMemory) {
		return false
	}
	r.clients[client]++
	return true
}

func (r *connections) endStream(client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(client, -1)
	r.budget.Give(connectionMemory)
}
