// Package predict says which files the go command will request next. It knows how the go command
// reads modules, and does no I/O.
//
// A command that needs the module graph (go mod download, go list -m, go get) reads the go.mod files
// that the main module requires, in the order of their paths, and then those that these lead to: a
// go.mod of a version before go 1.17 makes it read the go.mod files of all that it requires, and of
// what these require. Then go mod download reads the .info of each required version, one after the
// other, and then the zips in the same order. A build does not read the graph: it reads the zip of each
// module that it imports, then its go.mod, and at the end the .info files of all.
package predict

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/request"
)

// Predictor remembers what each client has requested. Its methods may be called concurrently.
type Predictor struct {
	known atomic.Int64 // len(clients)

	mu      sync.Mutex
	clients map[string]*client
	entries int       // of all clients
	turns   int64     // requests so far
	swept   time.Time // when forgetIdle last looked for clients that have left
	tally   tally
}

// New returns a Predictor that knows no client.
func New() *Predictor { return &Predictor{clients: map[string]*client{}} }

// Knows reports whether anything is remembered of a client. It takes no lock while no client is known.
func (p *Predictor) Knows(name string) bool {
	if p.known.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clients[name] != nil
}

// Stats returns the counts. A nil Predictor has predicted nothing.
func (p *Predictor) Stats(now time.Time) Stats {
	if p == nil {
		return Stats{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetIdle(now)
	return p.tally.stats
}

// Next returns the files that a client will probably request after req, which it requests now, and
// whether it requests that for the first time: then AfterMod follows for a go.mod.
func (p *Predictor) Next(name string, req request.Request, now time.Time) (next []request.Request, first bool) {
	if !short(req.ModuleVersion()) {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.swept) >= sweepAfter { // what others have left unused takes bytes from this client
		p.forgetIdle(now)
	}
	c := p.client(name, now)
	defer p.grown(c, c.entries())
	c.expire(&p.tally, now)
	if !c.use(&p.tally, req) {
		return c.queued(&p.tally, nil), false // another process of the client has requested it before
	}
	return c.queued(&p.tally, c.following(&p.tally, req)), true
}

// AfterMod returns the files that a client will probably request because of a go.mod that it has
// requested, or that was predicted and is held now. content is that go.mod, of at most MaxMod bytes.
func (p *Predictor) AfterMod(name string, of module.Version, content []byte) []request.Request {
	mod, err := parse(content) // without the lock, for which each request waits
	if err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[name]
	if c == nil { // forgotten meanwhile
		return nil
	}
	c.most = p.most(c)
	defer p.grown(c, c.entries())
	return c.queued(&p.tally, c.required(&p.tally, of, mod))
}

// client returns what is known of a client. The caller holds mu.
func (p *Predictor) client(name string, now time.Time) *client {
	c := p.clients[name]
	if c != nil && (now.Sub(c.last) > idle || now.Sub(c.first) > longest) {
		p.forget(name)
		c = nil
	}
	if c == nil {
		if len(p.clients) >= maxClients {
			p.forgetIdle(now)
		}
		if len(p.clients) >= maxClients {
			p.forgetOldest(func(*client) int { return 1 }, maxClients)
		}
		c = newClient(now)
		p.clients[name] = c
		p.known.Store(int64(len(p.clients)))
	}
	p.turns++
	c.last, c.turn, c.most = now, p.turns, p.most(c)
	return c
}

// most returns how many entries a client may have. While half of all entries are in use, it must have earned
// those beyond its share by requests: one request can lead to thousands.
func (p *Predictor) most(c *client) int {
	if p.entries < maxEntries/2 {
		return maxFiles
	}
	return min(maxEntries/maxClients+earned*(c.asked+c.used), maxFiles)
}

// forgetOldest forgets a client because more than limit is remembered of what count counts. A party can have any
// number of addresses, but each use of a prediction costs it a request and a fetch. So clients that use
// predictions have half of the limit, and all others the other half, if they need it. Of the half that
// needs more, the client is forgotten whose latest request is the oldest.
func (p *Predictor) forgetOldest(count func(*client) int, limit int) {
	used := 0
	for _, c := range p.clients {
		if c.useful() {
			used += count(c)
		}
	}
	oldest, found := "", (*client)(nil)
	for name, c := range p.clients {
		if c.useful() == (used > limit/2) && (found == nil || c.turn < found.turn) {
			oldest, found = name, c
		}
	}
	p.forget(oldest)
}

// forgetIdle forgets the clients that have left, and what the others have left unused.
func (p *Predictor) forgetIdle(now time.Time) {
	p.swept = now
	for name, c := range p.clients {
		if now.Sub(c.last) > idle {
			p.forget(name)
		} else {
			c.expire(&p.tally, now)
		}
	}
}

func (p *Predictor) forget(name string) {
	c := p.clients[name]
	p.entries -= c.entries()
	c.end(&p.tally)
	delete(p.clients, name)
	p.known.Store(int64(len(p.clients)))
}

// grown counts the entries of a client, which had some before.
func (p *Predictor) grown(c *client, before int) {
	p.entries += c.entries() - before
	for p.entries > maxEntries {
		p.forgetOldest((*client).entries, maxEntries)
	}
}
