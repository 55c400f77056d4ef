package sumdb

import "github.com/prometheus/client_golang/prometheus"

// gauges returns the collectors of the current state of what in has found.
func gauges(in *finder) []prometheus.Collector {
	f := in.follower
	labels := prometheus.Labels{"database": f.client.name}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
	}
	return []prometheus.Collector{
		gauge("assay_sumdb_tree_size", "Records under the newest verified tree head.",
			func() float64 { return float64(f.size()) }),
		gauge("assay_sumdb_head_timestamp_seconds", "When the newest verified tree head was accepted, 0 without one.",
			func() float64 {
				if h := f.head.Load(); h != nil {
					return float64(h.time.Unix())
				}
				return 0
			}),
		gauge("assay_sumdb_refresh_timestamp_seconds", "When an upstream last sent a head that verified, 0 if not yet.",
			func() float64 {
				if t := in.polls.lastAnswer(); !t.IsZero() {
					return float64(t.Unix())
				}
				return 0
			}),
		gauge("assay_sumdb_frozen", "1 while nothing new is accepted because the database forked.",
			func() float64 {
				if _, frozen := in.freezer.state(); frozen {
					return 1
				}
				return 0
			}),
	}
}
