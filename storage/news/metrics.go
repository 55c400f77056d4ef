package news

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics say whether a replica gets the news of others.
type metrics struct {
	read   prometheus.Gauge
	missed prometheus.Counter
	failed prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		read: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_news_read_timestamp_seconds",
			Help: "When the news of other replicas were last read from the bucket, in seconds since 1970; 0 if not yet. It is once a second.",
		}),
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_news_missed_total",
			Help: "How often news may have been missed, so that everything was looked at; not at the start.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_news_failed_total",
			Help: "Changes of other replicas that could not be taken over, counted at each attempt.",
		}),
	}
}

// looked notes that the news were read.
func (m *metrics) looked() { m.read.Set(float64(time.Now().UnixMilli()) / 1000) }
