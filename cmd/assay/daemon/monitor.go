package daemon

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// monitor serves the paths that machines request on an address of their own. It serves from the start
// of the program to its end, also while keys are moved and during shutdown-delay.
type monitor struct {
	listener *listener
	server   *http.Server
	log      *slog.Logger
	parts    atomic.Pointer[monitored] // nil: the program is starting
}

// monitored is what a monitor reports.
type monitored struct {
	ready   *readiness
	metrics http.Handler
}

// newMonitor serves a listener until close.
func newMonitor(inner net.Listener, memory shares, log *slog.Logger) *monitor {
	descriptors := 2 * memory.monitor.Size() / connectionMemory // of which half is reserved
	served := newConnections(memory.monitor, connectionMemory, descriptors-reserved(descriptors))
	m := &monitor{listener: newListener(inner, descriptors, served, log), log: log}
	m.server = &http.Server{
		Handler: m, ReadHeaderTimeout: headerTime, WriteTimeout: writeSlack, IdleTimeout: idleTime, MaxHeaderBytes: headerSize, ConnState: noteState,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() { m.end(m.listener.refusals.serve(nil, log)) }()
	go func() { m.end(m.server.Serve(m.listener)) }()
	return m
}

// end logs why a server has ended, unless close has ended it.
func (m *monitor) end(err error) {
	if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		m.log.Error("serving metrics-listen stopped", "err", err)
	}
}

// begin makes the monitor report on the parts of the program.
func (m *monitor) begin(ready *readiness, metrics http.Handler) {
	m.parts.Store(&monitored{ready, metrics})
}

// close ends the monitor. It may be nil.
func (m *monitor) close() {
	if m != nil {
		_ = m.server.Close() // what machines read at the end is nothing to wait for
	}
}

// ServeHTTP responds to the requests of machines.
func (m *monitor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := m.parts.Load()
	switch r.URL.Path {
	case "/livez":
		writeText(w, http.StatusOK, "ok\n")
	case "/readyz", "/metrics":
		if now == nil {
			w.Header().Set("Retry-After", "5")
			writeText(w, http.StatusServiceUnavailable, "starting\n")
		} else if r.URL.Path == "/readyz" {
			now.ready.ServeHTTP(w, r)
		} else {
			now.metrics.ServeHTTP(w, r)
		}
	default:
		writeText(w, http.StatusNotFound, "not found: this address has /metrics, /livez and /readyz; modules are at the address in listen\n")
	}
}

// metricsHandler responds with all series.
func metricsHandler(metrics prometheus.Gatherer, log *logger) http.Handler {
	return promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)})
}
