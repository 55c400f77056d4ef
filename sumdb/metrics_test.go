package sumdb_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// counter returns the value of the metric name with the given result, or of the only metric of that
// name.
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

// The metrics of two databases fit into one registry. Their only labels are the name of the
// database and labels with a fixed set of values.
func TestMetrics(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	other := sumdbtest.NewLog(t, "sum.other.example")
	registry := prometheus.NewPedanticRegistry()
	for _, l := range []*sumdbtest.Log{log, other} {
		l.Fill(300)
		m := open(t, l, newStore(t), "", l.Fetch)
		registry.MustRegister(m.Metrics()...)
		lookup(t, m, sumdbtest.Filler(3))
		lookup(t, m, sumdbtest.Filler(3))
		refresh(t, m)
		for name, want := range map[string]float64{"hit": 1, "miss": 1, "error": 0} {
			if got := counter(t, m, "assay_sumdb_lookups_total", name); got != want {
				t.Errorf("%v lookups with result %s, want %v", got, name, want)
			}
		}
		if got := counter(t, m, "assay_sumdb_tree_size", ""); got != 300 {
			t.Errorf("tree size %v", got)
		}
		now := float64(time.Now().Unix())
		for _, name := range []string{"assay_sumdb_head_timestamp_seconds", "assay_sumdb_refresh_timestamp_seconds"} {
			if got := counter(t, m, name, ""); got < now-60 || got > now {
				t.Errorf("%s = %v, want about %v", name, got, now)
			}
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "assay_sumdb_") || family.GetHelp() == "" {
			t.Errorf("metric %s: %q", family.GetName(), family.GetHelp())
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() != "database" && label.GetName() != "result" {
					t.Errorf("metric %s has the label %s", family.GetName(), label.GetName())
				}
			}
		}
	}
}

// A tile that is answered again from memory is a hit; one beyond the head must be asked for.
func TestAgain(t *testing.T) {
	t.Parallel()
	_, _, m := mirrored(t, 300)
	under, beyond := tlog.Tile{H: 8, L: 0, N: 1, W: 44}, tlog.Tile{H: 8, L: 0, N: 1, W: 45}
	if m.Again(under) {
		t.Error("a mirror without a head has proved a tile")
	}
	refresh(t, m)
	hits := counter(t, m, "assay_sumdb_tiles_total", "hit")
	if !m.Again(under) || m.Again(beyond) {
		t.Errorf("at size 300: %v, %v", m.Again(under), m.Again(beyond))
	}
	if got := counter(t, m, "assay_sumdb_tiles_total", "hit"); got != hits+1 {
		t.Errorf("%v hits, want %v", got, hits+1)
	}
}
