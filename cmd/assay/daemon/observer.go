package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/access"
)

// observer sees every request: it assigns an id, counts it, logs it, and limits a panic to its own
// request.
type observer struct {
	log       *logger
	accessLog func() int // of how many hits one has a line; 0: no request has one
	clients   *clients
	idPrefix  string // of this process
	lastID    atomic.Uint64
	pool      sync.Pool // of *observed

	responses *prometheus.CounterVec
	durations prometheus.Histogram
	codes     [600]atomic.Pointer[prometheus.Counter] // of responses, by status
	running   prometheus.Gauge
	panics    prometheus.Counter

	tracing *tracing
}

func newObserver(log *logger, accessLog func() int, from *clients) *observer {
	return &observer{
		log: log, accessLog: accessLog, clients: from,
		idPrefix: rand.Text()[:6] + "-",
		pool:     sync.Pool{New: func() any { return new(observed) }},
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_http_responses_total",
			Help: "Responses by status; 499 is a client that disconnected before the answer.",
		}, []string{"code"}),
		durations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "assay_http_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer.",
			Buckets: []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100},
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_http_requests_running",
			Help: "Requests in progress.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_http_panics_total",
			Help: "Requests that ended in an internal error (a panic). Please report it.",
		}),
		tracing: newTracing(),
	}
}

func (o *observer) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.responses, o.durations, o.running, o.panics, o.tracing.dropped}
}

func (o *observer) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		id := o.requestID(r)
		w.Header()["X-Request-Id"] = []string{id}
		out := o.pool.Get().(*observed)
		*out = observed{ResponseWriter: w, request: r, begin: begin, room: out.room, attrs: out.attrs, line: out.line}
		o.running.Inc()
		r, out.client = access.Remember(r)
		r = o.tracing.begin(out, r, o.clients.proxied(r))
		defer func() {
			o.running.Dec()
			o.end(r, out, id, recover())
		}()
		if r.ContentLength != 0 {
			refuseBody(w)
		}
		next.ServeHTTP(out, r)
	})
}

// bodyTime is how long a client may take to send a body that is not read.
const bodyTime = 5 * time.Second

// refuseBody limits the time for an unexpected body, and allows no other request on its connection.
func refuseBody(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // a connection without deadlines has none to set
}

// end counts and logs a request. A panic other than an aborted response is a bug: it is logged with
// its stack, and the client gets a 500 if no response has begun.
func (o *observer) end(r *http.Request, out *observed, id string, panicked any) {
	aborted := panicked == http.ErrAbortHandler
	if panicked != nil && !aborted {
		o.panics.Inc()
		o.log.Error("panic", "request", id, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		if out.status == 0 {
			writeText(out, http.StatusInternalServerError, "internal error\ncontact this proxy's administrator with the request id; the log has the details\nrequest id: "+id+"\n")
		} else {
			aborted = true
		}
	}
	if out.status == 0 {
		out.status = http.StatusOK
	}
	end := time.Now()
	o.code(out.status).Inc()
	o.durations.Observe(end.Sub(out.begin).Seconds())
	out.aborted = aborted
	if sampled := o.sample(out); sampled > 0 && o.log.Enabled(r.Context(), slog.LevelInfo) {
		o.logAccess(r, out, id, end, sampled)
	}
	o.tracing.end(out)
	clear(out.attrs) // releases their texts
	*out = observed{room: out.room, attrs: out.attrs[:0], line: out.line}
	o.pool.Put(out)
	if aborted {
		panic(http.ErrAbortHandler)
	}
}

// sample returns for how many requests the line of a request stands: itself, so many hits as one is
// logged of, or 0, and it has no line. The choice is random: a counter would have the rhythm of a
// client that repeats its requests, and a client could hide requests behind those that it counts.
func (o *observer) sample(out *observed) int {
	n := o.accessLog()
	if n <= 1 || !out.hit() {
		return min(n, 1)
	}
	if mathrand.IntN(n) > 0 {
		return 0
	}
	return n
}

// logAccess writes the line of a request, which stands for so many. It omits the query: the protocol
// has none, and some clients put secrets there.
func (o *observer) logAccess(r *http.Request, out *observed, id string, end time.Time, sampled int) {
	cache := ""
	if status := out.Header()["Cache-Status"]; status != nil {
		cache = status[0]
	}
	out.attrs = append(out.attrs[:0],
		slog.String("request", id), slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", out.status), slog.Int64("bytes", out.bytes), slog.Float64("dur_ms", milliseconds(end.Sub(out.begin))),
		slog.String("cache", cache), slog.String("remote", o.clients.address(r)))
	if client := out.client; client != nil && client.Asked {
		out.attrs = append(out.attrs, clientAttrs(client)...)
	}
	if trace := traceID(out.span, r); trace != "" {
		out.attrs = append(out.attrs, slog.String("trace_id", trace))
	}
	if out.aborted {
		out.attrs = append(out.attrs, slog.Bool("aborted", true))
	}
	if sampled > 1 {
		out.attrs = append(out.attrs, slog.Int("sampled", sampled))
	}
	out.line = o.log.request(out.line[:0], end, out.attrs)
}

// clientAttrs returns who sent a request, if it was authenticated. An unverified name is not
// logged.
func clientAttrs(client *access.Memory) []slog.Attr {
	switch {
	case errors.Is(client.Err, access.ErrUnavailable):
		return []slog.Attr{slog.String("credential", "unchecked")}
	case client.Err != nil:
		return []slog.Attr{slog.String("credential", "refused")}
	}
	return []slog.Attr{slog.String("user", client.Identity.Name), slog.String("credential", client.Identity.Kind)}
}

// milliseconds is the form of a duration in the log: with three decimals, and with the unit in the
// name of the field.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// code returns the counter for a status without a lookup by label.
func (o *observer) code(status int) prometheus.Counter {
	if status < 100 || status >= len(o.codes) {
		status = 599
	}
	if c := o.codes[status].Load(); c != nil {
		return *c
	}
	c := o.responses.WithLabelValues(strconv.Itoa(status))
	o.codes[status].Store(&c)
	return c
}

// maxID is the maximum length of a request id that is taken from a client.
const maxID = 64

// requestID returns the client's id for the request if it has only plain characters, otherwise a
// new one.
func (o *observer) requestID(r *http.Request) string {
	if values := r.Header["X-Request-Id"]; len(values) == 1 && plain(values[0]) {
		return values[0]
	}
	return o.idPrefix + strconv.FormatUint(o.lastID.Add(1), 36)
}

func plain(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}
