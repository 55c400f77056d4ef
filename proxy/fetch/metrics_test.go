package fetch_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/proxy/fetch"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("localhost", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/":
			case "/ok":
				time.Sleep(time.Second)
				text("good")(w, r)
			case "/not_found":
				w.WriteHeader(404)
			case "/limited":
				w.Header().Set("Retry-After", "1000")
				w.WriteHeader(429)
			case "/refused":
				w.WriteHeader(401)
			case "/unavailable":
				w.WriteHeader(501)
			case "/too_large":
				text(strings.Repeat("x", 101))(w, r)
			default:
				hang(w, r)
			}
		})
		c := n.list("http://me:topsecret@localhost/?t=topsecret|http://other@localhost|off")
		for _, path := range []string{"ok", "not_found", "limited", "refused", "unavailable", "too_large", "timeout"} {
			_, _, _ = c.ReadAll(t.Context(), path, 100)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, _ = c.Fetch(ctx, "canceled", 100)

		for outcome, want := range map[string]float64{
			"ok": 1, "too_large": 1, "not_found": 1, "limited": 1, "refused": 1, "unavailable": 1, "timeout": 3, "canceled": 1,
		} {
			if got := metric(t, c, "assay_upstream_requests_total", "upstream=http://localhost/", "outcome="+outcome); got != want {
				t.Errorf("outcome %s counted %v times, want %v", outcome, got, want)
			}
		}
		for name, want := range map[string]float64{
			"assay_upstream_retries_total":        2,
			"assay_upstream_received_bytes_total": 4,
			"assay_upstream_answer_seconds":       5, // ok, too_large, not_found, limited, refused
		} {
			if got := metric(t, c, name, "upstream=http://localhost/"); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		wantClosedLabels(t, c)
	})
}

// wantClosedLabels checks that all labels come from the list.
func wantClosedLabels(t *testing.T, c *fetch.Chain) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "assay_upstream_") || f.GetHelp() == "" {
			t.Errorf("metric %s, %q", f.GetName(), f.GetHelp())
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "upstream" && l.GetValue() != "http://localhost/" && l.GetValue() != "http://localhost" {
					t.Errorf("%s has %s=%s", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
}

// The same URL with other credentials is another upstream, with a number.
func TestMetricsOfTwins(t *testing.T) {
	c := newChain(t, fetch.Config{List: "https://a:x@h.example|https://b:x@h.example|https://b:x@h.example"})
	c.SumDB("sum.example", "", true)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, f := range families {
		for _, m := range f.Metric {
			labels = append(labels, m.Label[0].GetValue())
		}
	}
	if got := strings.Join(labels, " "); got != "https://h.example https://h.example#2 https://sum.example" {
		t.Errorf("labels are %s", got)
	}
}
