package vcs

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/notfound"
)

type metrics struct {
	runs       *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	running    prometheus.Gauge
	cacheBytes prometheus.Gauge
	evicted    prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_vcs_runs_total",
			Help: "Version control operations, by command (list: versions, branches, commits; mod: a download) and outcome.",
		}, []string{"command", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "assay_vcs_run_seconds",
			Help:    "Time of a version control operation, including the wait for a place.",
			Buckets: []float64{.03, .1, .3, 1, 3, 10, 30, 100, 300, 1000},
		}, []string{"command"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_vcs_running",
			Help: "Go commands running now.",
		}),
		cacheBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_vcs_cache_bytes",
			Help: "Disk space of the clones of repositories.",
		}),
		evicted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_vcs_evicted_total",
			Help: "Clones of repositories removed to make room.",
		}),
	}
	for _, command := range []string{"list", "mod"} { // at 0, so that the first event counts in a rate
		m.seconds.WithLabelValues(command)
		for _, outcome := range []string{"ok", "forbidden", "credential", "timeout", "not_found", "tools", "failed"} {
			m.runs.WithLabelValues(command, outcome)
		}
	}
	return m
}

// collectors returns the collectors, the same ones each time.
func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.runs, m.seconds, m.running, m.cacheBytes, m.evicted}
}

func (m *metrics) observe(command, outcome string, took time.Duration) {
	m.runs.WithLabelValues(command, outcome).Inc()
	m.seconds.WithLabelValues(command).Observe(took.Seconds())
}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrForbidden):
		return "forbidden"
	case errors.Is(err, ErrCredential):
		return "credential"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case notfound.Is(err):
		return "not_found"
	case errors.Is(err, ErrTools):
		return "tools"
	}
	return "failed"
}
