package sumdb

import (
	"errors"
	"io/fs"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts the work of the parts of a mirror.
type metrics struct {
	lookups   *prometheus.CounterVec // by result
	tiles     *prometheus.CounterVec // by result
	tileHits  prometheus.Counter     // of tiles
	heads     *prometheus.CounterVec // by result
	forks     prometheus.Counter
	conflicts prometheus.Counter
}

func newMetrics(name string) *metrics {
	labels := prometheus.Labels{"database": name}
	counters := func(metric, help string, by ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metric, Help: help, ConstLabels: labels}, by)
	}
	counter := func(metric, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: metric, Help: help, ConstLabels: labels})
	}
	m := &metrics{
		lookups: counters("assay_sumdb_lookups_total",
			"Lookups in a checksum database, by result: hit, miss, absent, refused, error.", "result"),
		tiles: counters("assay_sumdb_tiles_total",
			"Tiles of a checksum database, by result: hit, miss, relayed, absent, refused, error.", "result"),
		heads: counters("assay_sumdb_heads_total",
			"Tree heads checked, by result: advanced, older, refused, fork.", "result"),
		forks: counter("assay_sumdb_forks_total",
			"Tree heads signed by the database that contradict the verified tree."),
		conflicts: counter("assay_sumdb_conflicts_total",
			"Records that contradict a stored record of the same module version."),
	}
	m.tileHits = m.tiles.WithLabelValues("hit")
	for _, result := range []string{"advanced", "older", "refused", "fork"} {
		m.heads.WithLabelValues(result) // at 0, so that the first event counts in a rate
	}
	return m
}

// collectors returns the counters of m.
func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.lookups, m.tiles, m.heads, m.forks, m.conflicts}
}

// resultOf returns the label of an answer: result, unless there is an error.
func resultOf(result string, err error) string {
	switch {
	case err == nil:
		return result
	case errors.Is(err, ErrInvalid), errors.Is(err, ErrFrozen):
		return "refused"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrBeyond):
		return "absent"
	default:
		return "error"
	}
}
