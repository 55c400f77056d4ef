package fetch

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// clock is what the latest answers of one upstream say about the difference between our clock and the
// upstream's.
type clock struct {
	mu      sync.Mutex // guards the fields below
	samples [clockSamples]clockSample
	next    int // the oldest one
}

// clockSample is how far our clock was ahead of an upstream's.
type clockSample struct {
	at    time.Time // the zero time: there is none
	ahead time.Duration
}

const (
	clockSamples = 9
	clockFresh   = time.Hour // for which a sample counts
)

// note notes the answer to a request that began at begin.
func (c *clock) note(answer http.Header, begin time.Time) {
	now := time.Now()
	ahead, ok := clockAhead(answer, begin, now)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples[c.next] = clockSample{now, ahead}
	c.next = (c.next + 1) % clockSamples
}

// ahead returns how far our clock is ahead, and whether that is known: the sample in the middle, by distance
// from 0. So a few answers of a cache that does not say how old they are change nothing.
func (c *clock) ahead() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var fresh []time.Duration
	for _, s := range c.samples {
		if !s.at.IsZero() && time.Since(s.at) < clockFresh {
			fresh = append(fresh, s.ahead)
		}
	}
	if len(fresh) == 0 {
		return 0, false
	}
	slices.SortFunc(fresh, func(a, b time.Duration) int { return cmp.Compare(a.Abs(), b.Abs()) })
	return fresh[(len(fresh)-1)/2], true
}

// clockAhead returns by how much our clock is at least ahead of the upstream's; it is negative if ours is
// behind, and 0 if they may be equal: the time of an answer is known to the second, and it was written at some
// moment between begin and end of the request. A cache says with Age how long ago that was. ok is false if the
// answer has no time.
func clockAhead(answer http.Header, begin, end time.Time) (ahead time.Duration, ok bool) {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return 0, false
	}
	inexact := time.Second
	if text := answer.Get("Age"); text != "" {
		age, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return 0, false
		}
		date = date.Add(time.Duration(age) * time.Second)
		inexact += time.Second
	}
	begin, end = begin.Round(0), end.Round(0)
	if ahead = begin.Sub(date.Add(inexact)); ahead > 0 {
		return ahead, true
	}
	if ahead = end.Sub(date); ahead < 0 {
		return ahead, true
	}
	return 0, true
}

// clockCollector reads the clocks of the upstreams when metrics are collected.
type clockCollector struct {
	desc *prometheus.Desc

	mu     sync.Mutex // guards clocks
	clocks map[string]*clock
}

func newClockCollector() *clockCollector {
	return &clockCollector{clocks: map[string]*clock{}, desc: prometheus.NewDesc("assay_upstream_clock_skew_seconds",
		"By how much our clock is at least ahead of the Date of an upstream's answers (behind, if negative). Absent if it has not answered within an hour.",
		[]string{"upstream"}, nil)}
}

// add adds the clock of an upstream.
func (c *clockCollector) add(upstream string, of *clock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clocks[upstream] = of
}

// Describe implements prometheus.Collector.
func (c *clockCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *clockCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for upstream, of := range c.clocks {
		if ahead, ok := of.ahead(); ok {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, ahead.Seconds(), upstream)
		}
	}
}
