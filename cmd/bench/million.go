package main

import (
	"errors"
	"fmt"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// fillMillion creates a store with a million objects like those of a server: infos, go.mod files,
// lookups.
func (b *bench) fillMillion() (dir string, err error) {
	if dir, err = b.newDir(); err != nil {
		return "", err
	}
	db, err := bolt.Open(dir, nil)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	voucher := storage.ProvedBy("sum.golang.org")
	const creators, each = 50, 20_000
	errs := make(chan error, creators)
	var wg sync.WaitGroup
	for c := range creators {
		wg.Go(func() {
			for i := range each {
				module := fmt.Sprintf("github.com/organisation-%d/module-%d", c, i/60)
				key := voucher.Key(fmt.Sprintf("%s/@v/v1.%d.0.%s", module, i/3%20, []string{"info", "mod", "zip.small"}[i%3]))
				content := strings.Repeat(key+"\n", 4)
				if err := db.Create(b.ctx, storage.Info{Key: key, Size: int64(len(content)), Hash: "h1:" + content[:40], Proof: "sum.golang.org"}, strings.NewReader(content)); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		})
	}
	wg.Wait()
	for range creators {
		err = errors.Join(err, <-errs)
	}
	log.Printf("a million objects stored in %v", time.Since(begin).Round(time.Second))
	return dir, errors.Join(err, db.Close())
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
	return result{text, took[0] < time.Second && took[1] < time.Second}, nil
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
	return result{fmt.Sprintf("%d MB", rss/1e6), rss < 40e6}, nil
}
