package daemon

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/spans"
)

// The memory of a connection without the response: its goroutine, its buffers, a request's header.
// TLS adds records, and HTTP/2 its state. On an HTTP/2 connection, each request takes as much
// again.
const (
	connectionMemory    = 24 << 10
	tlsConnectionMemory = 48 << 10
)

// connection is a counted connection.
type connection struct {
	net.Conn
	idle   atomic.Int64 // since when, in nanoseconds of Unix time; 0 during a request
	client string       // the site that it counts for, once it has entered
	once   sync.Once
	close  func(*connection) // called once, on Close
	joined joined            // used by the goroutine of the running request alone
}

// Write sends data to the client, or keeps it back, see joined.
func (c *connection) Write(data []byte) (int, error) { return c.joined.write(c.Conn, data) }

// Close closes the connection.
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.close(c) })
	return err
}

// connectionKey is the key of a request's connection in its context, if it has no TLS: then it has one
// request at a time.
type connectionKey struct{}

// withConnection is http.Server.ConnContext.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, c)
	}
	return ctx
}

// connections is the memory for connections, which all clients share. When none is left, or a
// client has used its part, an idle connection is closed to make room for a new one.
type connections struct {
	budget *memory.Budget
	each   int64
	most   int // maximum for one client

	mu      sync.Mutex
	open    map[*connection]struct{}
	clients map[string]int // connections, and HTTP/2 requests, by client
}

// newConnections returns room for at most most connections, or for fewer if the budget has less
// memory. One client gets at most three quarters of them, so that others find a place.
func newConnections(budget *memory.Budget, each, most int64) *connections {
	n := min(budget.Size()/each, most)
	return &connections{budget: budget, each: each, most: int(n - n/4), open: map[*connection]struct{}{}, clients: map[string]int{}}
}

// enter takes the memory for a connection, and reports whether it succeeded.
func (r *connections) enter(c *connection) bool {
	c.client = access.SiteOf(c.RemoteAddr().String())
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

// tryEnter takes the memory for a connection if there is any. Otherwise, of is the client among
// whose connections room must be made, "" for all clients.
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

// makeRoom closes an idle connection of the client of, or of any client if of is "", and reports
// whether there was one.
func (r *connections) makeRoom(of string) bool {
	idle := r.longestIdle(of)
	if idle == nil {
		return false
	}
	_ = idle.Close() // this connection is given up; closing it gives its memory back
	return true
}

// longestIdle returns the connection that was idle for longest, of the client of, or else of the
// client with the most connections; nil if all of them have a running request. A client that is
// just sending a request over the returned connection notices that it must connect again.
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

// count adds n to the count of a client. The caller holds r.mu.
func (r *connections) count(client string, n int) {
	if r.clients[client] += n; r.clients[client] == 0 {
		delete(r.clients, client)
	}
}

// noteState notes since when a connection is idle. It is http.Server.ConnState, and takes no lock
// because it is called twice for each request.
func noteState(conn net.Conn, state http.ConnState) {
	if encrypted, ok := conn.(*tls.Conn); ok {
		conn = encrypted.NetConn()
	}
	c, ok := conn.(*connection)
	switch {
	case !ok:
	case state == http.StateIdle, state == http.StateNew: // a request counts once its header has arrived
		c.idle.Store(time.Now().UnixNano())
	case state == http.StateActive:
		c.idle.Store(0)
	}
}

// boundStreams takes memory for each request of an HTTP/2 connection, which has many requests at
// the same time. A request counts for the client that remote returns.
func (r *connections) boundStreams(remote func(*http.Request) string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.ProtoMajor >= 2 {
				client := access.SiteOf(remote(req))
				if !r.beginStream(client) {
					spans.Note(req.Context(), spans.Shed)
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

// beginStream takes the memory for an HTTP/2 request, and reports whether it succeeded.
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
