package daemon

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/assay-proxy/assay/access"
)

// observed is a response and its result.
type observed struct {
	http.ResponseWriter
	request *http.Request
	status  int
	bytes   int64
	aborted bool
	begin   time.Time      // when the header of the request had arrived
	first   time.Time      // when the first byte of the response was written
	client  *access.Memory // nil if the request has no credential
	span    trace.Span     // of the request; nil: none
	attrs   []slog.Attr    // those of the log line; its memory is used again, as that of line
	line    []byte
	room    []byte // see joined
}

func (w *observed) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status, w.first = status, time.Now()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *observed) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status, w.first = http.StatusOK, time.Now()
	}
	n, err := 0, error(nil)
	if conn := w.joinable(p); conn != nil {
		n, err = w.writeJoined(conn, p)
	} else {
		n, err = w.ResponseWriter.Write(p)
	}
	w.bytes += int64(n)
	return n, err
}

// joinable returns the connection on which body, which a handler writes, is to leave together with the
// header; nil if there is no need, or body is not the whole response.
func (w *observed) joinable(body []byte) *connection {
	if len(body) < joinedLeast || len(body) > joinedMost || w.bytes > 0 {
		return nil
	}
	if length := w.Header()["Content-Length"]; len(length) != 1 || length[0] != strconv.Itoa(len(body)) {
		return nil
	}
	conn, _ := w.request.Context().Value(connectionKey{}).(*connection)
	return conn
}

// writeJoined writes a whole response.
func (w *observed) writeJoined(conn *connection, body []byte) (int, error) {
	if w.room == nil {
		w.room = make([]byte, httpBuffer)
	}
	conn.joined.hold(w.room)
	n, err := w.ResponseWriter.Write(body)
	if flusher, ok := w.ResponseWriter.(http.Flusher); ok && err == nil {
		flusher.Flush()
	}
	if kept := conn.joined.release(conn.Conn); kept != nil {
		_ = conn.Close() // net/http does not see the error, and would send the next response after a part of this one
		err = errors.Join(err, kept)
	}
	return n, err
}

// hit reports whether the response is a successful hit: current, complete, and with no doubt about the client.
func (w *observed) hit() bool {
	cache := w.Header()["Cache-Status"]
	return w.status < 400 && !w.aborted && len(cache) == 1 && cache[0] == "assay; hit" && (w.client == nil || w.client.Err == nil)
}

// firstByte returns the time from a request to the first byte of its response, and whether there was one.
func firstByte(w http.ResponseWriter) (time.Duration, bool) {
	out, ok := w.(*observed)
	if !ok || out.first.IsZero() {
		return 0, false
	}
	return out.first.Sub(out.begin), true
}

// Unwrap is for http.ResponseController.
func (w *observed) Unwrap() http.ResponseWriter { return w.ResponseWriter }
