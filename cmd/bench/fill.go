package main

import (
	"fmt"
	"path/filepath"
	"time"
)

// coldZips compares reading zips that are not in the page cache.
func (b *bench) coldZips() (result, error) {
	u, err := b.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	var paths []string
	var specs []spec
	for i := range 10 {
		path, err := u.add(fmt.Sprintf("bench.example/cold%d", i), 40_000_000+i)
		if err != nil {
			return result{}, err
		}
		paths = append(paths, path+".zip")
		specs = append(specs, spec{Path: path + ".zip", File: filepath.Join(u.dir, path+".zip")})
	}
	ours, err := b.filled(false, u, paths...)
	if err != nil {
		return result{}, err
	}
	defer ours.stop()
	theirs, err := b.startBase(false, specs...)
	if err != nil {
		return result{}, err
	}
	defer theirs.stop()
	side := func(url string) func() (float64, error) {
		return func() (float64, error) {
			if err := dropCaches(); err != nil {
				return 0, err
			}
			begin := time.Now()
			total, err := b.getAll(1, url, paths)
			return float64(total) / time.Since(begin).Seconds(), err
		}
	}
	r, err := pairs(b.rounds, side(ours.url), side(theirs.url))
	if err != nil {
		return result{}, err
	}
	return r.atLeast(0.8), nil
}

// fillMemory measures the memory for a zip that is fetched, proved, stored and streamed to four
// clients, and then served to them again.
func (b *bench) fillMemory() (result, error) {
	return b.withModule("large", 300_000_000, func(u *upstream, path string) (result, error) {
		peak, err := b.peak(u, path)
		return result{text: fmt.Sprintf("%d MB", peak/1e6), met: peak < 128e6}, err
	})
}

// peak returns the largest memory of an empty assay that fetches a zip for four clients and then
// serves it to them again.
func (b *bench) peak(u *upstream, path string) (int64, error) {
	p, err := b.filled(false, u)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	for range 2 {
		if err := b.together(4, p.url+path+".zip"); err != nil {
			return 0, err
		}
	}
	return p.memory("VmHWM")
}

// together runs n clients that request a URL at the same time.
func (m *machine) together(n int, url string) error {
	_, err := m.getAll(n, url, make([]string, n))
	return err
}

// coalesced counts the requests to an upstream when many clients request the same object.
func (b *bench) coalesced() (result, error) {
	return b.withModule("wanted", 5_000_000, func(u *upstream, path string) (result, error) {
		ours, err := b.filled(false, u)
		if err != nil {
			return result{}, err
		}
		defer ours.stop()
		err = b.together(200, ours.url+path+".zip")
		n := u.asked(path + ".zip")
		return result{text: fmt.Sprint(n), met: n == 1}, err
	})
}
