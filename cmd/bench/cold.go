package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// coldBuilds measures what a CI job without any cache waits for: the go command downloads all
// modules of a go.mod from an upstream that is far away, directly or through an empty assay.
type coldBuilds struct {
	b     *bench
	host  *host
	store *replay // nil until the first measure
}

func (c *coldBuilds) measures() []measure {
	const direct = "direct"
	m := func(name, goal string, j job, atMost float64) measure {
		return measure{name, direct, goal, func() (result, error) { return c.compare(j, atMost) }}
	}
	return []measure{
		m("cold, go.sum, 20 ms, no prediction", "≤ 0.75", job{rtt: 20 * time.Millisecond, sums: true, clients: 1}, 0.75),
		m("cold, go.sum, 20 ms", "≤ 0.75", job{rtt: 20 * time.Millisecond, sums: true, clients: 1, predict: true}, 0.75),
		m("cold, go.sum, 100 ms", "≤ 0.65", job{rtt: 100 * time.Millisecond, sums: true, clients: 1, predict: true}, 0.65),
		m("cold, go.sum, 0 ms, same two cores", "≤ 1.2", job{sums: true, clients: 1, predict: true}, 1.2),
		m("cold, no go.sum, 20 ms", "≤ 0.5", job{rtt: 20 * time.Millisecond, clients: 1, predict: true}, 0.5),
		m("20 clients at once, cold, go.sum, 20 ms", "≤ 0.5", job{rtt: 20 * time.Millisecond, sums: true, clients: 20, predict: true}, 0.5),
	}
}

// job is one kind of build.
type job struct {
	rtt     time.Duration
	sums    bool // with a go.sum
	clients int  // that build at the same time
	predict bool // assay predicts
}

// compare compares a job through assay with the same job without it.
func (c *coldBuilds) compare(j job, atMost float64) (result, error) {
	if err := c.record(); err != nil {
		return result{}, err
	}
	c.store.rtt.Store(int64(j.rtt))
	var ours, theirs int
	r, err := pairs(c.b.rounds,
		func() (float64, error) { return c.through(j, &ours) },
		func() (float64, error) { return c.download(j, c.store.url, &theirs) })
	if err != nil {
		return result{}, err
	}
	with := r.atMost(atMost)
	with.text += fmt.Sprintf("; %d upstream requests instead of %d", ours, theirs)
	return with, nil
}

// record downloads the modules once, from the public mirror.
func (c *coldBuilds) record() error {
	if c.store != nil {
		return nil
	}
	_, cache, err := c.b.goModDownload("")
	if err != nil {
		return err
	}
	c.store, err = newReplay(c.host, filepath.Join(cache, "cache", "download"))
	return err
}

// through is download through an empty assay.
func (c *coldBuilds) through(j job, requests *int) (float64, error) {
	data, err := c.b.newDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(data)
	p, err := c.b.start("/readyz", false, nil, c.b.assay, "serve", "--listen", "ADDRESS", "--data", data, "--upstream", c.store.url, "--sumdb", c.store.log.Key(), fmt.Sprint("--predict=", j.predict))
	if err != nil {
		return 0, err
	}
	defer p.stop()
	return c.download(j, p.url, requests)
}

// download returns the seconds in which all clients have downloaded everything, and sets requests to
// the number of requests at the upstream.
func (c *coldBuilds) download(j job, goproxy string, requests *int) (float64, error) {
	c.store.requests()
	begin := time.Now()
	errs := make([]error, j.clients)
	var wg sync.WaitGroup
	for i := range j.clients {
		wg.Go(func() { errs[i] = c.build(j, goproxy) })
	}
	wg.Wait()
	seconds := time.Since(begin).Seconds()
	var kinds map[string]int
	kinds, *requests = c.store.requests()
	log.Printf("%s %.2f s, requests %v", goproxy, seconds, kinds)
	return seconds, errors.Join(errs...)
}

// build is one client.
func (c *coldBuilds) build(j job, goproxy string) error {
	dir, err := os.MkdirTemp(c.b.dir, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mod, err := os.ReadFile(c.b.gomod)
	if err != nil {
		return err
	}
	files := map[string]string{"go.mod": string(mod)}
	if j.sums {
		files["go.sum"] = c.store.sums
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(c.b.ctx, "go", "mod", "download")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOENV=off", "GOFLAGS=-modcacherw", "GOPROXY="+goproxy, "GOSUMDB="+c.store.log.Key(), "GOPRIVATE=", "GONOPROXY=", "GONOSUMDB=",
		"GOTOOLCHAIN=local", "GOWORK=off", "GOPATH="+filepath.Join(dir, "path"), "GOMODCACHE="+filepath.Join(dir, "mod"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go mod download: %w\n%.2000s", err, out)
	}
	return nil
}
