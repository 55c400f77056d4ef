package sumdb_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/sumdb"
)

// counter is the value of the metric name with the given result, or of the only
// one of that name.
func counter(t testing.TB, m *sumdb.Mirror, name, result string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if result == "" {
				return metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
			for _, label := range metric.GetLabel() {
				if label.GetName() == "result" && label.GetValue() == result {
					return metric.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}
