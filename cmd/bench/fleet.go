package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// fleets measures several servers that share one bucket.
type fleets struct{ *waves }

const (
	replicas     = 3
	fleetClients = 50 // of each replica, in a wave

	// patience is how long a wave by others may take: then the ratio is at most that of this time.
	patience = 10 * time.Minute
)

func (f *fleets) measures() []measure {
	const wave, cold = "3 replicas × 50 clients, one bucket, cold build of 151 modules", "time, cold `go mod download` of 151 modules, bucket that another replica filled"
	m := func(name, against, goal string, run func() (result, error)) measure {
		return measure{name, against, goal, run}
	}
	return []measure{
		m(cold, "`GOPROXY=file://`", "≤ 1.3", func() (result, error) { return f.cold(0, 1.3) }),
		m(cold+", 20 ms for each of its requests", "`GOPROXY=file://`", "≤ 2.0", func() (result, error) { return f.cold(20*time.Millisecond, 2) }),
		m("requests per CPU second of each of 3 replicas, one bucket, 151 modules", "1 replica", "≥ 0.9", f.perCPU),
		m("upstream GETs, "+wave, "", "each object once, ≤ 2 % twice", f.once),
		m("time, "+wave+", 20 ms", "goproxy v0.26.1 with S3", "≤ 0.5", func() (result, error) { return f.against(bucket.goproxy) }),
		m("time, "+wave+", 20 ms", "Athens v0.18.0 with S3", "≤ 0.5", func() (result, error) { return f.against(bucket.athens) }),
	}
}

// prepared returns the recording of the program with a script of what a go command requests, and an object store.
func (f *fleets) prepared(rtt time.Duration) (p *recorded, store *objectStore, err error) {
	if p, err = f.of(f.program); err != nil {
		return nil, nil, err
	}
	if err := f.record(p); err != nil {
		return nil, nil, err
	}
	p.store.rtt.Store(int64(rtt))
	store, err = startObjectStore(f.b)
	return p, store, err
}

// assay starts one replica on a bucket.
func (bu bucket) assay(store *replay) (*process, error) {
	return bu.replica(false, store.url, store.log.Key())
}

// assayOnOneCore is assay on processor 0: with both, several servers that look for work take them from each other.
func (bu bucket) assayOnOneCore(store *replay) (*process, error) {
	return bu.replica(true, store.url, store.log.Key())
}

// cold compares a replica without copies, of whose bucket each request takes so long in addition, with the
// files of the recording.
func (f *fleets) cold(wait time.Duration, goal float64) (result, error) {
	p, store, err := f.prepared(0)
	if err != nil {
		return result{}, err
	}
	defer store.end()
	bucket, err := store.newBucket()
	if err != nil {
		return result{}, err
	}
	if err := f.fill(p, bucket); err != nil {
		return result{}, err
	}
	far, stop, err := bucket.delayed(wait)
	if err != nil {
		return result{}, err
	}
	defer stop()
	if wait == 0 {
		far = bucket
	}
	requests := 0
	ours := func() (float64, error) {
		replica, err := far.assay(p.store)
		if err != nil {
			return 0, err
		}
		defer replica.stop()
		p.store.take()
		seconds, err := f.downloadFrom(p, replica.url)
		visits := p.store.take()
		requests += len(visits)
		opens, err2 := replica.opens(f.b.ctx)
		log.Printf("replica %.2f s, objects %v, upstream requests %v", seconds, opens, byKind(visits))
		return seconds, errors.Join(err, err2)
	}
	theirs := func() (float64, error) {
		seconds, err := f.downloadFrom(p, "file://"+p.store.files)
		log.Printf("files %.2f s", seconds)
		return seconds, err
	}
	rounds := min(5, f.b.rounds)
	r, err := pairs(rounds, ours, theirs)
	if err != nil {
		return result{}, err
	}
	reached := r.atMost(goal)
	reached.text += fmt.Sprintf("; %d upstream requests", requests/rounds)
	return reached, nil
}

// fill makes another replica fetch everything that the go command requests.
func (f *fleets) fill(p *recorded, bucket bucket) error {
	filler, err := bucket.assay(p.store)
	if err != nil {
		return err
	}
	defer filler.stop()
	_, err = runWave(f.b.ctx, []string{filler.url}, 1, f.script)
	return err
}

// downloadFrom returns the seconds in which the go command, with a go.sum, has downloaded everything.
func (f *fleets) downloadFrom(p *recorded, goproxy string) (float64, error) {
	project, err := f.b.newProject(p.dir, p.sums)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(project)
	return f.b.goCommand(project, goproxy, p.store.log.Key(), "mod", "download")
}

// perCPU compares the requests that replicas which serve clients at the same time answer for each second of
// processor time, with those of a replica that is alone. All have local copies, and as many clients each.
func (f *fleets) perCPU() (result, error) {
	const clients = 8
	p, store, err := f.prepared(0)
	if err != nil {
		return result{}, err
	}
	defer store.end()
	var sides [2]func() (float64, error)
	for i, n := range []int{replicas, 1} {
		servers, stop, err := f.start(p, store, n, bucket.assayOnOneCore)
		if err != nil {
			return result{}, err
		}
		defer stop()
		for range 2 { // the second time finds what the first one has stored
			if err := f.warm(servers); err != nil {
				return result{}, err
			}
		}
		sides[i] = func() (float64, error) { return f.leastPerCPU(servers, clients) }
	}
	r, err := pairs(f.b.rounds, sides[0], sides[1])
	if err != nil {
		return result{}, err
	}
	return r.atLeast(0.9), nil
}

