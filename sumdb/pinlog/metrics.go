package pinlog

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/sumdb"
)

type metrics struct {
	appends   *prometheus.CounterVec // by result
	overtaken prometheus.Counter
	gauges    []prometheus.Collector
}

// A log that is open for reading only signs nothing anyway. One that is merely not adopted is not shown as
// frozen then: it serves as it should, and Adopt would make a second log beside the original.
func newMetrics(size func() int64, refuses func() error, readOnly bool) *metrics {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	m := &metrics{
		appends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_log_appends_total",
			Help: "Appends of module versions to the own log, by result: appended, known, conflict, refused, error.",
		}, []string{"result"}),
		overtaken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_log_overtaken_total",
			Help: "How often another replica wrote to the own log in the bucket first, so that the entries of this one had to be written again.",
		}),
		gauges: []prometheus.Collector{
			gauge("assay_log_entries", "Entries under the newest signed head of the own log.",
				func() float64 { return float64(size()) }),
			gauge("assay_log_frozen", "1 while the own log refuses to sign anything new; with read-only, 1 only if its files contradict each other.",
				func() float64 {
					if why := refuses(); why != nil && !(readOnly && adoptable(why)) {
						return 1
					}
					return 0
				}),
		},
	}
	for _, result := range []string{"appended", "known", "conflict", "refused", "error"} {
		m.appends.WithLabelValues(result) // at 0, so that the first event counts in a rate
	}
	return m
}

// appendResult returns the label of an append: result, unless there is an error.
func appendResult(result string, err error) string {
	var conflict *ConflictError
	switch {
	case err == nil:
		return result
	case errors.As(err, &conflict):
		return "conflict"
	case errors.Is(err, sumdb.ErrInvalid), errors.Is(err, sumdb.ErrFrozen):
		return "refused"
	default:
		return "error"
	}
}
