package predict

import (
	"fmt"

	"github.com/assay-proxy/assay/proxy/request"
)

// Clients returns how many clients are remembered.
func (p *Predictor) Clients() int { return len(p.clients) }

// Entries returns how much is remembered of all clients.
func (p *Predictor) Entries() int { return p.entries }

// Fetched is Fetch.Fetched of a file that has arrived at once, and may be larger than what its client may have.
func (p *Predictor) Fetched(name string, req request.Request, size int64) {
	if f := p.Begin(name, req); f != nil {
		f.file.taken = size
		f.file.client.burdened(&p.tally, size)
		f.Fetched(size)
	}
}

// Remembered returns how much is remembered of the client of a fetch.
func (f *Fetch) Remembered() int { return f.file.client.entries() }

// NotFetched is Fetch.NotFetched.
func (p *Predictor) NotFetched(name string, req request.Request, why Reason) {
	if f := p.Begin(name, req); f != nil {
		f.NotFetched(why)
	}
}

// MaxZip returns the size of the largest file that may be fetched for a client now, 0 if none may.
func (p *Predictor) MaxZip(name string) int64 {
	if c := p.clients[name]; c != nil {
		return max(p.tally.most(c.unused)-c.unused, 0)
	}
	return 0
}

// Unused returns how many bytes were fetched, or are arriving, and were not requested.
func (p *Predictor) Unused() int64 { return p.tally.unused }

// Consistent returns an error unless the counts agree with each other: what was predicted is used, wasted or
// open. What is still arriving for a client that is forgotten counts, too: running are such fetches, at least.
func (p *Predictor) Consistent(running ...*Fetch) error {
	var open Stats
	entries, unused := 0, int64(0)
	for _, f := range running {
		if p.clients[f.name] != f.file.client {
			unused += f.file.taken
		}
	}
	for name, c := range p.clients {
		var credits [request.NumKinds]int
		own := int64(0)
		for _, f := range c.files {
			if f.is(predicted | fetched) {
				credits[f.kind]++
			}
			if f.is(fetched) {
				open[f.kind].Predicted++
				open[f.kind].PredictedBytes += f.size
				own += f.size
			}
		}
		for _, a := range c.arriving {
			own += a.taken
		}
		for kind, n := range credits {
			if c.credits[kind].open != n {
				return fmt.Errorf("%s has %d open files of kind %d, and counts %d", name, n, kind, c.credits[kind].open)
			}
		}
		if own != c.unused {
			return fmt.Errorf("%s has %d bytes that are unused, and counts %d", name, own, c.unused)
		}
		entries += c.entries()
		unused += own
	}
	if entries != p.entries || unused != p.tally.unused {
		return fmt.Errorf("%d entries and %d unused bytes, counted as %d and %d", entries, unused, p.entries, p.tally.unused)
	}
	for kind, of := range p.tally.stats {
		if of.Predicted != of.Used+of.Wasted+open[kind].Predicted || of.PredictedBytes != of.UsedBytes+of.WastedBytes+open[kind].PredictedBytes {
			return fmt.Errorf("kind %d: %+v, and %+v are open", kind, of, open[kind])
		}
	}
	return nil
}
