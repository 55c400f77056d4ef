package content

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/request"
)

type metrics struct {
	fills         *prometheus.HistogramVec
	fillsRunning  prometheus.Gauge
	panics        prometheus.Counter
	mismatches    prometheus.Counter
	dropped       prometheus.Counter
	changed       prometheus.Counter
	infosReplaced prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		fills: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "assay_fill_duration_seconds",
			Help:    "Time to fetch, verify and store an object, by kind and outcome (ok, absent, error).",
			Buckets: []float64{.01, .03, .1, .3, 1, 3, 10, 30, 100},
		}, []string{"kind", "outcome"}),
		fillsRunning: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_fills_running",
			Help: "Objects that are being fetched, verified and stored.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_fill_panics_total",
			Help: "Fetches of objects, lists and queries that ended in an internal error (a panic). Please report it.",
		}),
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_checksum_mismatches_total",
			Help: "Objects from an upstream that differ from the record of the checksum database. An administrator must examine each.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_store_dropped_total",
			Help: "Stored objects that were damaged or unproved, and were dropped to be fetched again.",
		}),
		changed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_private_changed_total",
			Help: "Private versions that differ from the pinned content, in their repository or on disk. An administrator must examine each.",
		}),
		infosReplaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_infos_replaced_total",
			Help: "Stored .info files that were replaced because the upstream's answer changed.",
		}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.fills, m.fillsRunning, m.panics, m.mismatches, m.dropped, m.changed, m.infosReplaced}
}

func (m *metrics) observeFill(kind request.Kind, outcome string, took time.Duration) {
	m.fills.WithLabelValues(kind.String(), outcome).Observe(took.Seconds())
}

// leaseMetrics count what became of the leases that fetches asked for.
type leaseMetrics struct {
	own, shared, late, none prometheus.Counter
	results                 *prometheus.CounterVec // those by result
	waiting                 prometheus.Gauge
}

func newLeaseMetrics() *leaseMetrics {
	m := &leaseMetrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_leases_total",
			Help: "Fetches that replicas do once together, by what came of the lease: own (this replica fetched), shared (another one did, and this one used it), late (the other one took too long or stored nothing), none (the bucket gave no lease in time). After late and none this replica fetched, too.",
		}, []string{"result"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_leases_waiting",
			Help: "Fetches that wait for another replica that does the same.",
		}),
	}
	m.own, m.shared = m.results.WithLabelValues("own"), m.results.WithLabelValues("shared")
	m.late, m.none = m.results.WithLabelValues("late"), m.results.WithLabelValues("none")
	return m
}

// outcomeOf returns the label of work that ended with err, and whether it failed.
func outcomeOf(err error) (outcome string, failed bool) {
	switch {
	case err == nil:
		return "ok", false
	case IsAbsence(err):
		return "absent", false
	}
	return "error", true
}

// predictionsCollector reports what was predicted.
type predictionsCollector struct {
	predictor *predict.Predictor
	counts    [3]*prometheus.Desc // predicted, used, wasted: files
	bytes     [3]*prometheus.Desc
}

func newPredictionsCollector(p *predict.Predictor) predictionsCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("assay_predicted_"+name, help, []string{"kind"}, nil)
	}
	return predictionsCollector{p,
		[3]*prometheus.Desc{
			desc("total", "Files that were fetched, or read ahead in a bucket, because a client would probably request them next, by kind (info, mod, zip)."),
			desc("used_total", "Predicted files that the client has requested."),
			desc("wasted_total", "Predicted files that the client has not requested within 30 seconds."),
		},
		[3]*prometheus.Desc{
			desc("bytes_total", "Bytes of the files that were fetched, or read ahead in a bucket, because of a prediction."),
			desc("used_bytes_total", "Bytes of the predicted files that the client has requested."),
			desc("wasted_bytes_total", "Bytes of the predicted files that the client has not requested within 30 seconds."),
		},
	}
}

// Describe implements prometheus.Collector.
func (c predictionsCollector) Describe(out chan<- *prometheus.Desc) {
	for i := range c.counts {
		out <- c.counts[i]
		out <- c.bytes[i]
	}
}

// Collect implements prometheus.Collector.
func (c predictionsCollector) Collect(out chan<- prometheus.Metric) {
	stats := c.predictor.Stats(time.Now())
	for _, kind := range []request.Kind{request.Info, request.Mod, request.Zip} {
		of := stats[kind]
		for i, n := range [3]int64{of.Predicted, of.Used, of.Wasted} {
			out <- prometheus.MustNewConstMetric(c.counts[i], prometheus.CounterValue, float64(n), kind.String())
		}
		for i, n := range [3]int64{of.PredictedBytes, of.UsedBytes, of.WastedBytes} {
			out <- prometheus.MustNewConstMetric(c.bytes[i], prometheus.CounterValue, float64(n), kind.String())
		}
	}
}

// placesCollector reports how full the places are.
type placesCollector struct {
	all                                         map[string]*places.Places
	running, waiting, clients, refused, yielded *prometheus.Desc
}

func newPlacesCollector(all map[string]*places.Places) placesCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"places"}, labels...), nil)
	}
	return placesCollector{all,
		desc("assay_places_running", "Places in use: objects, zips, private (objects), lookups and files (tiles, heads) of checksum databases, beyond (tiles beyond the newest head)."),
		desc("assay_places_waiting", "Requests that wait for a place."),
		desc("assay_places_clients", "Requests of clients that wait for work in these places, which is under way or waits for a place."),
		desc("assay_places_refused_total", "Requests for a place that were refused, by reason: client (this client has too many waiting), full (all clients have), late (none became free in time).", "reason"),
		desc("assay_places_yielded_total", "Fetches that were stopped to free their place, by reason: abandoned (no client waited for it), slow.", "reason"),
	}
}

// Describe implements prometheus.Collector.
func (c placesCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.running, c.waiting, c.clients, c.refused, c.yielded} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c placesCollector) Collect(out chan<- prometheus.Metric) {
	for name, p := range c.all {
		stats := p.Stats()
		out <- prometheus.MustNewConstMetric(c.running, prometheus.GaugeValue, float64(stats.Running), name)
		out <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(stats.Waiting), name)
		out <- prometheus.MustNewConstMetric(c.clients, prometheus.GaugeValue, float64(stats.Clients), name)
		for reason, n := range map[string]uint64{"client": stats.ClientFull, "full": stats.Full, "late": stats.Late} {
			out <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(n), name, reason)
		}
		for reason, n := range map[string]uint64{"abandoned": stats.Abandoned, "slow": stats.Slow} {
			out <- prometheus.MustNewConstMetric(c.yielded, prometheus.CounterValue, float64(n), name, reason)
		}
	}
}
