package budget

import "github.com/prometheus/client_golang/prometheus"

// metrics are the counters of a store, and a collector of its state.
type metrics struct {
	evicted, evictedBytes prometheus.Counter
	unobtainable          prometheus.Counter
	passed, refused       prometheus.Counter
	state                 *state
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_" + name, Help: help})
	}
	return &metrics{
		evicted:      counter("evictions_total", "Objects that were evicted to stay within the limit of the disk, or because of their age."),
		evictedBytes: counter("evicted_bytes_total", "Bytes of these objects."),
		unobtainable: counter("disk_unobtainable_total", "Objects that were not evicted because no upstream has them any more, counted at each attempt."),
		passed:       counter("disk_limit_passed_total", "Objects that were served without being stored, because there was no room or what is stored is worth more."),
		refused:      counter("disk_limit_refused_total", "Writes that were refused because nothing could be evicted for them."),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.evicted, m.evictedBytes, m.unobtainable, m.passed, m.refused, m.state}
}

// state reports how the limit is used at each collection.
type state struct {
	report                          func() (Report, error)
	limit, taken, evictable, number *prometheus.Desc
}

func newState(report func() (Report, error)) *state {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc("assay_"+name, help, nil, nil) }
	return &state{
		report:    report,
		limit:     desc("disk_limit_bytes", "The limit of the data directory, 0 without one."),
		taken:     desc("disk_limit_used_bytes", "Bytes that the data directory takes on disk, with everything in it."),
		evictable: desc("disk_removable_bytes", "Bytes of the objects that may be evicted."),
		number:    desc("disk_removable_objects", "Number of the objects that may be evicted."),
	}
}

// Describe implements prometheus.Collector.
func (c *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.limit, c.taken, c.evictable, c.number} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *state) Collect(ch chan<- prometheus.Metric) {
	r, err := c.report()
	if err != nil {
		return
	}
	for d, v := range map[*prometheus.Desc]int64{c.limit: r.Limit, c.taken: r.Taken, c.evictable: r.Evictable, c.number: r.Objects} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
}
