package daemon

import (
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/metrics"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/memory"
)

// indexMemory is the maximum memory of the proxy's indexes of objects: absences, states of .info
// files, objects compared with the log, pushes. Their bounds, of which maxAbsent in package
// proxy/content is the first, do not depend on the budget.
const indexMemory = 16 << 20

// monitorMemory is for 64 connections to metrics-listen. Machines have their own, because a probe that is
// refused while clients have all others would make an orchestrator end the program.
const monitorMemory = 64 * 24 << 10

// maxBucketReaders is how many readers may wait for memory to read from a bucket: as many as the usual number of open
// files permits. Each has a connection already.
const maxBucketReaders = 1024

// shares is the memory budget, divided by purpose. No purpose can take the memory of another one:
// slow clients do not prevent fetches, and fetches do not prevent connections.
type shares struct {
	hot     int64 // frequently requested objects
	indexes int64 // the proxy's indexes of objects

	ownLog      *memory.Budget // the index of our own log
	store       *memory.Budget // large objects during writes
	proofs      *memory.Budget // zips while they are hashed, lookups while they are proved
	fetches     *memory.Budget // fetched data that is not stored yet; webhooks
	answers     *memory.Budget // data read from the store, until clients have received it
	bucket      *memory.Budget // data read from a bucket, on its way to a client or to the local copies; nil: there is none
	bucketLarge *memory.Budget // the same of objects of more than 256 KiB; nil with bucket
	connections *memory.Budget // clients
	monitor     *memory.Budget // machines that read metrics-listen
}

// divide divides a budget of so many MiB, for a store in a bucket or on the local disk. In a budget of 256 MiB a unit
// is 8 MiB.
func divide(mebibytes int, bucket bool) shares {
	total := int64(mebibytes) << 20
	unit, all := (total-indexMemory)/30, memory.New(total)
	s := shares{hot: 2 * unit, indexes: indexMemory}
	all.Must(s.hot + s.indexes)
	s.ownLog = all.Part(2 * unit)
	s.store = all.Part(3 * unit)
	s.proofs = all.Part(4 * unit)
	s.fetches = all.Part(6 * unit)
	answers := 7 * unit
	if bucket {
		// Who reads from a bucket waits for memory, and who reads a local copy is refused while others wait.
		// Of large objects, what an address does not read holds memory: it gets half of it, and nothing of the
		// memory for small ones, which is free again when the bucket has answered.
		answers, s.bucket = 4*unit, all.Part(unit+unit/2).Queue(maxBucketReaders)
		s.bucketLarge = all.Part(unit + unit/2).Limit((unit + unit/2) / 2).Queue(maxBucketReaders)
	}
	s.answers = all.Part(answers).Limit(answers * 3 / 8) // half of it for the chunks, which readers share
	s.monitor = all.Part(monitorMemory)
	s.connections = all.Part(6*unit - s.monitor.Size())
	return s
}

// named returns the counted shares by the names that they have in metrics.
func (s shares) named() map[string]*memory.Budget {
	named := map[string]*memory.Budget{
		"log": s.ownLog, "store": s.store, "proofs": s.proofs, "fetches": s.fetches, "answers": s.answers, "connections": s.connections, "monitor": s.monitor,
	}
	if s.bucket != nil {
		named["bucket"], named["bucket-large"] = s.bucket, s.bucketLarge
	}
	return named
}

// gcPercent makes the garbage collector run half as often as Go's default while the program uses
// little memory: the memory limit bounds the heap, and nearly everything that a hit allocates is
// garbage at its end.
const gcPercent = 200

// limitMemory sets Go's memory limit: the budget, plus the memory in use at the start, plus a
// quarter for garbage; or nine tenths of the container's memory, if that is less. GOMEMLIMIT in the
// environment takes precedence.
func limitMemory(mebibytes int, container int64, log *slog.Logger) {
	if text := os.Getenv("GOMEMLIMIT"); text != "" {
		log.Info("memory limit", "budget_mib", mebibytes, "limit", text, "from", "environment GOMEMLIMIT")
		return
	}
	debug.FreeOSMemory()
	budget, base := int64(mebibytes)<<20, memoryTaken()
	limit, from := (budget+base)/4*5, "memory-budget"
	if most := container / 10 * 9; most > 0 && most < limit {
		limit, from = most, "cgroup"
	}
	debug.SetMemoryLimit(limit)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log.Info("memory limit", "budget_mib", mebibytes, "base_mib", base>>20, "limit_mib", limit>>20, "from", from)
	if limit < budget+base {
		log.Warn("the container's memory limit is too low for memory-budget: lower the budget, or raise the limit",
			"container_mib", container>>20, "needed_mib", (budget+base)/4*5*10/9>>20)
	}
}

// memoryTaken returns how many bytes Go has from the operating system, counted like its memory
// limit.
func memoryTaken() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

// memoryCollector reports how much of the shares is used, and how much memory of its own the
// process has: without the pages of files, which the kernel can reclaim at any time.
type memoryCollector struct {
	shares                           shares
	budget, used, refused, anonymous *prometheus.Desc
}

func newMemoryCollector(s shares) *memoryCollector {
	labels := []string{"share"}
	return &memoryCollector{
		shares: s,
		budget: prometheus.NewDesc("assay_memory_budget_bytes", "Memory budget in bytes, by use.", labels, nil),
		used:   prometheus.NewDesc("assay_memory_used_bytes", "Bytes of the memory budget in use, by use.", labels, nil),
		refused: prometheus.NewDesc("assay_memory_refused_total",
			"Reservations of memory that were refused, or not granted in time. Clients then get 503, or a zip in smaller pieces.", labels, nil),
		anonymous: prometheus.NewDesc("assay_process_anonymous_bytes",
			"Resident memory without pages of files. Linux only.", nil, nil),
	}
}

func (c *memoryCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.budget, c.used, c.refused, c.anonymous} {
		ch <- d
	}
}

func (c *memoryCollector) Collect(ch chan<- prometheus.Metric) {
	for name, b := range c.shares.named() {
		ch <- prometheus.MustNewConstMetric(c.budget, prometheus.GaugeValue, float64(b.Size()), name)
		ch <- prometheus.MustNewConstMetric(c.used, prometheus.GaugeValue, float64(b.Used()), name)
		ch <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(b.Refused()), name)
	}
	if bytes, ok := anonymousMemory(); ok {
		ch <- prometheus.MustNewConstMetric(c.anonymous, prometheus.GaugeValue, float64(bytes))
	}
}
