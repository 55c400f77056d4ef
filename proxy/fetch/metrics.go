package fetch

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of one request to an upstream, the values of the label outcome.
const (
	outcomeOK          = "ok"           // the headers of a 200
	outcomeResumed     = "resumed"      // a broken transfer continues
	outcomeNotFound    = "not_found"    // 404, 410, no such file
	outcomeRefused     = "refused"      // another 4xx
	outcomeLimited     = "limited"      // 429
	outcomeUnavailable = "unavailable"  // everything else that says nothing about the object
	outcomeTimeout     = "timeout"      // a time budget ran out
	outcomeTooLarge    = "too_large"    // the declared size is over the limit
	outcomeCanceled    = "canceled"     // the caller left
	outcomeOpen        = "breaker_open" // not sent: the circuit breaker is open
	outcomeRemembered  = "remembered"   // not sent: it failed a moment ago
	outcomeSpared      = "spared"       // not sent: the upstream asked for fewer requests, and no client waits
)

// metrics are the collectors of a chain. The label upstream is an entry of the configured list,
// without credentials.
type metrics struct {
	requests *prometheus.CounterVec
	retries  *prometheus.CounterVec
	broken   *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	answer   *prometheus.HistogramVec
	breakers *breakerCollector
	clocks   *clockCollector
}

func newMetrics() *metrics {
	upstream := []string{"upstream"}
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_upstream_requests_total",
			Help: "Requests to upstreams by outcome. A request that is retried or resumed counts each time.",
		}, []string{"upstream", "outcome"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_upstream_retries_total",
			Help: "Requests to upstreams that repeat a failed one.",
		}, upstream),
		broken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_upstream_broken_transfers_total",
			Help: "Response bodies that were interrupted or stalled, including resumed ones.",
		}, upstream),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_upstream_received_bytes_total",
			Help: "Bytes of response bodies received from upstreams.",
		}, upstream),
		answer: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "assay_upstream_answer_seconds",
			Help:    "Time from a request to the headers of its answer, redirects included.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 4, 8, 16},
		}, upstream),
		breakers: &breakerCollector{desc: prometheus.NewDesc("assay_upstream_breaker_state",
			"State of an upstream's circuit breaker: 0 closed, 1 half open (a probe is due or under way), 2 open.", upstream, nil)},
		clocks: newClockCollector(),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.retries, m.broken, m.bytes, m.answer, m.breakers, m.clocks}
}

// count counts a request to upstream that began at begin. It observes the duration only if there
// was an answer.
func (m *metrics) count(upstream, outcome string, begin time.Time) {
	m.requests.WithLabelValues(upstream, outcome).Inc()
	switch outcome {
	case outcomeOK, outcomeResumed, outcomeNotFound, outcomeRefused, outcomeLimited, outcomeTooLarge:
		m.answer.WithLabelValues(upstream).Observe(time.Since(begin).Seconds())
	}
}

// breakerCollector reads the states when metrics are collected, because an open breaker becomes
// half open as time passes.
type breakerCollector struct {
	desc *prometheus.Desc

	mu       sync.Mutex // guards breakers
	breakers []breakerState
}

// breakerState is the state of one upstream's breaker.
type breakerState struct {
	upstream string
	state    func() int
}

func (c *breakerCollector) add(upstream string, state func() int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breakers = append(c.breakers, breakerState{upstream, state})
}

// Describe implements prometheus.Collector.
func (c *breakerCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *breakerCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.breakers {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(b.state()), b.upstream)
	}
}
