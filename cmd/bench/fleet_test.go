package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestMetricsIn(t *testing.T) {
	text := "# HELP tier_opens_total x\ntier_opens_total{result=\"hit\"} 12\ntier_opens_total{result=\"miss\"} 0\ntier_opens_totally 9\nrunning 3\n"
	got, err := metricsIn(text, "tier_opens_total")
	if err != nil || !reflect.DeepEqual(got, map[string]float64{"hit": 12, "miss": 0}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := metricsIn(text, "running"); err != nil || got[""] != 3 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := metricsIn(text, "tier"); err == nil {
		t.Error("a metric that is not there has values")
	}
}

func TestBenchmarksIn(t *testing.T) {
	all, err := benchmarksIn("goos: linux\nBenchmarkReplicas/callers=4,_all-16  \t 300\t 1500 ns/op\t 66.5 pins/s\t 0.7 put/pin\n--- BENCH: BenchmarkReplicas/x\nPASS\n")
	want := []benchmark{{"callers=4, all", map[string]float64{"ns/op": 1500, "pins/s": 66.5, "put/pin": 0.7}}}
	if err != nil || !reflect.DeepEqual(all, want) {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := benchmarksIn("ok \tpackage\t0.1s\n"); err == nil {
		t.Error("no benchmark is no error")
	}
}

func TestJudgeCounted(t *testing.T) {
	pins := func(rates ...float64) (all []benchmark) {
		for _, r := range rates {
			all = append(all, benchmark{"callers=1", map[string]float64{"pins/s": r}})
		}
		return all
	}
	if !judgePins(pins(50, 300)).met || judgePins(pins(49, 300)).met || judgePins(nil).met {
		t.Error("pins: each number of callers must reach the goal")
	}
	hits := func(objects, bytes float64) []benchmark {
		return []benchmark{{"a", map[string]float64{"objects/best": 1, "bytes/best": 1}}, {"b", map[string]float64{"objects/best": objects, "bytes/best": bytes}}}
	}
	if !judgeHits(hits(0.97, 0.97)).met || judgeHits(hits(0.96, 1)).met || judgeHits(hits(1, 0.96)).met || judgeHits(nil).met {
		t.Error("hits: objects and bytes of each trace must reach the goal")
	}
}

func TestJudgeOnce(t *testing.T) {
	times := func(n int, path string) []visit {
		all := make([]visit, n)
		for i := range all {
			all[i].path = path
		}
		return all
	}
	var hundred []visit
	for _, name := range strings.Split(strings.Repeat("x", 99), "") {
		hundred = append(hundred, visit{path: name + strings.Repeat("y", len(hundred))})
	}
	for _, tt := range []struct {
		more []visit
		met  bool
	}{
		{times(2, "m/@v/v1.0.0.zip"), true},
		{times(3, "m/@v/v1.0.0.zip"), false},
		{append(times(2, "a.zip"), append(times(2, "b.zip"), times(2, "c.zip")...)...), false},
		{times(9, "/sumdb/name/latest"), true},
	} {
		if got := judgeOnce(append(tt.more, hundred...)); got.met != tt.met {
			t.Errorf("%v: %v, want %v", tt.more, got, tt.met)
		}
	}
}

// A bucket that is far away has each request, with its host, later.
func TestDelayed(t *testing.T) {
	var host string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host = r.Host
		_, _ = io.Copy(w, r.Body) // the client looks
	}))
	defer server.Close()
	far, stop, err := bucket{endpoint: server.URL}.delayed(30 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	begin := time.Now()
	resp, err := http.Post(far.endpoint+"/bucket/key", "", strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != "content" || "http://"+host != far.endpoint || time.Since(begin) < 30*time.Millisecond {
		t.Errorf("%q, %v, host %s of %s, after %v", got, err, host, far.endpoint, time.Since(begin))
	}
}