// start starts servers on a new bucket.
func (f *fleets) start(p *recorded, store *objectStore, n int, one func(bucket, *replay) (*process, error)) ([]*process, func(), error) {
	bucket, err := store.newBucket()
	if err != nil {
		return nil, nil, err
	}
	return severally(n, func() (*process, error) { return one(bucket, p.store) })
}

// warm requests everything once from each replica.
func (f *fleets) warm(servers []*process) error {
	if _, err := runWave(f.b.ctx, urls(servers), len(servers), f.script); err != nil {
		return err
	}
	for _, s := range servers {
		if err := s.settle(f.b.ctx); err != nil {
			return err
		}
	}
	return nil
}

func urls(servers []*process) (all []string) {
	for _, s := range servers {
		all = append(all, s.url)
	}
	return all
}

// leastPerCPU returns the requests per second of processor time of the server that answers the fewest.
func (f *fleets) leastPerCPU(servers []*process, clients int) (float64, error) {
	before, err := cpuOf(servers)
	if err != nil {
		return 0, err
	}
	if _, err := runWave(f.b.ctx, urls(servers), clients*len(servers), f.script); err != nil {
		return 0, err
	}
	after, err := cpuOf(servers)
	if err != nil {
		return 0, err
	}
	opens, err := servers[0].opens(f.b.ctx)
	if err != nil {
		return 0, err
	}
	requests := 0
	for _, p := range f.script {
		requests += clients * len(p.paths)
	}
	least := math.Inf(1)
	for i := range servers {
		least = min(least, float64(requests)/(after[i]-before[i]))
	}
	log.Printf("%d servers: %.0f requests per CPU second; objects opened by the first one until now: %v", len(servers), least, opens)
	return least, nil
}

// cpuOf returns the processor time of each server.
func cpuOf(servers []*process) (seconds []float64, err error) {
	for _, s := range servers {
		one, err := s.cpu()
		if err != nil {
			return nil, err
		}
		seconds = append(seconds, one)
	}
	return seconds, nil
}

// waveOf returns the seconds in which the clients of servers with a new bucket have what a go command requests,
// and the requests at the upstream.
func (f *fleets) waveOf(p *recorded, store *objectStore, one func(bucket, *replay) (*process, error)) (float64, []visit, error) {
	servers, stop, err := f.start(p, store, replicas, one)
	if err != nil {
		return 0, nil, err
	}
	p.store.take()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(f.b.ctx, patience)
	defer cancel()
	_, err = runWave(ctx, urls(servers), replicas*fleetClients, f.script)
	seconds := time.Since(begin).Seconds()
	stop()
	visits := p.store.take()
	log.Printf("%s and others %.2f s, upstream requests %v", servers[0].url, seconds, byKind(visits))
	return seconds, visits, err
}

// once counts what is requested more than once from the upstream.
func (f *fleets) once() (result, error) {
	p, store, err := f.prepared(20 * time.Millisecond)
	if err != nil {
		return result{}, err
	}
	defer store.end()
	_, visits, err := f.waveOf(p, store, bucket.assay)
	if err != nil {
		return result{}, err
	}
	return judgeOnce(visits), nil
}

// judgeOnce judges the requests at an upstream. The head of a database is no object: it is asked for again
// because it may have changed.
func judgeOnce(visits []visit) result {
	counts := map[string]int{}
	for _, v := range visits {
		if k := kind(v.path); k != "latest" && k != "supported" {
			counts[v.path]++
		}
	}
	twice, more := 0, 0
	var repeated []string
	for path, n := range counts {
		switch {
		case n == 2:
			twice++
		case n > 2:
			more++
		}
		if n > 1 {
			repeated = append(repeated, fmt.Sprintf("%s %d", path, n))
		}
	}
	slices.Sort(repeated)
	log.Printf("requested again from upstream: %q", repeated[:min(len(repeated), 20)])
	text := fmt.Sprintf("%d objects: %d twice, %d more often", len(counts), twice, more)
	return result{text: text, met: more == 0 && float64(twice) <= 0.02*float64(len(counts))}
}

// against compares a wave with that of other servers.
func (f *fleets) against(one func(bucket, *replay) (*process, error)) (result, error) {
	p, store, err := f.prepared(20 * time.Millisecond)
	if err != nil {
		return result{}, err
	}
	defer store.end()
	var notes []string
	side := func(one func(bucket, *replay) (*process, error), bounded bool) func() (float64, error) {
		return func() (float64, error) {
			seconds, visits, err := f.waveOf(p, store, one)
			if bounded && errors.Is(err, context.DeadlineExceeded) && f.b.ctx.Err() == nil {
				notes, err = append(notes, fmt.Sprintf("; they were stopped after %.0f s", seconds)), nil
			}
			if !bounded {
				notes = append(notes, fmt.Sprintf("; %d upstream requests", len(visits)))
			} else {
				notes = append(notes, fmt.Sprintf(" instead of %d", len(visits)))
			}
			return seconds, err
		}
	}
	r, err := pairs(1, side(bucket.assay, false), side(one, true))
	if err != nil {
		return result{}, err
	}
	reached := r.atMost(0.5)
	reached.text += strings.Join(notes, "")
	return reached, nil
}
