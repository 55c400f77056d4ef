package daemon

import "github.com/prometheus/client_golang/prometheus"

// diskCollector reports how much room there is for the data directory, so that an alert can precede a
// full disk. It reports nothing when the system does not tell.
type diskCollector struct {
	dir        string
	free, size *prometheus.Desc
}

func newDiskCollector(dir string) diskCollector {
	return diskCollector{
		dir: dir,
		free: prometheus.NewDesc("assay_disk_free_bytes",
			"Free bytes of the file system with the data directory, for the user of this process.", nil, nil),
		size: prometheus.NewDesc("assay_disk_size_bytes", "Size of the file system with the data directory.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c diskCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.free
	ch <- c.size
}

// Collect implements prometheus.Collector.
func (c diskCollector) Collect(ch chan<- prometheus.Metric) {
	if free, size, ok := diskSpace(c.dir); ok {
		ch <- prometheus.MustNewConstMetric(c.free, prometheus.GaugeValue, float64(free))
		ch <- prometheus.MustNewConstMetric(c.size, prometheus.GaugeValue, float64(size))
	}
}
