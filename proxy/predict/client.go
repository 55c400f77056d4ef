package predict

import (
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/proxy/request"
)

// client is what one client has requested, and what was predicted for it.
type client struct {
	moments

	burden

	files   map[memo.Key]file // by path
	credits [request.NumKinds]credit
	asked   int // files that it has requested
	used    int // files that were fetched because they were predicted, and that it has requested
	most    int // entries that it may have now

	graph  graph
	queue  []module.Version // go.mod files that it will request, and that have to wait for credit
	infos  []module.Version // whose .info it requested before the zip, as go mod download does
	built  []module.Version // whose zip it requested before the go.mod, as a build does
	listed time.Time        // when it last requested a list
}

// moments says when the requests of a client came.
type moments struct {
	first   time.Time // the first one
	last    time.Time // the latest one
	turn    int64     // its number among the requests of all clients
	expired time.Time // when expire last looked for wasted files
}

// burden is what was fetched for a client, or is arriving, and was not requested.
type burden struct {
	unused   int64 // bytes
	arriving map[memo.Key]*arriving
}

func newClient(now time.Time) *client {
	return &client{
		moments: moments{first: now, last: now, expired: now}, burden: burden{arriving: map[memo.Key]*arriving{}},
		files: map[memo.Key]file{}, graph: newGraph(),
	}
}

// file is the state of a file.
type file struct {
	state state
	kind  request.Kind
	at    time.Time // when it was predicted
	size  int64     // of a fetched one, or how much of a refused one is known, see arriving.take
}

// state says what is known of a file.
type state uint8

const (
	requested state = 1 << iota // by the client
	predicted                   // and not requested, fetched or given up
	fetched                     // because it was predicted; not requested
	whole                       // a go.mod: the go command reads all that it requires
	led                         // a go.mod: what it leads to was predicted
	learned                     // a go.mod of a root: the graph knows what it requires
	alone                       // a go.mod that the go command reads apart from the graph
	ended                       // it was predicted, and is held, or cannot be fetched
)

func (f file) is(s state) bool { return f.state&s != 0 }

// credit says how many predicted files of a kind a client may leave unrequested. It grows with those
// that it requests, so a kind that it does not use is given up soon.
type credit struct {
	open  int // predicted, and not requested
	score int
}

// room returns how many files of a kind may be predicted now.
func (c credit) room(kind request.Kind) int {
	first, most := 0, 8 // zips
	switch kind {
	case request.Mod:
		first, most = 16, 512
	case request.Info:
		first, most = -4, 192 // two in their order show that more will follow
	}
	return min(first+4*c.score, most) - c.open
}

// won counts a file that was requested as the rules expect.
func (c *credit) won() { c.score = min(c.score+1, 128) }

// lost counts a wasted one.
func (c *credit) lost() { c.score = max(c.score-4, -128) }

// entries returns how much is remembered.
func (c *client) entries() int {
	return len(c.files) + len(c.graph.modules) + len(c.queue) + len(c.infos) + len(c.built)
}

func (c *client) full() bool { return c.entries() >= c.most }

// useful reports whether the client has used so much that predictions for it are known to be of use.
func (c *client) useful() bool { return c.used >= enoughUsed }

func (c *client) file(kind request.Kind, m module.Version) file { return c.files[keyOf(kind, m)] }

// mark adds states to a file.
func (c *client) mark(kind request.Kind, m module.Version, s state) {
	key := keyOf(kind, m)
	f, known := c.files[key]
	if !known && c.full() {
		return
	}
	f.kind, f.state = kind, f.state|s
	c.files[key] = f
}

// use notes that the client has requested a file, and reports whether it does so for the first time.
func (c *client) use(t *tally, req request.Request) bool {
	if !req.Immutable() {
		return true
	}
	key := memo.KeyOf(req.Path())
	f, known := c.files[key]
	if f.is(requested) || !known && c.full() {
		return false
	}
	c.asked++
	if a := c.arriving[key]; a != nil {
		a.giveBack(t) // it is for the client now
		a.requested = true
	}
	if f.is(predicted | fetched) {
		c.credits[req.Kind].open--
		c.credits[req.Kind].won()
	}
	if f.is(fetched) {
		c.settle(t, f, false)
	}
	f.kind, f.state = req.Kind, f.state&^(predicted|fetched)|requested
	c.files[key] = f
	return true
}

// fetched notes that a predicted file was fetched.
func (c *client) fetched(t *tally, req request.Request, size int64) {
	key := memo.KeyOf(req.Path())
	f, known := c.files[key]
	f.size = size
	switch {
	case f.is(predicted):
		f.state = f.state&^predicted | fetched
		c.files[key] = f
		c.burdened(t, size)
	case known && f.is(requested):
		c.won(t, req.Kind, size)
	default:
		t.stats[req.Kind].waste(size)
	}
}

