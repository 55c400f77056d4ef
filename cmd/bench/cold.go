package main

import (
	"fmt"
	"log"
	"os"
	"time"
)

// coldBuilds measures what a CI job without any cache waits for: a go command downloads all modules
// of a program from an upstream that is far away, directly or through an empty proxy.
type coldBuilds struct {
	*recordings
	ways         ways
	small, large program
}

// job is one kind of build.
type job struct {
	program program
	rtt     time.Duration
	sums    bool // with a go.sum
	rounds  int  // at most
}

func (c *coldBuilds) measures() []measure {
	const near, far = 20 * time.Millisecond, 100 * time.Millisecond
	predicting, plain := c.ways.assay(true), c.ways.assay(false)
	m := func(name, against, goal string, j job, ours, theirs way, atMost float64) measure {
		return measure{name, against, goal, func() (result, error) { return c.compare(j, ours, theirs, atMost) }}
	}
	sums := job{c.small, near, true, 5}
	return []measure{
		m("time, cold, go.sum, 20 ms", "direct", "≤ 0.75", sums, predicting, direct, 0.75),
		m("time, cold, go.sum, 20 ms, without prediction", "direct", "–", job{c.small, near, true, 2}, plain, direct, 0),
		m("time, cold, go.sum, 20 ms, 151 modules", "direct", "≤ 0.75", job{c.large, near, true, 2}, predicting, direct, 0.75),
		m("time, cold, go.sum, 100 ms", "direct", "≤ 0.65", job{c.small, far, true, 2}, predicting, direct, 0.65),
		m("time, cold, go.sum, 0 ms, same two cores", "direct", "≤ 1.2", job{c.small, 0, true, 5}, predicting, direct, 1.2),
		m("time, cold, no go.sum, 20 ms", "direct", "≤ 0.5", job{c.small, near, false, 4}, predicting, direct, 0.5),
		m("time, cold, go.sum, 20 ms", "goproxy v0.26.1", "–", job{c.small, near, true, 3}, predicting, c.ways.goproxy(), 0),
		m("time, cold, go.sum, 20 ms", "Athens v0.18.0", "–", job{c.small, near, true, 2}, predicting, c.ways.athens(), 0),
		m("noise: time, cold, go.sum, 20 ms", "the same", "–", job{c.small, near, true, 3}, direct, direct, 0),
	}
}

// compare compares a job by two ways. Without a limit no goal is met or missed.
func (c *coldBuilds) compare(j job, ours, theirs way, atMost float64) (result, error) {
	p, err := c.of(j.program)
	if err != nil {
		return result{}, err
	}
	p.store.rtt.Store(int64(j.rtt))
	var counts [2]int
	side := func(i int, w way) func() (float64, error) {
		return func() (seconds float64, err error) {
			seconds, counts[i], err = c.download(p, j, w)
			return seconds, err
		}
	}
	r, err := pairs(min(j.rounds, c.b.rounds), side(0, ours), side(1, theirs))
	if err != nil {
		return result{}, err
	}
	reached := r.atMost(atMost)
	if atMost == 0 {
		reached = r.noGoal()
	}
	reached.text += fmt.Sprintf("; %d upstream requests instead of %d", counts[0], counts[1])
	return reached, nil
}

// download returns the seconds in which the go command has downloaded everything, and the number of
// requests at the upstream.
func (c *coldBuilds) download(p *recorded, j job, w way) (seconds float64, requests int, err error) {
	sums := ""
	if j.sums {
		sums = p.sums
	}
	project, err := c.b.newProject(p.dir, sums)
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(project)
	goproxy, stop, err := w(p.store)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	p.store.take()
	seconds, err = c.b.goCommand(project, goproxy, p.store.log.Key(), "mod", "download")
	visits := p.store.take()
	log.Printf("%s %.2f s, upstream requests %v", goproxy, seconds, byKind(visits))
	return seconds, len(visits), err
}
