package main

import (
	"fmt"
	"time"
)

// fills measures the memory of many zip fills at the same time.
type fills struct{ b *bench }

func (f fills) measures() []measure {
	m := func(n int, goal string, most int64) measure {
		return measure{fmt.Sprintf("peak memory, %d zips of 4 MB filled at once", n), "", goal, func() (result, error) { return f.peak(n, most) }}
	}
	return []measure{m(16, "anonymous ≤ 64 MB", 64e6), m(64, "anonymous ≤ 128 MB", 128e6)}
}

// peak returns the largest anonymous memory, which cannot be taken back, and the largest memory in
// which files are mapped, which the kernel takes back when it needs it.
func (f fills) peak(n int, most int64) (result, error) {
	u, err := f.b.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	paths, err := u.addMany(n, 4_000_000)
	if err != nil {
		return result{}, err
	}
	p, err := f.b.filled(false, u)
	if err != nil {
		return result{}, err
	}
	defer p.stop()
	done := make(chan error, 1)
	go func() {
		_, err := f.b.getAll(n, p.url, paths)
		done <- err
	}()
	anonymous, mapped, err := p.watch(done)
	if err != nil {
		return result{}, err
	}
	return result{text: fmt.Sprintf("%d MB anonymous, %d MB mapped", anonymous/1e6, mapped/1e6), met: anonymous <= most}, nil
}

// watch returns the largest values that the process has until done.
func (p *process) watch(done <-chan error) (anonymous, mapped int64, err error) {
	ticks := time.NewTicker(2 * time.Millisecond)
	defer ticks.Stop()
	for {
		a, err := p.memory("RssAnon")
		if err != nil {
			return 0, 0, err
		}
		m, err := p.memory("RssFile")
		if err != nil {
			return 0, 0, err
		}
		anonymous, mapped = max(anonymous, a), max(mapped, m)
		select {
		case err := <-done:
			return anonymous, mapped, err
		case <-ticks.C:
		}
	}
}
