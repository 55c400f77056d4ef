package tiered

import "github.com/prometheus/client_golang/prometheus"

// metrics are the counters of one Store.
type metrics struct {
	opened  *prometheus.CounterVec // by result
	bytes   prometheus.Counter
	filling prometheus.Gauge
	kept    *prometheus.CounterVec // by result
	errors  *prometheus.CounterVec // by op

	openResults
	keepResults
}

// openResults are the counters of opened.
type openResults struct{ hit, shared, miss, failed prometheus.Counter }

// keepResults are some counters of kept.
type keepResults struct{ stored, skipped, refused, old prometheus.Counter }

func newMetrics() *metrics {
	m := &metrics{
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_tier_opens_total",
			Help: "Objects that were opened, by where they were: hit (on the local disk), shared (on their way from the bucket for another reader), miss (in the bucket), error (absent, damaged, or the bucket did not answer).",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_tier_bucket_bytes_total",
			Help: "Bytes of contents that were read from the bucket.",
		}),
		filling: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_tier_fills_running",
			Help: "Contents that are being read from the bucket, or stored on the local disk.",
		}),
		kept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_tier_stores_total",
			Help: "Contents that were to be stored on the local disk, by result: stored, skipped (no memory, or too much under way), refused (it has no room), outdated (the object changed meanwhile), error.",
		}, []string{"result"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_tier_local_errors_total",
			Help: "Errors of the local disk, by operation: read, write, delete. The bucket serves instead.",
		}, []string{"op"}),
	}
	m.hit, m.shared = m.opened.WithLabelValues("hit"), m.opened.WithLabelValues("shared")
	m.miss, m.failed = m.opened.WithLabelValues("miss"), m.opened.WithLabelValues("error")
	m.stored, m.skipped = m.kept.WithLabelValues("stored"), m.kept.WithLabelValues("skipped")
	m.refused, m.old = m.kept.WithLabelValues("refused"), m.kept.WithLabelValues("outdated")
	m.kept.WithLabelValues("error")
	for _, op := range []string{opRead, opWrite, opDelete} {
		m.errors.WithLabelValues(op)
	}
	return m
}

// Operations on the local store, as labels.
const (
	opRead   = "read"
	opWrite  = "write"
	opDelete = "delete"
)

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.opened, m.bytes, m.filling, m.kept, m.errors}
}
