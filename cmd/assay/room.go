package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
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

// room is the memory for connections. When none is left, the connection that was idle
// for longest is closed for the sake of a new one.
type room struct {
	budget *memory.Budget
	each   int64

	mu   sync.Mutex
	open map[*doorConn]struct{}
}

func newRoom(budget *memory.Budget, each int64) *room {
	return &room{budget: budget, each: each, open: map[*doorConn]struct{}{}}
}

// newRoom returns the room for connections to s.
func (s *server) newRoom() *room {
	if s.tls != nil {
		return newRoom(s.memory.connections, tlsConnectionMemory)
	}
	return newRoom(s.memory.connections, connectionMemory)
}

// enter takes the memory for a connection, and reports whether there was any.
func (r *room) enter(c *doorConn) bool {
	if r == nil {
		return true
	}
	for !r.budget.Try(r.each) {
		idle := r.longestIdle()
		if idle == nil {
			return false
		}
		_ = idle.Close() // it is given up; this gives its memory back
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[c] = struct{}{}
	return true
}

// longestIdle returns the connection that was idle for longest, nil if all have a
// request under way. If its client is just sending one, it notices that it must connect
// again.
func (r *room) longestIdle() *doorConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	var oldest *doorConn
	least := int64(0)
	for c := range r.open {
		if since := c.idle.Load(); since != 0 && (oldest == nil || since < least) {
			oldest, least = c, since
		}
	}
	return oldest
}

// leave gives the memory of a connection back, if it has any.
func (r *room) leave(c *doorConn) {
	if r == nil {
		return
	}
	r.mu.Lock()
	_, entered := r.open[c]
	delete(r.open, c)
	r.mu.Unlock()
	if entered {
		r.budget.Give(r.each)
	}
}

// noteState notes since when a connection is idle, for http.Server.ConnState. It takes
// no lock: it is called twice for each request.
func noteState(conn net.Conn, state http.ConnState) {
	if encrypted, ok := conn.(*tls.Conn); ok {
		conn = encrypted.NetConn()
	}
	c, ok := conn.(*doorConn)
	switch {
	case !ok:
	case state == http.StateIdle:
		c.idle.Store(time.Now().UnixNano())
	case state == http.StateActive:
		c.idle.Store(0)
	}
}

// boundStreams takes memory for each request of a connection with HTTP/2, which has
// many at the same time.
func boundStreams(budget *memory.Budget) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor >= 2 {
				if !budget.Try(connectionMemory) {
					w.Header().Set("Retry-After", "5")
					writeText(w, http.StatusServiceUnavailable, crowded+"\ntry again in a few seconds\n")
					return
				}
				defer budget.Give(connectionMemory)
			}
			next.ServeHTTP(w, r)
		})
	}
}
