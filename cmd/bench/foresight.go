package main

import (
	"fmt"
	"log"
	"os"
	"strings"
	"time"
)

// foresight compares the requests of clients with those at the upstream.
type foresight struct {
	requests int // of clients, for files of modules
	begun    int // of these, whose file had been requested from the upstream before the client's request

	fetched, unused           int // requests for files of modules and records at the upstream; of these, for what no client requested
	fetchedBytes, unusedBytes int64
	unusedZips                int
}

// see compares requests. The times of both are from one clock.
func see(clients, upstream []visit) (f foresight) {
	first := map[string]time.Time{}
	for _, v := range upstream {
		if _, ok := first[v.path]; !ok {
			first[v.path] = v.begin
		}
	}
	requested := map[string]bool{}
	for _, v := range clients {
		requested[v.path] = true
		if strings.HasPrefix(v.path, "/sumdb/") {
			continue
		}
		f.requests++
		if at, ok := first[v.path]; ok && at.Before(v.begin) {
			f.begun++
		}
	}
	for _, v := range upstream {
		f.add(v, requested)
	}
	return f
}

// add counts a request at the upstream. Tiles are not counted: they prove many records.
func (f *foresight) add(v visit, requested map[string]bool) {
	k := kind(v.path)
	if k == "tile" || k == "latest" || k == "supported" {
		return
	}
	f.fetched++
	f.fetchedBytes += v.bytes
	if used(v.path, requested) {
		return
	}
	f.unused++
	f.unusedBytes += v.bytes
	if k == ".zip" {
		f.unusedZips++
	}
}

// used reports whether clients requested a file, or a file that this record proves.
func used(path string, requested map[string]bool) bool {
	_, record, ok := strings.Cut(path, "/lookup/")
	if !ok {
		return requested[path]
	}
	module, version, _ := strings.Cut(record, "@")
	files := "/" + module + "/@v/" + version
	return requested[path] || requested[files+".mod"] || requested[files+".zip"] || requested[files+".info"]
}

// predictions measures which predictions are used, by the requests alone.
type predictions struct {
	*recordings
	ways    ways
	program program
}

// upgraded is the module that go get upgrades.
const upgraded = "github.com/spf13/cobra"

func (c *predictions) measures() []measure {
	const all, fetched = "all requests", "upstream requests"
	m := func(name, against, goal string, sums bool, judge func(f foresight) result, command ...string) measure {
		return measure{name, against, goal, func() (result, error) { return c.measure(sums, judge, command) }}
	}
	return []measure{
		m("requests that were predicted, `go mod download`", all, "≥ 0.8; unused bytes ≤ 5 %", true, foresight.early, "mod", "download"),
		m("requests that were predicted, `go mod download`, no go.sum", all, "≥ 0.8; unused bytes ≤ 5 %", false, foresight.early, "mod", "download"),
		m("requests that were predicted, `go build`", all, "≥ 0.8; unused bytes ≤ 5 %", true, foresight.early, "build", "-o", os.DevNull, "./cmd/nfpm"),
		m("requests that were not used, `go list -m -u all`", fetched, "≤ 0.1; 0 zips", true, foresight.waste, "list", "-m", "-u", "all"),
		m("requests that were not used, `go get` of one module", fetched, "≤ 0.1; 0 zips", true, foresight.waste, "get", upgraded+"@latest"),
	}
}

// early judges a command that needs nearly all that it requests early.
func (f foresight) early() result {
	share, unused := float64(f.begun)/float64(f.requests), float64(f.unusedBytes)/float64(f.fetchedBytes)
	text := fmt.Sprintf("%.2f of %d; unused: %d of %d upstream requests, %.1f %% of the bytes", share, f.requests, f.unused, f.fetched, 100*unused)
	return result{text: text, met: share >= 0.8 && unused <= 0.05}
}

// waste judges a command of which little can be predicted.
func (f foresight) waste() result {
	share := float64(f.unused) / float64(f.fetched)
	return result{text: fmt.Sprintf("%.2f of %d; %d zips", share, f.fetched, f.unusedZips), met: share <= 0.1 && f.unusedZips == 0}
}

// measure runs a command once through an empty assay that predicts.
func (c *predictions) measure(sums bool, judge func(f foresight) result, command []string) (result, error) {
	p, err := c.of(c.program)
	if err != nil {
		return result{}, err
	}
	p.store.rtt.Store(int64(20 * time.Millisecond))
	goSum := ""
	if sums {
		goSum = p.sums
	}
	clients, upstream, err := c.observe(p, goSum, command)
	if err != nil {
		return result{}, err
	}
	f := see(clients, upstream)
	log.Printf("%+v; clients %v, upstream %v", f, byKind(clients), byKind(upstream))
	if f.requests == 0 || f.fetched == 0 {
		return result{}, fmt.Errorf("go %s requested nothing", strings.Join(command, " "))
	}
	return judge(f), nil
}

// observe returns the requests of a command, and those at the upstream.
func (c *predictions) observe(p *recorded, goSum string, command []string) (clients, upstream []visit, err error) {
	project, err := c.b.newProject(p.dir, goSum)
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(project)
	goproxy, stop, err := c.ways.assay(true)(p.store)
	if err != nil {
		return nil, nil, err
	}
	rec, front, err := observed(goproxy)
	if err != nil {
		stop()
		return nil, nil, err
	}
	p.store.take()
	_, err = c.b.goCommand(project, front.URL, p.store.log.Key(), command...)
	front.Close()
	stop() // what was begun has ended
	return rec.take(), p.store.take(), err
}