// settle counts a fetched file that is requested now, or wasted.
func (c *client) settle(t *tally, f file, wasted bool) {
	c.burdened(t, -f.size)
	if wasted {
		t.stats[f.kind].waste(f.size)
		return
	}
	c.won(t, f.kind, f.size)
}

// burdened adds to the bytes that are not requested.
func (c *client) burdened(t *tally, n int64) {
	c.unused += n
	t.unused += n
}

// arriving is a predicted file that is being fetched for a client.
type arriving struct {
	client    *client
	key       memo.Key
	kind      request.Kind
	requested bool  // by the client
	refused   bool  // others, or other files of the client, left too little for it
	taken     int64 // bytes that count as unused
}

// arrives begins to count the bytes of a file.
func (c *client) arrives(req request.Request) *arriving {
	key := memo.KeyOf(req.Path())
	a := &arriving{client: c, key: key, kind: req.Kind, requested: c.files[key].is(requested)}
	c.arriving[key] = a
	return a
}

// take takes n bytes, of those that the client may have unused, and reports whether there are as many. A file
// that the client has requested needs none, and a small one is never refused, since their number is bounded by
// the credit: go.mod files are of more use than the zips whose bytes they would have to wait for.
func (a *arriving) take(t *tally, n int64) bool {
	c, size := a.client, a.taken+n
	switch {
	case a.requested:
		return true
	case size > MaxZip:
		return false
	case n > t.most(c.unused)-c.unused && (a.kind == request.Zip || size > MaxMod):
		a.refused = true
		if f, known := c.files[a.key]; known {
			f.size = size // it is not predicted again before there is room for it
			c.files[a.key] = f
		}
		return false
	}
	a.taken = size
	c.burdened(t, n)
	return true
}

// giveBack makes the bytes count no more.
func (a *arriving) giveBack(t *tally) {
	a.client.burdened(t, -a.taken)
	a.taken = 0
}

// ended says that the file arrives no more.
func (a *arriving) ended(t *tally) {
	a.giveBack(t)
	if a.client.arriving[a.key] == a {
		delete(a.client.arriving, a.key)
	}
}

// won counts a fetched file that the client has requested.
func (c *client) won(t *tally, kind request.Kind, size int64) {
	c.used++
	t.stats[kind].Used++
	t.stats[kind].UsedBytes += size
}

// notFetched gives a prediction up.
func (c *client) notFetched(req request.Request, why Reason) {
	key := memo.KeyOf(req.Path())
	f := c.files[key]
	if !f.is(predicted) {
		return
	}
	c.credits[req.Kind].open--
	f.state &^= predicted
	if why != NotNow {
		f.state |= ended
	}
	if why == Failed {
		c.credits[req.Kind].lost()
	}
	c.files[key] = f
}

// expire gives up what was predicted long ago and not requested, and the kinds that are wasted. A kind
// that was given up gets another chance when nothing of it is open.
func (c *client) expire(t *tally, now time.Time) {
	if now.Sub(c.expired) < idle/2 {
		return
	}
	c.expired = now
	for i := range c.credits {
		if credit := &c.credits[i]; credit.open == 0 && credit.score < 0 {
			credit.score = 0
		}
	}
	for key, f := range c.files {
		if !f.is(predicted|fetched) || now.Sub(f.at) < idle {
			continue
		}
		c.credits[f.kind].open--
		c.credits[f.kind].lost()
		if f.is(fetched) {
			c.settle(t, f, true)
		}
		f.state &^= predicted | fetched
		c.files[key] = f
	}
}

// end counts what the client has not requested as wasted, and forgets it all but what is still arriving: that
// counts until it has ended.
func (c *client) end(t *tally) {
	for _, f := range c.files {
		if f.is(fetched) {
			c.settle(t, f, true)
		}
	}
	*c = client{burden: c.burden} // a Fetch may refer to it for long
}

// following returns the files that follow a requested one.
func (c *client) following(t *tally, req request.Request) (next []request.Request) {
	m := req.ModuleVersion()
	switch {
	case req.Kind == request.List || req.Kind == request.Latest:
		c.listed = c.last
	case !req.Immutable() || m.Path == toolchain:
	case req.Kind == request.Mod:
		return c.afterMod(t, m)
	case req.Kind == request.Info:
		return c.afterInfo(t, m)
	case req.Kind == request.Zip:
		return c.afterZip(t, m)
	}
	return nil
}

// toolchain is the module of Go toolchains, of which the go command requests the zip alone.
const toolchain = "golang.org/toolchain"

// afterMod follows a go.mod of the graph.
func (c *client) afterMod(t *tally, m module.Version) []request.Request {
	if c.file(request.Zip, m).is(requested) {
		c.mark(request.Mod, m, alone)
		return nil
	}
	c.credits[request.Mod].won()
	c.graph.request(m, c.file(request.Mod, m).is(whole), c.full())
	return c.guess(t, nil)
}

