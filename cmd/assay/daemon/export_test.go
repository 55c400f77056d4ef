package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

// The limits of what a client may send, and how slowly.
const (
	BodyTime  = bodyTime
	MaxHook   = maxHook
	MaxHooks  = maxHooks
	SmallHook = smallHook
)

// CheckCertificates reads the TLS files of the settings.
func CheckCertificates(c config.Config) error {
	_, err := newCertificates(c, nil)
	return err
}

// RequestLines returns the line of a request as slog writes it and as lineFormat does, which may leave it
// to slog.
func RequestLines(format string, end time.Time, attrs []slog.Attr) (slogs, ours string, ok bool) {
	var text strings.Builder
	var handler slog.Handler = slog.NewTextHandler(&text, nil)
	if format == "json" {
		handler = slog.NewJSONHandler(&text, nil)
	}
	record := slog.NewRecord(end, slog.LevelInfo, "request", 0)
	record.AddAttrs(attrs...)
	_ = handler.Handle(context.Background(), record) // strings.Builder never fails
	line, ok := lineFormat{json: format == "json"}.append(nil, end, attrs)
	return text.String(), string(line), ok
}

// Joined returns what is written to a connection when a handler writes data in these parts after hold,
// and then calls release, and how many bytes of them Write says are written.
func Joined(parts ...[]byte) (sent [][]byte, n int) {
	inner := &recorder{}
	c := &connection{Conn: inner}
	c.joined.hold(make([]byte, httpBuffer))
	for _, part := range parts {
		written, _ := c.Write(part) // a recorder never fails
		n += written
	}
	_ = c.joined.release(inner)
	return inner.sent, n
}

type recorder struct {
	net.Conn
	sent [][]byte
}

func (r *recorder) Write(data []byte) (int, error) {
	r.sent = append(r.sent, bytes.Clone(data))
	return len(data), nil
}

// ServeJoined serves a connection whose first write sends only the first bytes and fails, as one does
// after the write timeout, and returns the client's end.
func ServeJoined(ctx context.Context, first int, handler http.HandlerFunc) net.Conn {
	client, server := net.Pipe()
	conn := &connection{Conn: &short{Conn: server, first: first}, close: func(*connection) {}}
	l := &oneListener{make(chan net.Conn, 1), ctx}
	l.conns <- conn
	s := &http.Server{ConnContext: withConnection, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler(&observed{ResponseWriter: w, request: r}, r)
	})}
	go func() { _ = s.Serve(l) }() // until the test ends
	return client
}

// short is a connection whose first write sends only the first bytes.
type short struct {
	net.Conn
	first int
}

func (s *short) Write(data []byte) (int, error) {
	if s.first == 0 {
		return s.Conn.Write(data)
	}
	n, _ := s.Conn.Write(data[:s.first])
	s.first = 0
	return n, os.ErrDeadlineExceeded
}

// oneListener accepts what is in its channel.
type oneListener struct {
	conns chan net.Conn
	ctx   context.Context // after its end, Accept fails
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
func (l *oneListener) Close() error   { return nil }

// FullMonitor serves a listener as metrics-listen, of a program whose connections of clients have taken
// all of their memory, until stop.
func FullMonitor(l net.Listener, mebibytes int) (stop func()) {
	shares := divide(mebibytes, false)
	for shares.connections.Try(connectionMemory) {
	}
	return newMonitor(l, shares, slog.New(slog.DiscardHandler)).close
}

// IsHit reports whether a response counts as a successful hit, of which access-log-sample omits lines. err is
// about the client's credential.
func IsHit(status int, cache string, aborted bool, err error) bool {
	w := &observed{ResponseWriter: httptest.NewRecorder(), status: status, aborted: aborted}
	if cache != "" {
		w.Header().Set("Cache-Status", cache)
	}
	if err != nil {
		w.client = &access.Memory{Asked: true, Err: err}
	}
	return w.hit()
}
