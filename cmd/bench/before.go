package main

import (
	"fmt"
	"time"
)

// comparison compares assay with an earlier one: what must not become slower or larger.
type comparison struct{ now, before *bench }

// newComparison returns a comparison of b with an earlier program.
func newComparison(b *bench, program string) comparison {
	before := *b
	before.assay = program
	return comparison{b, &before}
}

func (c comparison) measures() []measure {
	const program = "the program before"
	now := hot{c.now}
	return []measure{
		{"requests/s, hot `.mod`, one core", program, "≥ 0.95", func() (result, error) { return c.hot(true, 100_000, ".mod", now.alone) }},
		{"requests/s, hot `.info`, one core", program, "≥ 0.95", func() (result, error) { return c.hot(true, 100_000, ".info", now.alone) }},
		{"requests/s, hot zip of 100 kB, one core", program, "≥ 0.95", func() (result, error) { return c.hot(true, 100_000, ".zip", now.alone) }},
		{"bytes/s, hot 50 MB zip", program, "≥ 0.95", func() (result, error) { return c.hot(false, 50_000_000, ".zip", now.throughput) }},
		{"time, 300 cold files of 100 modules, 8 clients", program, "≤ 1.05", c.cold},
		{"peak RSS, 300 MB zip filled and served to 4 clients", program, "≤ 1.05", c.memory},
	}
}

// hot compares the rate of one object that both hold.
func (c comparison) hot(oneCore bool, size int, suffix string, rate rate) (result, error) {
	return c.now.withModule("hot", size, func(u *upstream, path string) (result, error) {
		var both [2]*process
		for i, program := range []*bench{c.now, c.before} {
			p, err := program.filled(oneCore, u, path+suffix)
			if err != nil {
				return result{}, err
			}
			defer p.stop()
			both[i] = p
		}
		return hot{c.now}.compare(both[0], both[1], path+suffix, 0.95, rate)
	})
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
		if _, err := program.getAll(8, p.url, paths); err != nil {
			return 0, err
		}
		return time.Since(begin).Seconds(), nil
	})
}

// memory compares the memory of fillMemory.
func (c comparison) memory() (result, error) {
	return c.now.withModule("large", 300_000_000, func(u *upstream, path string) (result, error) {
		return c.ratio(func(program *bench) (float64, error) {
			peak, err := program.peak(u, path)
			return float64(peak), err
		})
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