// afterInfo follows an .info: those of all built modules, or of the other roots of the graph.
func (c *client) afterInfo(t *tally, m module.Version) (next []request.Request) {
	built := c.file(request.Zip, m).is(requested)
	if c.last.Sub(c.listed) < idle || !built && !c.graph.selects(m) {
		return nil
	}
	c.credits[request.Info].won()
	var candidates []module.Version
	if !built {
		if !c.full() {
			c.infos = append(c.infos, m)
		}
		candidates = c.graph.following(m.Path)
	} else {
		c.built = c.pending(request.Info, c.built)
		candidates = c.built
	}
	for _, m := range candidates[:min(gap, len(candidates))] {
		if next = c.predict(t, next, request.Info, m); c.credits[request.Info].room(request.Info) <= 0 {
			break
		}
	}
	return next
}

// afterZip follows a zip: in a build the go.mod of its module, else the next zips.
func (c *client) afterZip(t *tally, m module.Version) (next []request.Request) {
	if !c.file(request.Info, m).is(requested) {
		if c.file(request.Mod, m).is(requested) || c.full() {
			return nil
		}
		c.built = append(c.built, m)
		c.mark(request.Mod, m, alone)
		return c.predict(t, nil, request.Mod, m)
	}
	if c.last.Sub(c.listed) < idle {
		return nil
	}
	c.credits[request.Zip].won()
	c.infos = c.pending(request.Zip, c.infos)
	for _, m := range c.infos[:min(gap, len(c.infos))] {
		if next = c.predict(t, next, request.Zip, m); c.credits[request.Zip].room(request.Zip) <= 0 {
			break
		}
	}
	return next
}

// pending returns versions without the first ones whose file of a kind is requested, or need not be
// predicted.
func (c *client) pending(kind request.Kind, versions []module.Version) []module.Version {
	for len(versions) > 0 && c.file(kind, versions[0]).is(requested|fetched|ended) {
		versions = versions[1:]
	}
	return versions
}

// required follows the content of a go.mod.
func (c *client) required(t *tally, of module.Version, mod goMod) []request.Request {
	state := c.file(request.Mod, of)
	switch {
	case state.is(alone|led) || !state.is(requested|whole):
		return nil
	case mod.pruned && !state.is(whole):
		if !state.is(learned) {
			c.mark(request.Mod, of, learned)
			c.graph.learn(mod.requires, c.most-c.entries())
		}
		return c.guess(t, nil)
	}
	c.mark(request.Mod, of, led)
	c.lead(mod.requires)
	return nil
}

// lead queues the go.mod files that one leads to.
func (c *client) lead(requires []requirement) {
	for _, r := range requires {
		f := c.files[r.key]
		if c.full() || f.is(whole) {
			continue
		}
		f.kind, f.state = request.Mod, f.state|whole
		c.files[r.key] = f
		c.queue = append(c.queue, r.Version)
	}
}

// queued adds the go.mod files to next that wait for credit, as far as there is some. One that the
// client has requested as a root is read again, since now all that it requires follows.
func (c *client) queued(t *tally, next []request.Request) []request.Request {
	for len(c.queue) > 0 && c.credits[request.Mod].room(request.Mod) > 0 {
		m := c.queue[0]
		c.queue = c.queue[1:]
		if c.file(request.Mod, m).is(learned) {
			next = append(next, request.Request{Kind: request.Mod, Module: m.Path, Version: m.Version})
		}
		next = c.predict(t, next, request.Mod, m)
	}
	return next
}

// guess adds the go.mod files to next that probably follow in the order of the roots.
func (c *client) guess(t *tally, next []request.Request) []request.Request {
	for c.credits[request.Mod].room(request.Mod) > 0 {
		m, ok := c.graph.guess()
		if !ok {
			break
		}
		n := len(next)
		if next = c.predict(t, next, request.Mod, m); len(next) > n {
			c.graph.guessed(m)
		}
	}
	return next
}

// predict adds a file to next, unless it was requested or predicted before, or there is no credit.
func (c *client) predict(t *tally, next []request.Request, kind request.Kind, m module.Version) []request.Request {
	key := keyOf(kind, m)
	f, known := c.files[key]
	if f.is(requested|predicted|fetched|ended) || !known && c.full() || c.credits[kind].room(kind) <= 0 {
		return next
	}
	if kind == request.Zip && max(f.size, 1) > t.most(c.unused)-c.unused {
		return next
	}
	f.kind, f.at, f.state = kind, c.last, f.state|predicted
	c.files[key] = f
	c.credits[kind].open++
	return append(next, request.Request{Kind: kind, Module: m.Path, Version: m.Version})
}
