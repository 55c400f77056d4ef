// Package predict says which files the go command will request next. It knows how the go command
// reads a module graph, and does no I/O.
//
// The go command reads the go.mod files of a graph first, then the .info of each selected version in
// the order of the module paths, then the zips in the same order. A go.mod of a version before go
// 1.17 makes it read the go.mod files of all that it requires, and of what these require.
package predict

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/proxy/request"
)

// Limits of what one client can cause. A client that does not request what was predicted gets no
// more predictions, so these are also the limits of what is fetched and not used.
const (
	// maxUnused is how many predicted files of one client may be unrequested, and maxUnusedZips how
	// many of them zips.
	maxUnused     = 96
	maxUnusedZips = 8

	// window is how many files after the requested one are predicted, and gap how many modules are
	// examined for the next zips: a module of the graph that is not selected has none.
	window = 16
	gap    = 64

	// certain is how many .info files a client must have requested, without a list, before zips are
	// predicted: go list -m -u requests them as well, and never a zip.
	certain = 4

	// maxModules bounds the modules that are remembered for one client, maxClients the clients, and
	// idle the time without a request after which a client is forgotten.
	maxModules = 1000
	maxClients = 100
	idle       = 30 * time.Second

	// MaxMod is the size of the largest go.mod that is read, in bytes.
	MaxMod = 64 << 10
)

// Predictor remembers what each client has requested. Its methods may be called concurrently.
type Predictor struct {
	mu      sync.Mutex
	clients map[string]*client
	stats   Stats
}

// Stats are counts of files since the start.
type Stats struct {
	Predicted, Used uint64
}

// New returns a Predictor that knows no client.
func New() *Predictor { return &Predictor{clients: map[string]*client{}} }

// Stats returns the counts. A nil Predictor has predicted nothing.
func (p *Predictor) Stats() Stats {
	if p == nil {
		return Stats{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Next returns the files that a client will probably request after req, which it requests now.
func (p *Predictor) Next(name string, req request.Request, now time.Time) []request.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.client(name, now)
	if c.use(req) {
		p.stats.Used++
	}
	c.note(req)
	next := c.following(req)
	p.stats.Predicted += uint64(len(next))
	return next
}

// AfterMod returns the go.mod files that a client will probably request after one that it has read.
// content is that go.mod, of at most MaxMod bytes.
func (p *Predictor) AfterMod(name string, of module.Version, content []byte, now time.Time) []request.Request {
	f, err := modfile.ParseLax("go.mod", content, nil)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.client(name, now).required(of, f)
	p.stats.Predicted += uint64(len(next))
	return next
}

// client returns what is known of a client. The caller holds mu.
func (p *Predictor) client(name string, now time.Time) *client {
	c := p.clients[name]
	if c == nil || now.Sub(c.last) > idle {
		if len(p.clients) >= maxClients {
			for other, c := range p.clients {
				if now.Sub(c.last) > idle {
					delete(p.clients, other)
				}
			}
		}
		if len(p.clients) >= maxClients {
			clear(p.clients) // an order of use would cost more than it saves
		}
		c = &client{selected: map[string]string{}, whole: map[memo.Key]bool{}, requested: map[memo.Key]bool{}, unused: map[memo.Key]bool{}}
		p.clients[name] = c
	}
	c.last = now
	return c
}

// client is one build of a client.
type client struct {
	last time.Time

	selected map[string]string // the highest version of each module whose go.mod was requested
	order    []string          // the modules of selected, sorted; nil: not sorted yet
	whole    map[memo.Key]bool // paths of the go.mod files whose requirements the go command reads completely
	infos    int               // requested ones
	listed   bool              // it has requested a list

	requested map[memo.Key]bool // paths
	unused    map[memo.Key]bool // paths that were predicted, and not requested yet
	zips      int               // of unused
}

// use notes that the client has requested a file, and reports whether that was predicted.
func (c *client) use(req request.Request) bool {
	key := memo.KeyOf(req.Path())
	if len(c.requested) < 3*maxModules {
		c.requested[key] = true
	}
	if !c.unused[key] {
		return false
	}
	delete(c.unused, key)
	if req.Kind == request.Zip {
		c.zips--
	}
	return true
}

// note remembers what a request says about later ones.
func (c *client) note(req request.Request) {
	switch req.Kind {
	case request.List, request.Latest:
		c.listed = true
	case request.Info:
		c.infos++
	case request.Mod:
		old, known := c.selected[req.Module]
		if !known && len(c.selected) >= maxModules {
			return
		}
		if !known {
			c.order = nil
		}
		if !known || semver.Compare(req.Version, old) > 0 {
			c.selected[req.Module] = req.Version
		}
	}
}

// required returns the go.mod files that the go command reads because of one, which is of a version.
func (c *client) required(of module.Version, f *modfile.File) (next []request.Request) {
	if pruned := f.Go != nil && semver.Compare("v"+f.Go.Version, "v1.17") >= 0; pruned && !c.whole[keyOf(of)] {
		return nil
	}
	for _, r := range f.Require {
		if len(c.whole) >= maxModules {
			break
		}
		if module.Check(r.Mod.Path, r.Mod.Version) != nil { // ParseLax accepts any text
			continue
		}
		c.whole[keyOf(r.Mod)] = true
		next = c.predict(next, request.Mod, r.Mod.Path, r.Mod.Version)
	}
	return next
}

// following returns the .info files and zips that follow one in the order of the selected modules.
func (c *client) following(req request.Request) (next []request.Request) {
	if c.listed || c.selected[req.Module] != req.Version {
		return nil
	}
	switch req.Kind {
	case request.Info:
		for _, path := range c.after(req.Module, window) {
			next = c.predict(next, request.Info, path, c.selected[path])
		}
		if c.infos >= certain {
			next = c.zipsOf(next, c.order[:min(gap, len(c.order))])
		}
	case request.Zip:
		next = c.zipsOf(next, c.after(req.Module, gap))
	}
	return next
}

// zipsOf predicts the first zips of modules whose .info the client has requested: it has read the
// go.mod files of more modules than it selects.
func (c *client) zipsOf(next []request.Request, modules []string) []request.Request {
	for _, path := range modules {
		if c.zips >= maxUnusedZips {
			break
		}
		info := request.Request{Kind: request.Info, Module: path, Version: c.selected[path]}
		if c.requested[memo.KeyOf(info.Path())] {
			next = c.predict(next, request.Zip, path, info.Version)
		}
	}
	return next
}

// after returns at most n modules after one, in the order in which the go command requests them.
func (c *client) after(path string, n int) []string {
	if c.order == nil {
		for m := range c.selected {
			c.order = append(c.order, m)
		}
		slices.Sort(c.order)
	}
	at, found := slices.BinarySearch(c.order, path)
	if found {
		at++
	}
	return c.order[at:min(at+n, len(c.order))]
}

// predict adds a file to next, unless it was predicted before or too many are unused.
func (c *client) predict(next []request.Request, kind request.Kind, path, version string) []request.Request {
	req := request.Request{Kind: kind, Module: path, Version: version}
	key := memo.KeyOf(req.Path())
	if c.requested[key] || c.unused[key] || len(c.unused) >= maxUnused || req.Kind == request.Zip && c.zips >= maxUnusedZips {
		return next
	}
	c.unused[key] = true
	if req.Kind == request.Zip {
		c.zips++
	}
	return append(next, req)
}

func keyOf(m module.Version) memo.Key {
	return memo.KeyOf(request.Request{Kind: request.Mod, Module: m.Path, Version: m.Version}.Path())
}
