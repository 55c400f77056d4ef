package bolt

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/storage"
)

// metrics are the counters of one DB.
type metrics struct {
	created       *prometheus.CounterVec
	createdInline prometheus.Counter
	createdBlob   prometheus.Counter
	deleted       prometheus.Counter
	damaged       prometheus.Counter
	commitSeconds *prometheus.HistogramVec
}

func newMetrics() *metrics {
	m := &metrics{
		created: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_storage_objects_created_total",
			Help: "Objects created, by the place of their content: meta.db (inline) or blobs.db (blob).",
		}, []string{"kind"}),
		deleted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_storage_objects_deleted_total",
			Help: "Objects deleted.",
		}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_storage_damaged_reads_total",
			Help: "Reads of stored bytes that have changed on disk. If it is not 0, check the disk.",
		}),
		commitSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "assay_storage_commit_seconds",
			Help:    "Time of one durable commit, by file.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8), // 0.5 ms to 8 s
		}, []string{"file"}),
	}
	m.createdInline = m.created.WithLabelValues("inline")
	m.createdBlob = m.created.WithLabelValues("blob")
	return m
}

// noteDamage counts err if it is damage, and returns it.
func (m *metrics) noteDamage(err error) error {
	if errors.Is(err, storage.ErrDamaged) {
		m.damaged.Inc()
	}
	return err
}
