package daemon

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// crowded is the first line for a client whose connection is one too many.
const crowded = "busy: too many open connections"

// door is a listener that leaves descriptors to the rest of the program: to fetch, to
// write and to run commands takes some, and clients choose how many connections they
// open. A connection beyond most, one for which there is no descriptor but the spare
// one, and one for which there is no memory, is told so with a 503 and closed.
type door struct {
	net.Listener
	most    int64 // connections at the same time
	refuses int64 // connections that are being told so at the same time; others are just closed
	log     *slog.Logger
	refused prometheus.Counter
	room    *room // nil: without bound

	open, refusing atomic.Int64
	toRefuse       chan net.Conn // refusals accepts them
	closed         chan struct{}
	close          sync.Once

	mu    sync.Mutex // guards all below
	spare *os.File   // nil: it is in use, or could not be had again
	said  time.Time
}

const (
	refusalTime = 2 * time.Second // for a request that is refused, and for its answer
	refusalsLog = time.Minute     // between two lines about refusals
)

// newDoor makes a listener for a process that may have so many descriptors.
func newDoor(listener net.Listener, descriptors int64, log *slog.Logger) *door {
	rest := max(descriptors/4, min(descriptors/2, 512))
	d := &door{
		Listener: listener, most: descriptors - rest, refuses: max(1, min(rest/4, 64)), log: log,
		toRefuse: make(chan net.Conn), closed: make(chan struct{}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_http_connections_refused_total",
			Help: "Connections that were refused because too many were open, or no file descriptor or memory was free.",
		}),
	}
	d.takeSpare()
	return d
}

// takeSpare opens the spare descriptor, and reports whether there is one.
func (d *door) takeSpare() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.spare == nil {
		d.spare, _ = os.Open(os.DevNull) // without it refusals are less polite
	}
	return d.spare != nil
}

// giveSpare frees the spare descriptor, and reports whether there was one.
func (d *door) giveSpare() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.spare == nil {
		return false
	}
	d.spare.Close()
	d.spare = nil
	return true
}

// Accept returns the next connection that is not refused.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		short := false
		if exhausted(err) && d.giveSpare() {
			conn, err = d.Listener.Accept()
			short = !d.takeSpare()
		}
		if err != nil {
			if exhausted(err) {
				d.takeSpare()
				d.say("no free file descriptor for a connection")
			}
			return nil, err // net/http waits and tries again
		}
		counted := &doorConn{Conn: conn, door: d, count: &d.open}
		switch {
		case d.open.Add(1) > d.most && !d.room.makeRoom(""):
			d.refuse(counted, "too many open connections")
		case short:
			d.refuse(counted, "no free file descriptor for a connection")
		case !d.room.enter(counted):
			d.refuse(counted, "no memory for a connection")
		default:
			return counted, nil
		}
	}
}

// refuse has a connection told that there is no room for it.
func (d *door) refuse(conn *doorConn, why string) {
	d.refused.Inc()
	d.say(why)
	d.open.Add(-1)
	conn.count = &d.refusing
	if d.refusing.Add(1) > d.refuses {
		conn.Close()
		return
	}
	select {
	case d.toRefuse <- conn:
	case <-d.closed:
		conn.Close()
	}
}

// say logs why connections are refused, now and then.
func (d *door) say(why string) {
	d.mu.Lock()
	due := time.Since(d.said) >= refusalsLog
	if due {
		d.said = time.Now()
	}
	d.mu.Unlock()
	if due {
		d.log.Warn("connections are refused: "+why, "open", d.open.Load(), "most", d.most)
	}
}

// Close ends Accept, here and of what is refused.
func (d *door) Close() error {
	d.close.Do(func() { close(d.closed) })
	d.giveSpare()
	return d.Listener.Close()
}

// doorConn is a connection that is counted.
type doorConn struct {
	net.Conn
	door  *door
	count *atomic.Int64
	idle  atomic.Int64 // since when, in nanoseconds of Unix time; 0 while it has a request

	client string // that it counts for, once it has entered the room
	close  sync.Once
}

func (c *doorConn) Close() error {
	err := c.Conn.Close()
	c.close.Do(func() {
		c.count.Add(-1)
		c.door.room.leave(c)
		c.door.takeSpare()
	})
	return err
}

// refusals is the listener of the server that tells clients why they are refused.
type refusals struct{ *door }

func (r refusals) Accept() (net.Conn, error) {
	select {
	case conn := <-r.toRefuse:
		return conn, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

// Close does nothing: the door is closed by who opened it.
func (r refusals) Close() error { return nil }

// serveRefusals answers those connections until the door is closed.
func (s *server) serveRefusals(d *door) error {
	server := &http.Server{
		ReadHeaderTimeout: refusalTime, WriteTimeout: 2 * refusalTime, MaxHeaderBytes: headerSize,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "5")
			writeText(w, http.StatusServiceUnavailable, crowded+"\n"+
				"try again in a few seconds\n"+
				"this proxy's administrator can raise the limits: file descriptors (ulimit -n, LimitNOFILE), memory (--memory-budget)\n")
		}),
	}
	server.SetKeepAlivesEnabled(false)
	if s.tls == nil {
		return server.Serve(refusals{d})
	}
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // HTTP/1.1 alone, which ends with the answer
	server.TLSConfig = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := s.tls.current().Clone()
		c.NextProtos = []string{"http/1.1"}
		return c, nil
	}}
	return server.ServeTLS(refusals{d}, "", "")
}

// exhausted reports whether err is that there are no descriptors left, for this process
// or on this machine.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// descriptorText is the limit as the log has it.
func descriptorText() string {
	if limit := descriptorLimit(); limit < noLimit {
		return strconv.FormatInt(limit, 10)
	}
	return "unlimited"
}

// noLimit is the number of descriptors where none is known.
const noLimit = math.MaxInt64 / 2
