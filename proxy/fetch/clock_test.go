package fetch_test

import (
	"math"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// skews returns the series of the clock, by upstream.
func skews(t *testing.T, c *fetch.Chain) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "assay_upstream_clock_skew_seconds" {
			for _, m := range f.Metric {
				all[labelOf(m)] = m.Gauge.GetValue()
			}
		}
	}
	return all
}

func labelOf(m *dto.Metric) string { return m.Label[0].GetValue() }

// stated answers with a Date that is so far from now, and with an Age.
func stated(from time.Duration, age string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(from).UTC().Format(http.TimeFormat))
		if age != "" {
			w.Header().Set("Age", age)
		}
		text("good")(w, r)
	}
}

// dated answers with a value in place of the Date, or without one.
func dated(value ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = value
		text("good")(w, r)
	}
}

// The difference between the clocks is what an answer says at least: a slow upstream, a cache that says how old
// its answer is, and the part of the second that Date omits make none.
func TestClockSkew(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   float64 // NaN: none is known
	}{
		"right":          {stated(0, ""), 0},
		"almost":         {stated(900*time.Millisecond, ""), 0},
		"ahead":          {stated(-time.Hour, ""), 3600},
		"behind":         {stated(time.Hour, ""), -3600},
		"cached":         {stated(-time.Hour, "3600"), 0},
		"cached wrong":   {stated(-2*time.Hour, "3600"), 3600},
		"invalid age":    {stated(-time.Hour, "-3600"), math.NaN()},
		"endless age":    {stated(0, "99999999999999999999"), math.NaN()},
		"no date":        {dated(), math.NaN()},
		"invalid date":   {dated("yesterday"), math.NaN()},
		"first second":   {dated("Thu, 01 Jan 1970 00:00:00 GMT"), float64(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix())},
		"not found":      {func(w http.ResponseWriter, _ *http.Request) { stated(-time.Hour, "")(absent{w}, nil) }, 3600},
		"slow":           {slowly(3*time.Second, stated(3*time.Second, "")), 0},
		"slow and wrong": {slowly(3*time.Second, stated(-time.Hour, "")), 3597},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.serve("host", lives(test.answer))
				c := n.list("http://host")
				if got := skews(t, c); len(got) != 0 {
					t.Errorf("before the first answer: %v", got)
				}
				_, _, _ = c.ReadAll(t.Context(), zipPath, 100) // whatever the answer is
				got, known := skews(t, c)["http://host"]
				if known == math.IsNaN(test.want) || known && math.Abs(got-test.want) > 3 {
					t.Errorf("the skew is %v, known: %t; want %v", got, known, test.want)
				}
			})
		})
	}
}

// absent is a response with status 404.
type absent struct{ http.ResponseWriter }

func (w absent) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusNotFound)
	return w.ResponseWriter.Write(p)
}

func slowly(d time.Duration, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(d)
		h(w, r)
	}
}

// A few wrong answers among right ones change nothing, and an answer counts for an hour. A host that an upstream
// redirects to has no say.
func TestClockSkewOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := 0
		n := newNetwork(t)
		n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
			if wrong > 0 {
				wrong--
				stated(-time.Hour, "")(w, r)
				return
			}
			stated(0, "")(w, r)
		}))
		n.serve("other", stated(-time.Hour, ""))
		c := n.list("http://host")
		ask := func(times int) {
			t.Helper()
			for i := range times {
				if _, _, err := c.ReadAll(t.Context(), "example.com/a"+strconv.Itoa(i)+"/@v/list", 100); err != nil {
					t.Fatal(err)
				}
			}
		}
		ask(9)
		wrong = 4
		ask(4)
		if got := skews(t, c)["http://host"]; got != 0 {
			t.Errorf("after 4 wrong answers of 9 the skew is %v", got)
		}
		wrong = 9
		ask(9)
		if got := skews(t, c)["http://host"]; math.Abs(got-3600) > 3 {
			t.Errorf("after 9 wrong answers the skew is %v", got)
		}
		time.Sleep(time.Hour + time.Minute)
		if got := skews(t, c); len(got) != 0 {
			t.Errorf("an hour later the skew is %v", got)
		}

		redirecting := n.chain(fetch.Config{List: "http://moved", RedirectHosts: []string{"other"}})
		n.serve("moved", lives(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://other"+r.URL.Path, http.StatusFound)
		}))
		if _, _, err := redirecting.ReadAll(t.Context(), zipPath, 100); err != nil {
			t.Fatal(err)
		}
		if got := skews(t, redirecting); len(got) != 0 {
			t.Errorf("the skew is that of another host: %v", got)
		}
	})
}
