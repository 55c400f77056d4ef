package main

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// comparison compares assay with an earlier one: what must not become slower or larger.
type comparison struct{ now, before *bench }

// newComparison returns a comparison of b with an earlier program, whose files are in a directory of
// their own.
func newComparison(b *bench, program string) comparison {
	before := *b
	before.assay, before.dir = program, filepath.Join(b.dir, "before")
	return comparison{b, &before}
}

func (c comparison) measures() []measure {
	const program = "the program before"
	requests := func(p *process, path string) func() (float64, error) {
		return func() (float64, error) { return c.now.wrk(p.url + path) }
	}
	bytes := func(p *process, path string) func() (float64, error) { return c.now.throughput(p.url + path) }
	return []measure{
		{"requests/s, hot `.mod`, one core", program, "≥ 0.95", func() (result, error) { return c.hot(true, 100_000, ".mod", requests) }},
		{"requests/s, hot `.info`, one core", program, "≥ 0.95", func() (result, error) { return c.hot(true, 100_000, ".info", requests) }},
		{"requests/s, hot zip of 100 kB, one core", program, "≥ 0.95", func() (result, error) { return c.hot(true, 100_000, ".zip", requests) }},
		{"bytes/s, hot 50 MB zip", program, "≥ 0.95", func() (result, error) { return c.hot(false, 50_000_000, ".zip", bytes) }},
		{"time, 300 cold files of 100 modules, 8 clients", program, "≤ 1.05", c.cold},
		{"peak RSS, 300 MB zip filled and served to 4 clients", program, "≤ 1.05", c.memory},
	}
}

// hot compares the rate of one object that both hold. rate returns a side of a pair.
func (c comparison) hot(oneCore bool, size int, suffix string, rate func(p *process, path string) func() (float64, error)) (result, error) {
	u, err := c.now.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	path, err := u.add("bench.example/hot", size)
	if err != nil {
		return result{}, err
	}
	var sides [2]func() (float64, error)
	for i, program := range []*bench{c.now, c.before} {
		p, err := program.filled(oneCore, u, path+suffix)
		if err != nil {
			return result{}, err
		}
		defer p.stop()
		sides[i] = rate(p, path+suffix)
	}
	r, err := pairs(c.now.rounds, sides[0], sides[1])
	if err != nil {
		return result{}, err
	}
	return r.atLeast(0.95), nil
}

// cold compares the time in which empty programs answer for all files of many small modules.
func (c comparison) cold() (result, error) {
	u, err := c.now.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	var paths []string
	for i := range 100 {
		path, err := u.add(fmt.Sprintf("bench.example/cold%d", i), 20_000)
		if err != nil {
			return result{}, err
		}
		paths = append(paths, path+".info", path+".mod", path+".zip")
	}
	return c.ratio(func(program *bench) (float64, error) {
		p, err := program.filled(false, u)
		if err != nil {
			return 0, err
		}
		defer p.stop()
		begin := time.Now()
		const clients = 8
		errs := make([]error, clients)
		var wg sync.WaitGroup
		for n := range clients {
			wg.Go(func() {
				for i := n; i < len(paths) && errs[n] == nil; i += clients {
					_, errs[n] = get(program.ctx, p.url+paths[i])
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return 0, err
			}
		}
		return time.Since(begin).Seconds(), nil
	})
}

// memory compares the memory of fillMemory.
func (c comparison) memory() (result, error) {
	u, err := c.now.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	path, err := u.add("bench.example/large", 300_000_000)
	if err != nil {
		return result{}, err
	}
	return c.ratio(func(program *bench) (float64, error) {
		peak, err := program.peak(u, path)
		return float64(peak), err
	})
}

// ratio compares what both programs need, which must not be more.
func (c comparison) ratio(need func(program *bench) (float64, error)) (result, error) {
	r, err := pairs(c.now.rounds,
		func() (float64, error) { return need(c.now) },
		func() (float64, error) { return need(c.before) })
	if err != nil {
		return result{}, err
	}
	return r.atMost(1.05), nil
}
