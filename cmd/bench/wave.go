package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"sync"
	"time"
)

// phase is a part of what a go command requests: files of one kind, of which width are requested at
// the same time.
type phase struct {
	paths []string
	width int
}

// phases returns the phases of what one go command requested with a go.sum. It requests go.mod files
// and zips two at a time, as there are two processors, and .info files one after the other.
func phases(visits []visit) (all []phase) {
	last := ""
	for _, v := range visits {
		if k := kind(v.path); k != last {
			width := 2
			if k == ".info" {
				width = 1
			}
			all = append(all, phase{width: width})
			last = k
		}
		current := &all[len(all)-1]
		current.paths = append(current.paths, v.path)
	}
	return all
}

// runWave returns the seconds in which clients have requested what one go command requests, at the
// same time, each with its own connections, from the servers in turn: for each phase those until the
// last client ended it. They do not unpack what they get: on two processors that would take longer than
// everything else.
func runWave(ctx context.Context, urls []string, clients int, script []phase) ([]float64, error) {
	errs, ends := make([]error, clients), make([][]float64, clients)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { ends[i], errs[i] = runScript(ctx, begin, urls[i%len(urls)], script) })
	}
	wg.Wait()
	last := make([]float64, len(script))
	for _, one := range ends {
		for i, end := range one {
			last[i] = max(last[i], end)
		}
	}
	return last, errors.Join(errs...)
}

// runScript is one client of a wave. It returns the seconds until each phase had ended.
func runScript(ctx context.Context, begin time.Time, url string, script []phase) (ends []float64, err error) {
	client := newClient()
	defer client.CloseIdleConnections()
	for _, p := range script {
		if _, err := getAll(ctx, client, p.width, url, p.paths); err != nil {
			return nil, err
		}
		ends = append(ends, time.Since(begin).Seconds())
	}
	return ends, nil
}

// waves measures many cold builds of one program at the same time.
type waves struct {
	*recordings
	ways    ways
	program program
	script  []phase // nil until the first measure
}

func (w *waves) measures() []measure {
	m := func(clients, rounds int, against, goal string, ours, theirs way, atMost float64) measure {
		name := fmt.Sprintf("time, wave of %d × 151 modules, cold, 20 ms", clients)
		if against == "the same" {
			name = "noise: " + name
		}
		return measure{name, against, goal, func() (result, error) { return w.compare(clients, rounds, ours, theirs, atMost) }}
	}
	predicting := w.ways.assay(true)
	return []measure{
		m(20, 2, "direct", "≤ 0.5", predicting, direct, 0.5),
		m(50, 3, "direct", "≤ 0.5", predicting, direct, 0.5),
		m(50, 2, "goproxy v0.26.1", "≤ 0.25", predicting, w.ways.goproxy(), 0.25),
		m(50, 1, "Athens v0.18.0", "≤ 0.17", predicting, w.ways.athens(), 0.17),
		m(50, 2, "the same", "–", direct, direct, 0),
	}
}

// compare compares a wave by two ways. By the first, each object must be requested once.
func (w *waves) compare(clients, rounds int, ours, theirs way, atMost float64) (result, error) {
	p, err := w.of(w.program)
	if err != nil {
		return result{}, err
	}
	if err := w.record(p); err != nil {
		return result{}, err
	}
	p.store.rtt.Store(int64(20 * time.Millisecond))
	var repeated, ignored []string // by the clients of the second way each object is requested many times
	side := func(way way, repeated *[]string) func() (float64, error) {
		return func() (float64, error) {
			ends, visits, err := w.wave(p, way, clients)
			if err != nil {
				return 0, err
			}
			*repeated = append(*repeated, again(visits)...)
			return ends[len(ends)-1], nil
		}
	}
	r, err := pairs(min(rounds, w.b.rounds), side(ours, &repeated), side(theirs, &ignored))
	if err != nil {
		return result{}, err
	}
	if atMost == 0 {
		return r.noGoal(), nil
	}
	reached := r.atMost(atMost)
	if len(repeated) > 0 {
		log.Printf("requested again from upstream: %q", repeated[:min(len(repeated), 10)])
	}
	reached.met = reached.met && len(repeated) == 0
	reached.text += fmt.Sprintf("; %d objects requested again from upstream", len(repeated))
	return reached, nil
}

// wave returns the seconds until each phase of a wave had ended, and the requests at the upstream.
func (w *waves) wave(p *recorded, way way, clients int) ([]float64, []visit, error) {
	goproxy, stop, err := way(p.store)
	if err != nil {
		return nil, nil, err
	}
	p.store.take()
	ends, err := runWave(w.b.ctx, []string{goproxy}, clients, w.script)
	stop()
	visits := p.store.take()
	text := ""
	for i, end := range ends {
		text += fmt.Sprintf(" %s %.2f s,", kind(w.script[i].paths[0]), end)
	}
	log.Printf("%s ended%s upstream requests %v", goproxy, text, byKind(visits))
	return ends, visits, err
}

// record records what a go command requests, and checks that one client of a wave requests the same.
func (w *waves) record(p *recorded) error {
	if w.script != nil {
		return nil
	}
	project, err := w.b.newProject(p.dir, p.sums)
	if err != nil {
		return err
	}
	defer os.RemoveAll(project)
	script, err := recordScript(w.b.machine, project, p.store)
	w.script = script
	return err
}

// recordScript returns what go mod download requests from a store with the go.sum in project. The
// requests of one client of a wave must be the same.
func recordScript(m *machine, project string, store *replay) ([]phase, error) {
	store.rtt.Store(0)
	store.take()
	if _, err := m.goCommand(project, store.url, store.log.Key(), "mod", "download"); err != nil {
		return nil, err
	}
	real := store.take()
	script := phases(real)
	if _, err := runWave(m.ctx, []string{store.url}, 1, script); err != nil {
		return nil, err
	}
	if ours := byKind(store.take()); !maps.Equal(ours, byKind(real)) {
		return nil, fmt.Errorf("the client of a wave requested %v, the go command %v", ours, byKind(real))
	}
	return script, nil
}
