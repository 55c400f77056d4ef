package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/descriptors"
)

// openListener opens the address of a setting: host:port, or unix: and the path of a socket.
func openListener(setting, address string) (net.Listener, error) {
	var inner net.Listener
	var err error
	if path, ok := config.Socket(address); ok {
		inner, err = listenSocket(path)
	} else {
		inner, err = net.Listen("tcp", address)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use, possibly by another assay; choose another address with --%s", address, setting)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return inner, nil
}

// socketMode is the mode of a socket: who opens it counts as a reverse proxy.
const socketMode = 0o660

// listenSocket makes a socket, in place of one that a killed server has left. The error is
// syscall.EADDRINUSE if a server has it. Until it has its mode, the process's own default counts:
// with the usual one only the same user can open it.
func listenSocket(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s exists, and is not a socket; remove it", path)
	default:
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
			return nil, syscall.EADDRINUSE
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// listener is a net.Listener that keeps descriptors for the rest of the program: fetches, writes
// and commands need some, and clients choose how many connections they open. It refuses a
// connection beyond most, one for which only the spare descriptor is left, and one for which there
// is no memory: it responds with 503 and closes the connection.
type listener struct {
	net.Listener
	passed      bool         // by a service manager, which keeps the socket open
	most        int64        // connections at the same time
	connections *connections // those that are served
	refusals    *refusals    // those that are refused
	log         *slog.Logger
	refused     prometheus.Counter

	phase  atomic.Int32 // accepting, draining or drained
	until  time.Time    // when draining ends at the latest; set before phase
	open   atomic.Int64
	spare  spareDescriptor
	logged atomic.Int64 // time of the last refusal that was logged, in nanoseconds of Unix time
}

// refusalLogs is the minimum time between two lines about refusals.
const refusalLogs = time.Minute

// reserved returns how many of the descriptors are not available for connections.
func reserved(descriptors int64) int64 { return max(descriptors/4, min(descriptors/2, 512)) }

// newListener returns a listener for a process that may have so many descriptors.
func newListener(inner net.Listener, descriptors int64, served *connections, log *slog.Logger) *listener {
	l := &listener{
		Listener: inner, most: descriptors - reserved(descriptors), connections: served, log: log,
		refusals: newRefusals(inner.Addr(), max(1, min(reserved(descriptors)/4, 64))),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_http_connections_refused_total",
			Help: "Connections that were refused because too many were open, or no file descriptor or memory was free.",
		}),
	}
	l.spare.take()
	return l
}

// Accept returns the next connection that is not refused.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if l.phase.Load() == draining && !l.another() {
			return nil, l.endAccept()
		}
		conn, err := l.Listener.Accept()
		short := false
		if descriptors.Exhausted(err) && l.spare.give() {
			conn, err = l.Listener.Accept()
			short = !l.spare.take()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && l.phase.Load() == draining {
			continue
		}
		if err != nil {
			if descriptors.Exhausted(err) {
				l.spare.take()
				l.logRefusal("no free file descriptor for a connection")
			}
			return nil, err // net/http waits and tries again
		}
		counted := &connection{Conn: conn, close: l.leave}
		switch {
		case l.open.Add(1) > l.most && !l.connections.makeRoom(""):
			l.refuse(counted, "too many open connections")
		case short:
			l.refuse(counted, "no free file descriptor for a connection")
		case !l.connections.enter(counted):
			l.refuse(counted, "no memory for a connection")
		default:
			return counted, nil
		}
	}
}

// The phases of a listener.
const (
	accepting = iota
	draining  // Accept returns connections that wait in the kernel, or none if the socket was passed
	drained   // Accept waits for Close
)

// drainTime bounds the wait for the requests of clients that have just connected.
const drainTime = 2 * time.Second

// drain ends Accept and waits until the accepted connections are closed, for which the server must not
// keep them for later requests, until drainTime, or until ctx ends. It is called before
// http.Server.Shutdown, which drops a request that is read after it has begun.
//
// Connections that wait in the kernel are reset when the socket is closed. If a service manager has
// the socket, too, it stays open, and they wait for the next process. Otherwise they are accepted, and
// then the socket is closed, so that later clients see at once that there is no server.
func (l *listener) drain(ctx context.Context) {
	l.until = time.Now().Add(drainTime)
	l.phase.Store(draining)
	_ = l.Listener.(deadliner).SetDeadline(time.Unix(1, 0)) // wakes Accept
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	for (l.phase.Load() != drained || l.open.Load() > 0) && pause(ctx, 5*time.Millisecond) {
	}
}

// another reports whether a draining listener accepts another connection: one that waits in the
// kernel. Accept would not return that after the deadline that has woken it.
func (l *listener) another() bool {
	if l.passed || time.Now().After(l.until) || !connectionWaits(l.Listener) {
		return false
	}
	_ = l.Listener.(deadliner).SetDeadline(time.Now().Add(time.Second)) // for a connection that its client has reset
	return true
}

// endAccept ends a draining listener. It returns when the listener is closed.
func (l *listener) endAccept() error {
	if !l.passed {
		_ = l.Listener.Close() // from here on the kernel refuses connections
	}
	l.phase.Store(drained)
	<-l.refusals.ended
	return net.ErrClosed
}

// deadliner has the deadlines of a TCP listener, and of a Unix one.
type deadliner interface{ SetDeadline(time.Time) error }

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// leave is called once for each closed connection.
func (l *listener) leave(c *connection) {
	l.open.Add(-1)
	l.connections.leave(c)
	l.spare.take()
}

// refuse passes the connection to the server that responds with 503.
func (l *listener) refuse(c *connection, why string) {
	l.refused.Inc()
	l.logRefusal(why)
	l.open.Add(-1)
	c.close = func(*connection) {
		l.refusals.open.Add(-1)
		l.spare.take()
	}
	l.refusals.add(c)
}

// logRefusal logs why connections are refused, at most once per refusalLogs.
func (l *listener) logRefusal(why string) {
	now, last := time.Now().UnixNano(), l.logged.Load()
	if now-last >= int64(refusalLogs) && l.logged.CompareAndSwap(last, now) {
		l.log.Warn("connections are refused: "+why, "open", l.open.Load(), "most", l.most)
	}
}

// Close ends Accept, of the listener and of the refused connections.
func (l *listener) Close() error {
	l.refusals.end()
	l.spare.give()
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) { // Accept has closed it
		return nil
	}
	return err
}

// spareDescriptor is a descriptor that can be released to accept a connection and respond that
// there is none.
type spareDescriptor struct {
	mu   sync.Mutex
	file *os.File // nil: it is in use, or could not be opened again
}

// take opens the descriptor, and reports whether there is one.
func (s *spareDescriptor) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull) // without it, the next refusal closes the connection without a response
	}
	return s.file != nil
}

// give releases the descriptor, and reports whether there was one.
func (s *spareDescriptor) give() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return false
	}
	s.file.Close()
	s.file = nil
	return true
}
