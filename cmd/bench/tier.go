package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"strings"
	"time"
)

// tier compares a replica, whose local tier has copies of what is in the bucket, with a server that has the
// embedded store.
type tier struct{ b *bench }

func (t tier) measures() (all []measure) {
	alone, four := hot{t.b}.alone, hot{t.b}.four
	for _, o := range []struct {
		name, suffix string
		size         int
		oneCore      bool
		rate         rate
	}{
		{"requests/s, hot `.mod`, local tier of a bucket, one core", ".mod", 27_000, true, alone},
		{"requests/s, hot 27 KB zip, local tier of a bucket, one core", ".zip", 27_000, true, alone},
		{"requests/s, hot 200 KB zip, local tier of a bucket, one core", ".zip", 200_000, true, alone},
		{"bytes/s, hot 60 MB zip, local tier of a bucket, four clients", ".zip", 60_000_000, false, four},
	} {
		all = append(all, measure{o.name, "the embedded store", "≥ 0.95", func() (result, error) { return t.compare(o.size, o.suffix, o.oneCore, o.rate) }})
	}
	return all
}

// compare compares the rates of one object that both have on the local disk.
func (t tier) compare(size int, suffix string, oneCore bool, rate rate) (result, error) {
	return t.b.withModule("hot", size, func(u *upstream, files string) (result, error) {
		path := files + suffix
		ours, end, err := t.filled(oneCore, u, path)
		if err != nil {
			return result{}, err
		}
		defer end()
		theirs, err := t.b.filled(oneCore, u, path)
		if err != nil {
			return result{}, err
		}
		defer theirs.stop()
		before, err := ours.opens(t.b.ctx)
		if err != nil {
			return result{}, err
		}
		r, err := hot{t.b}.compare(ours, theirs, path, 0.95, rate)
		if err != nil {
			return result{}, err
		}
		after, err := ours.opens(t.b.ctx)
		if err != nil {
			return result{}, err
		}
		log.Printf("objects opened in the tier: %v, before: %v", after, before)
		if after["miss"] > before["miss"] || after["shared"] > before["shared"] {
			return result{}, fmt.Errorf("the bucket was read: %v objects were opened, before it were %v", after, before)
		}
		return r, nil
	})
}

// filled starts a replica on a bucket of its own, and returns when it has a local copy of the object at path.
func (t tier) filled(oneCore bool, u *upstream, path string) (p *process, end func(), err error) {
	store, err := startObjectStore(t.b)
	if err != nil {
		return nil, nil, err
	}
	bucket, err := store.newBucket()
	if err == nil {
		p, err = bucket.replica(oneCore, u.url, u.key)
	}
	if err != nil {
		store.end()
		return nil, nil, err
	}
	end = func() { p.stop(); store.end() }
	if err := p.untilLocal(t.b.ctx, path); err != nil {
		end()
		return nil, nil, err
	}
	return p, end, nil
}

// untilLocal requests an object until that opens nothing in the bucket. What a replica has fetched itself is at
// first in the bucket alone if it is large.
func (p *process) untilLocal(ctx context.Context, path string) error {
	last := -1.0
	for range 100 {
		_, err := get(ctx, p.url+path)
		if err := errors.Join(err, p.settle(ctx)); err != nil {
			return err
		}
		opens, err := p.opens(ctx)
		if err != nil {
			return err
		}
		if now := opens["miss"] + opens["shared"]; now == last {
			return nil
		} else {
			last = now
		}
	}
	return fmt.Errorf("%s does not become local", path)
}

// settle returns when a replica has stored on its local disk what is on its way there.
func (p *process) settle(ctx context.Context) error {
	for ctx.Err() == nil {
		running, err := p.metrics(ctx, "assay_tier_fills_running")
		if err != nil || running[""] == 0 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return ctx.Err()
}

// opens returns how many objects a replica has opened, by where they were.
func (p *process) opens(ctx context.Context) (map[string]float64, error) {
	return p.metrics(ctx, "assay_tier_opens_total")
}

// metrics returns the values of a metric that has one label or none, by the value of the label.
func (p *process) metrics(ctx context.Context, name string) (map[string]float64, error) {
	var text strings.Builder
	if _, err := getInto(ctx, newClient(), p.url+"/metrics", &text); err != nil {
		return nil, err
	}
	return metricsIn(text.String(), name)
}

func metricsIn(text, name string) (map[string]float64, error) {
	values := map[string]float64{}
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		labels, ok := strings.CutPrefix(series, name)
		if !ok || labels != "" && labels[0] != '{' {
			continue
		}
		_, label, _ := strings.Cut(strings.TrimSuffix(labels, `"}`), `="`)
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
		values[label] = v
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("there is no metric %s", name)
	}
	return values, nil
}
