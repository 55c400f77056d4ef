package daemon

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// refusals is the listener of the server that tells clients why they are refused.
type refusals struct {
	addr net.Addr
	most int64 // connections at the same time; others are closed without a response
	open atomic.Int64

	conns chan net.Conn
	ended chan struct{}
	once  sync.Once // closes ended once
}

// refusalTime bounds a refused request and its response.
const refusalTime = 2 * time.Second

func newRefusals(addr net.Addr, most int64) *refusals {
	return &refusals{addr: addr, most: most, conns: make(chan net.Conn), ended: make(chan struct{})}
}

// add passes a connection to the server, or closes it if too many wait.
func (r *refusals) add(conn net.Conn) {
	if r.open.Add(1) > r.most {
		conn.Close()
		return
	}
	select {
	case r.conns <- conn:
	case <-r.ended:
		conn.Close()
	}
}

// end ends Accept and add.
func (r *refusals) end() { r.once.Do(func() { close(r.ended) }) }

// Accept returns the next connection to refuse.
func (r *refusals) Accept() (net.Conn, error) {
	select {
	case conn := <-r.conns:
		return conn, nil
	case <-r.ended:
		return nil, net.ErrClosed
	}
}

// Addr returns the address of those connections.
func (r *refusals) Addr() net.Addr { return r.addr }

// Close does nothing: end ends the listener.
func (r *refusals) Close() error { return nil }

// serve serves those connections until the end. With a config it speaks TLS, and only HTTP/1.1,
// because its connections end with the response.
func (r *refusals) serve(config *tls.Config, log *slog.Logger) error {
	server := &http.Server{
		ReadHeaderTimeout: refusalTime, WriteTimeout: 2 * refusalTime, MaxHeaderBytes: headerSize,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "5")
			writeText(w, http.StatusServiceUnavailable, crowded+"\n"+
				"try again in a few seconds\n"+
				"this proxy's administrator can raise the limits: file descriptors (ulimit -n, LimitNOFILE), memory (--memory-budget)\n")
		}),
	}
	server.SetKeepAlivesEnabled(false)
	if config == nil {
		return server.Serve(r)
	}
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	server.TLSConfig = config
	return server.ServeTLS(r, "", "")
}
