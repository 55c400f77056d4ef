package sumdb

import (
	"errors"
	"io/fs"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	lookups   *prometheus.CounterVec // by result
	tiles     *prometheus.CounterVec // by result
	heads     *prometheus.CounterVec // by result
	forks     prometheus.Counter
	conflicts prometheus.Counter
	gauges    []prometheus.Collector
}

func newMetrics(m *Mirror) *metrics {
	labels := prometheus.Labels{"database": m.name}
	counters := func(name, help string, by ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, by)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
	}
	return &metrics{
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
		gauges: []prometheus.Collector{
			gauge("assay_sumdb_tree_size", "Records under the newest verified tree head.",
				func() float64 { return float64(m.Size()) }),
			gauge("assay_sumdb_head_timestamp_seconds", "When the newest verified tree head was accepted, 0 without one.",
				m.headTime),
			gauge("assay_sumdb_refresh_timestamp_seconds", "When an upstream last sent a head that verified, 0 if not yet.",
				m.refreshTime),
			gauge("assay_sumdb_frozen", "1 while nothing new is accepted because the database forked.",
				m.frozenValue),
		},
	}
}

// Metrics returns the collectors of the mirror, all with the label database.
func (m *Mirror) Metrics() []prometheus.Collector {
	s := m.metrics
	return append([]prometheus.Collector{s.lookups, s.tiles, s.heads, s.forks, s.conflicts}, s.gauges...)
}

func (m *Mirror) headTime() float64 {
	if h := m.head.Load(); h != nil {
		return float64(h.time.Unix())
	}
	return 0
}

func (m *Mirror) refreshTime() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refreshed.IsZero() {
		return 0
	}
	return float64(m.refreshed.Unix())
}

func (m *Mirror) frozenValue() float64 {
	if _, frozen := m.Frozen(); frozen {
		return 1
	}
	return 0
}

// resultOf is the label for an answer: result, unless there is an error.
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
