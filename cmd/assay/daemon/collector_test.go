package daemon

import (
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// processor returns how many seconds of processor time the program and its garbage collector have
// used since the start. Work of the collector on an idle processor does not count: it takes nothing
// from the program.
func processor() (used, collector float64) {
	names := []string{"/cpu/classes/gc/total:cpu-seconds", "/cpu/classes/gc/mark/idle:cpu-seconds", "/cpu/classes/user:cpu-seconds", "/cpu/classes/scavenge/total:cpu-seconds"}
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	collector = samples[0].Value.Float64() - samples[1].Value.Float64() + samples[3].Value.Float64()
	return samples[2].Value.Float64() + collector, collector
}

// useUp takes the memory of all shares, and returns what then occupies it: large and small pieces,
// and the index of the small ones.
func useUp(s shares) (large [][]byte, small map[int]*[1 << 10]byte) {
	const piece = 128 << 10
	for _, b := range s.named() {
		for b.Try(piece) {
			large = append(large, make([]byte, piece))
		}
	}
	small = map[int]*[1 << 10]byte{}
	for i := range (s.hot + s.indexes) >> 10 {
		small[int(i)] = new([1 << 10]byte)
	}
	return large, small
}

// When the whole budget is used up, hits go on, and the garbage collector takes less than a fifth
// of the processor time that they need: Go's memory limit leaves it room.
func TestCollector(t *testing.T) {
	if os.Getenv("GOMEMLIMIT") != "" {
		t.Skip("GOMEMLIMIT is set")
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	world := proxytest.New(t)
	world.Add("-- example.com/hello@v1.0.0/go.mod --\nmodule example.com/hello\n")
	c, _, err := config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	c.Listen, c.Data, c.Upstream, c.SumDB, c.AccessLog, c.MemoryBudget = "127.0.0.1:0", t.TempDir(), world.URL("ok"), world.GOSUMDB(), false, config.LeastMemory
	d := newDaemon(c, os.Stderr)
	defer d.log.Close()
	if err := d.listen(1000, nil); err != nil {
		t.Fatal(err)
	}
	defer d.listener.Close()
	if err := d.open(t.Context(), Options{}, config.Sources{}); err != nil {
		t.Fatal(err)
	}
	defer d.close()
	limitMemory(c.MemoryBudget, 0, d.log.Logger)
	if limit := debug.SetMemoryLimit(-1); limit == math.MaxInt64 || limit < config.LeastMemory<<20*5/4 {
		t.Fatalf("the memory limit is %d", limit)
	}
	handler := d.front.routes()
	hit := func() {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/example.com/hello/@v/v1.0.0.mod", nil))
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
	}
	hit()
	large, small := useUp(d.memory)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	used, collector := processor()
	for begin, cycles := m.NumGC, uint32(0); cycles < 10; cycles = m.NumGC - begin {
		for range 2000 {
			hit()
		}
		runtime.ReadMemStats(&m)
	}
	usedNow, collectorNow := processor()
	if part := (collectorNow - collector) / (usedNow - used); part >= .2 {
		t.Errorf("the collector takes %.0f %% of the processor time", 100*part)
	}
	runtime.KeepAlive(large)
	runtime.KeepAlive(small)
}
