package access

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// The results of an identification, values of a label.
const (
	resultOK          = "ok"
	resultRefused     = "refused"
	resultSlowed      = "slowed"
	resultUnavailable = "unavailable"
)

type metrics struct {
	requests *prometheus.CounterVec
	// counters has the counters by kind and result: a lookup in the vector would cost as much as
	// checking a token.
	counters map[[2]string]prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_access_requests_total",
			Help: "Requests that were identified, by kind of credential (basic, token, oidc, certificate, none, other) and result: ok, refused, slowed, unavailable.",
		}, []string{"kind", "result"}),
		counters: map[[2]string]prometheus.Counter{},
	}
	for _, kind := range []string{kindBasic, kindToken, kindOIDC, kindCertificate, kindNone, kindOther} {
		for _, result := range []string{resultOK, resultRefused, resultSlowed, resultUnavailable} {
			if possible(kind, result) {
				m.counters[[2]string{kind, result}] = m.requests.WithLabelValues(kind, result)
			}
		}
	}
	return m
}

// possible reports whether there can be such a request, so that no series stays 0 forever.
func possible(kind, result string) bool {
	switch result {
	case resultOK:
		return kind != kindOther
	case resultRefused:
		return kind != kindNone
	case resultSlowed:
		return kind == kindBasic
	default:
		return kind == kindBasic || kind == kindOIDC
	}
}

func (m *metrics) count(kind string, err error) {
	result := resultOK
	switch {
	case errors.Is(err, errSlowed):
		result = resultSlowed
	case errors.Is(err, ErrUnavailable):
		result = resultUnavailable
	case err != nil:
		result = resultRefused
	}
	m.counters[[2]string{kind, result}].Inc()
}
