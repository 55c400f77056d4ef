package bolt

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics implements storage.Measured.
func (db *DB) Metrics() []prometheus.Collector {
	m, state := db.metrics, newStateCollector()
	state.db = db
	return []prometheus.Collector{m.created, m.deleted, m.damaged, m.commitSeconds, state}
}

// stateCollector reads the store's statistics at each collection.
type stateCollector struct {
	db        *DB
	fileBytes *prometheus.Desc
	freeBytes *prometheus.Desc
	limit     *prometheus.Desc
	objects   *prometheus.Desc
	bytes     *prometheus.Desc
	open      *prometheus.Desc
	orphans   *prometheus.Desc
}

func newStateCollector() *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("assay_storage_"+name, help, labels, nil)
	}
	return &stateCollector{
		fileBytes: desc("file_bytes", "Size of the files of the store.", "file"),
		freeBytes: desc("file_free_bytes", "Free space in the files, for new objects.", "file"),
		limit:     desc("file_limit_bytes", "Used space of a file at which no new object fits: 64 MiB less than store-limit; 0 if there is no limit.", "file"),
		objects:   desc("objects", "Objects in the store."),
		bytes:     desc("object_bytes", "Sum of the sizes of the objects."),
		open:      desc("open_objects", "Large objects that are open for reading or are being written."),
		orphans:   desc("orphans", "Blobs that wait to be deleted."),
	}
}

func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.fileBytes, c.freeBytes, c.limit, c.objects, c.bytes, c.open, c.orphans} {
		ch <- d
	}
}

func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for label, f := range map[string]*file{"meta": c.db.meta, "blobs": c.db.blobs.file} {
		total, free := f.size()
		gauge(c.fileBytes, total, label)
		gauge(c.freeBytes, free, label)
		gauge(c.limit, room(f.limit), label)
	}
	if s, err := c.db.Stats(context.Background()); err == nil {
		gauge(c.objects, s.Objects)
		gauge(c.bytes, s.Bytes)
		gauge(c.orphans, s.Orphans)
	}
	gauge(c.open, c.db.reaper.open())
}
