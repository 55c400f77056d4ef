package proxy

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/request"
)

// result says how a request was answered; the first are those of content.Result.
type result uint8

const (
	resultUnknown   = result(content.Unknown)
	resultHit       = result(content.Hit)
	resultStale     = result(content.Stale)
	resultMiss      = result(content.Miss)
	resultCoalesced = result(content.Coalesced)
	resultNegative  = result(content.Negative)
)

const (
	resultAbsent  = resultNegative + 1 + iota // not found
	resultRefused                             // by a rule, or because a proof failed
	resultError                               // of an upstream or of this proxy
	resultAborted                             // aborted after its first bytes
	resultGone                                // the client left before the response
	numberOfResults
)

func (r result) String() string {
	return [...]string{"unknown", "hit", "stale", "miss", "coalesced", "negative", "absent", "refused", "error", "aborted", "gone"}[r]
}

// resultOf returns the result that a status of an error stands for.
func resultOf(status int) result {
	switch {
	case status == http.StatusNotFound:
		return resultAbsent
	case status < 500:
		return resultRefused
	default:
		return resultError
	}
}

type metrics struct {
	requests     *prometheus.CounterVec
	counters     [request.NumKinds + 1][numberOfResults]prometheus.Counter // of requests, as an array, so that a hit needs no map
	firstBytes   *prometheus.HistogramVec
	histograms   [request.NumKinds + 1][numberOfResults]atomic.Pointer[prometheus.Observer] // of firstBytes, in use
	leakRequests *prometheus.CounterVec
	leaks        [numberOfLeakKinds]prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_cache_requests_total",
			Help: "Requests by kind of object and result: hit, stale, miss, coalesced, negative, absent, refused, error, aborted, gone.",
		}, []string{"kind", "result"}),
		firstBytes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "assay_http_first_byte_seconds",
			Help:    "Time from a request's header to the first byte of its answer, by kind of object and result as in assay_cache_requests_total.",
			Buckets: []float64{.0003, .001, .003, .01, .03, .1, .3, 1, 3, 10, 30},
		}, []string{"kind", "result"}),
		leakRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_leak_requests_total",
			Help: "Requests of clients that are not configured for private modules: public_database (lookup of a private name in a public checksum database), no_credential (request for a restricted module without a credential). /-/leaks lists the clients.",
		}, []string{"kind"}),
	}
	for kind := range m.leaks {
		m.leaks[kind] = m.leakRequests.WithLabelValues(LeakKind(kind).String())
	}
	for kind := range m.counters {
		for r := range m.counters[kind] {
			if result(r) != resultUnknown {
				m.counters[kind][r] = m.requests.WithLabelValues(request.Kind(kind).String(), result(r).String())
			}
		}
	}
	return m
}

func (m *metrics) count(kind request.Kind, r result) { m.counters[kind][r].Inc() }

// observe observes the time to the first byte of an answer. The series of a kind and a result exist from the
// first such answer on: most of all pairs never occur.
func (m *metrics) observe(kind request.Kind, r result, took time.Duration) {
	histogram := m.histograms[kind][r].Load()
	if histogram == nil {
		made := m.firstBytes.WithLabelValues(kind.String(), r.String())
		histogram = &made
		m.histograms[kind][r].Store(histogram)
	}
	(*histogram).Observe(took.Seconds())
}
