package main

import (
	"fmt"
	"log"
	"time"
)

// fillMillion creates a store with a million objects.
func (b *bench) fillMillion() (dir string, err error) {
	if dir, err = b.newDir(); err != nil {
		return "", err
	}
	begin := time.Now()
	_, err = b.createAll(dir, 1_000_000, func(i int) int { return i })
	log.Printf("a million objects stored in %v", time.Since(begin).Round(time.Second))
	return dir, err
}

// startMillion starts assay on the store of a million objects, which it creates the first time, and
// calls measure.
func (b *bench) startMillion(measure func(p *process, took time.Duration) error) error {
	if b.million == "" {
		dir, err := b.fillMillion()
		if err != nil {
			return err
		}
		b.million = dir
	}
	begin := time.Now()
	p, err := b.start("/readyz", false, nil, b.assay, "serve", "--listen", "ADDRESS", "--data", b.million, "--upstream", "off")
	if err != nil {
		return err
	}
	defer p.stop()
	return measure(p, time.Since(begin))
}

// millionStart measures the time from the start of the process to its readiness, without pages of
// the store in the page cache if they can be dropped.
func (b *bench) millionStart() (result, error) {
	var took []time.Duration
	for _, prepare := range []func() error{func() error { return nil }, dropCaches} {
		if err := b.startMillion(func(*process, time.Duration) error { return nil }); err != nil { // creates the store
			return result{}, err
		}
		if err := prepare(); err != nil {
			return result{}, err
		}
		err := b.startMillion(func(_ *process, t time.Duration) error { took = append(took, t); return nil })
		if err != nil {
			return result{}, err
		}
	}
	text := fmt.Sprintf("%.2f s; %.2f s with the page cache dropped", took[0].Seconds(), took[1].Seconds())
	return result{text: text, met: took[0] < time.Second && took[1] < time.Second}, nil
}

// millionMemory measures the memory of an idle server, half a minute after its start.
func (b *bench) millionMemory() (result, error) {
	var rss int64
	err := b.startMillion(func(p *process, _ time.Duration) (err error) {
		select {
		case <-time.After(30 * time.Second):
		case <-b.ctx.Done():
		}
		rss, err = p.memory("VmRSS")
		return err
	})
	if err != nil {
		return result{}, err
	}
	return result{text: fmt.Sprintf("%d MB", rss/1e6), met: rss < 40e6}, nil
}
