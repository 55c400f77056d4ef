package budget

import (
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// request is one request of a trace.
type request struct {
	key  string
	size int64
}

// cache is a policy that is simulated: get reports whether the object was there, and stores it if not.
type cache interface{ get(r request) bool }

// rates are the shares of a trace, by objects and by bytes, that were hits.
type rates struct{ objects, bytes float64 }

func replay(trace []request, c cache) rates {
	var hits, all, hitBytes, allBytes float64
	for _, r := range trace {
		all, allBytes = all+1, allBytes+float64(r.size)
		if c.get(r) {
			hits, hitBytes = hits+1, hitBytes+float64(r.size)
		}
	}
	return rates{hits / all, hitBytes / allBytes}
}

// ours is the policy of this package, with a limit of bytes alone.
type ours struct {
	p           *policy
	limit, used int64
	now         int64
}

func newOurs(limit int64) cache { return &ours{p: newPolicy(), limit: limit} }

func (c *ours) get(r request) bool {
	c.now++
	_, hit := c.p.objects[r.key]
	if !hit && r.size <= c.limit {
		c.p.add(r.key, r.size)
		c.used += r.size
	}
	c.p.use(r.key, c.now)
	for o := range c.p.victims {
		if c.used <= c.limit {
			break
		}
		c.used -= o.size
		c.p.remove(o.key)
	}
	return hit
}

// lru evicts the least recently used.
type lru struct {
	limit, used int64
	order       *list.List // of request
	at          map[string]*list.Element
}

func newLRU(limit int64) cache {
	return &lru{limit: limit, order: list.New(), at: map[string]*list.Element{}}
}

func (c *lru) get(r request) bool {
	if e, ok := c.at[r.key]; ok {
		c.order.MoveToFront(e)
		return true
	}
	if r.size > c.limit {
		return false
	}
	c.at[r.key] = c.order.PushFront(r)
	for c.used += r.size; c.used > c.limit; {
		old := c.order.Remove(c.order.Back()).(request)
		delete(c.at, old.key)
		c.used -= old.size
	}
	return false
}

// lfu evicts the least often used since it was stored, and of those the least recently used.
type lfu struct {
	limit, used int64
	counts      map[string]int
	last        map[string]int
	sizes       map[string]int64
	now         int
}

func newLFU(limit int64) cache {
	return &lfu{limit: limit, counts: map[string]int{}, last: map[string]int{}, sizes: map[string]int64{}}
}

func (c *lfu) get(r request) bool {
	c.now++
	if _, ok := c.sizes[r.key]; ok {
		c.counts[r.key]++
		c.last[r.key] = c.now
		return true
	}
	if r.size > c.limit {
		return false
	}
	for c.used += r.size; c.used > c.limit; {
		victim, first := "", true
		for key := range c.sizes {
			if first || c.counts[key] < c.counts[victim] || c.counts[key] == c.counts[victim] && c.last[key] < c.last[victim] {
				victim, first = key, false
			}
		}
		c.used -= c.sizes[victim]
		delete(c.sizes, victim)
		delete(c.counts, victim)
	}
	c.sizes[r.key], c.counts[r.key], c.last[r.key] = r.size, 1, c.now
	return false
}

// s3fifo is S3-FIFO (s3fifo.com) with sizes: a tenth of the bytes is for the small queue.
type s3fifo struct {
	limit              int64
	small, main, ghost *list.List // of *s3entry
	in                 map[string]*s3entry
	smallUsed, used    int64
	ghosts             map[string]*list.Element
	ghostUsed          int64
}

type s3entry struct {
	request
	freq   int
	inMain bool
}

func newS3FIFO(limit int64) cache {
	return &s3fifo{limit: limit, small: list.New(), main: list.New(), ghost: list.New(), in: map[string]*s3entry{}, ghosts: map[string]*list.Element{}}
}

func (c *s3fifo) get(r request) bool {
	if e, ok := c.in[r.key]; ok {
		e.freq = min(e.freq+1, 3)
		return true
	}
	if r.size > c.limit {
		return false
	}
	for c.used+r.size > c.limit {
		c.evict()
	}
	e := &s3entry{request: r}
	c.in[r.key] = e
	c.used += r.size
	if g, ok := c.ghosts[r.key]; ok {
		c.dropGhost(g)
		e.inMain = true
		c.main.PushFront(e)
		return false
	}
	c.small.PushFront(e)
	c.smallUsed += r.size
	return false
}

func (c *s3fifo) dropGhost(g *list.Element) {
	r := c.ghost.Remove(g).(request)
	delete(c.ghosts, r.key)
	c.ghostUsed -= r.size
}

func (c *s3fifo) evict() {
	if c.smallUsed >= c.limit/10 || c.main.Len() == 0 {
		for c.small.Len() > 0 {
			e := c.small.Remove(c.small.Back()).(*s3entry)
			c.smallUsed -= e.size
			if e.freq > 1 {
				e.freq, e.inMain = 0, true
				c.main.PushFront(e)
				continue
			}
			delete(c.in, e.key)
			c.used -= e.size
			c.ghosts[e.key] = c.ghost.PushFront(e.request)
			for c.ghostUsed += e.size; c.ghostUsed > c.limit; {
				c.dropGhost(c.ghost.Back())
			}
			return
		}
	}
	for c.main.Len() > 0 {
		e := c.main.Remove(c.main.Back()).(*s3entry)
		if e.freq > 0 {
			e.freq--
			c.main.PushFront(e)
			continue
		}
		delete(c.in, e.key)
		c.used -= e.size
		return
	}
}

// tinyLFU is W-TinyLFU (arxiv.org/abs/1512.00727) with sizes: a window of 1 %, and a main part of which four
// fifths are protected. A candidate replaces victims if it was used more often than all of them together.
type tinyLFU struct {
	limit                              int64
	window, probation, protected       *list.List // of *tinyEntry
	in                                 map[string]*tinyEntry
	windowUsed, mainUsed, protectedUse int64
	counts                             map[string]int
	since                              int
}

type tinyEntry struct {
	request
	at *list.Element
	of *list.List
}

func newTinyLFU(limit int64) cache {
	return &tinyLFU{limit: limit, window: list.New(), probation: list.New(), protected: list.New(), in: map[string]*tinyEntry{}, counts: map[string]int{}}
}

func (c *tinyLFU) put(e *tinyEntry, l *list.List) {
	if e.of != nil {
		e.of.Remove(e.at)
	}
	e.of, e.at = l, l.PushFront(e)
}

func (c *tinyLFU) get(r request) bool {
	c.counts[r.key] = min(c.counts[r.key]+1, 15)
	if c.since++; c.since > 10*max(len(c.in), 100) {
		c.since = 0
		for key := range c.counts {
			c.counts[key] /= 2
		}
	}
	if e, ok := c.in[r.key]; ok {
		switch e.of {
		case c.window:
			c.put(e, c.window)
		case c.protected:
			c.put(e, c.protected)
		default:
			c.put(e, c.protected)
			for c.protectedUse += e.size; c.protectedUse > (c.limit-c.limit/100)*4/5; {
				old := c.protected.Back().Value.(*tinyEntry)
				c.put(old, c.probation)
				c.protectedUse -= old.size
			}
		}
		return true
	}
	if r.size > c.limit-c.limit/100 {
		return false
	}
	e := &tinyEntry{request: r}
	c.in[r.key] = e
	c.put(e, c.window)
	for c.windowUsed += r.size; c.windowUsed > c.limit/100; {
		candidate := c.window.Back().Value.(*tinyEntry)
		c.windowUsed -= candidate.size
		c.admit(candidate)
	}
	return false
}

func (c *tinyLFU) admit(candidate *tinyEntry) {
	c.put(candidate, c.probation)
	c.mainUsed += candidate.size
	for c.mainUsed > c.limit-c.limit/100 {
		victim := c.victim(candidate)
		if victim == nil || c.in[candidate.key] != nil && c.counts[candidate.key] <= c.counts[victim.key] {
			victim = candidate
		}
		if victim.of == c.protected {
			c.protectedUse -= victim.size
		}
		victim.of.Remove(victim.at)
		delete(c.in, victim.key)
		c.mainUsed -= victim.size
		if victim == candidate {
			return
		}
	}
}

// victim returns the next victim of the main part that is not the candidate.
func (c *tinyLFU) victim(candidate *tinyEntry) *tinyEntry {
	for _, l := range []*list.List{c.probation, c.protected} {
		for at := l.Back(); at != nil; at = at.Prev() {
			if v := at.Value.(*tinyEntry); v != candidate {
				return v
			}
		}
	}
	return nil
}

// belady knows the future: it evicts what is requested last, and stores nothing that would be that. With
// sizes this is not the best that is possible, but close.
type belady struct {
	limit, used int64
	next        map[string][]int // times of the requests
	sizes       map[string]int64
}

func newBelady(trace []request) func(limit int64) cache {
	return func(limit int64) cache {
		next := map[string][]int{}
		for i, r := range trace {
			next[r.key] = append(next[r.key], i)
		}
		return &belady{limit: limit, next: next, sizes: map[string]int64{}}
	}
}

func (c *belady) get(r request) bool {
	c.next[r.key] = c.next[r.key][1:]
	if _, ok := c.sizes[r.key]; ok {
		return true
	}
	if r.size > c.limit || len(c.next[r.key]) == 0 {
		return false
	}
	c.sizes[r.key] = r.size
	for c.used += r.size; c.used > c.limit; {
		victim, last := "", -1
		for key := range c.sizes {
			at := math.MaxInt
			if len(c.next[key]) > 0 {
				at = c.next[key][0]
			}
			if at > last || at == last && key < victim {
				victim, last = key, at
			}
		}
		c.used -= c.sizes[victim]
		delete(c.sizes, victim)
	}
	return false
}

// zipf returns a trace of n requests for so many modules, whose popularity follows Zipf's law with the
// exponent s. Sizes are spread like those of module zips, from 2 KB to some megabytes, whatever the popularity
// is. In a trace with drift another module takes the place of a popular one from time to time, and in one with
// scans a client requests hundreds of modules once.
func zipf(seed uint64, n, modules int, s float64, drift, scans bool) (trace []request) {
	random := rand.New(rand.NewPCG(seed, 1))
	sums := make([]float64, modules)
	total := 0.0
	for i := range sums {
		total += 1 / math.Pow(float64(i+1), s)
		sums[i] = total
	}
	sizes := map[string]int64{}
	make1 := func(key string) request {
		if sizes[key] == 0 {
			sizes[key] = int64(min(math.Exp(random.NormFloat64()*1.6+11.5), 20e6)) + 2000
		}
		return request{key, sizes[key]}
	}
	names := random.Perm(modules)
	fresh, scanned := modules, 0
	for len(trace) < n {
		if drift && random.IntN(200) == 0 {
			names[random.IntN(modules/20)] = fresh
			fresh++
		}
		if scans && random.IntN(4000) == 0 {
			for range 300 {
				trace = append(trace, make1(fmt.Sprintf("scan%d", scanned)))
				scanned++
			}
		}
		rank, _ := slices.BinarySearch(sums, random.Float64()*total)
		trace = append(trace, make1(fmt.Sprintf("m%d", names[rank])))
	}
	return trace
}

func totalSize(trace []request) (total int64) {
	seen := map[string]bool{}
	for _, r := range trace {
		if !seen[r.key] {
			seen[r.key] = true
			total += r.size
		}
	}
	return total
}

// comparison is how the policies do on one trace.
type comparison struct {
	ours, best, belady rates
	others             string // than ours, each with its rates
}

func compareWith(trace []request, limit int64) (c comparison) {
	for _, p := range []struct {
		name string
		make func(limit int64) cache
	}{{"LRU", newLRU}, {"LFU", newLFU}, {"S3-FIFO", newS3FIFO}, {"W-TinyLFU", newTinyLFU}} {
		r := replay(trace, p.make(limit))
		c.others += fmt.Sprintf("  %s %v", p.name, r)
		c.best = rates{max(c.best.objects, r.objects), max(c.best.bytes, r.bytes)}
	}
	c.ours, c.belady = replay(trace, newOurs(limit)), replay(trace, newBelady(trace)(limit))
	return c
}

// ratio is ours to the best of the others.
func (c comparison) ratio() rates {
	return rates{c.ours.objects / c.best.objects, c.ours.bytes / c.best.bytes}
}

// TestPolicy compares the policy with others on traces with the popularity of modules. It prints a table with -v.
func TestPolicy(t *testing.T) {
	t.Parallel()
	const least = 0.97
	t.Logf("%-24s %-6s %-15s", "trace", "limit", "hits, of objects/of bytes")
	for _, exponent := range []float64{0.7, 1.0} {
		for kind, name := range []string{"steady", "drifting", "steady, scanned", "drifting, scanned"} {
			trace := zipf(uint64(kind), 20000, 1000, exponent, kind&1 != 0, kind&2 != 0)
			for _, part := range []int64{20, 10, 4} {
				limit := totalSize(trace) / part
				c := compareWith(trace, limit)
				ratio := c.ratio()
				t.Logf("%.1f %-20s 1/%-4d%s  ours %v (%v of the best)  Belady %v", exponent, name, part, c.others, c.ours, ratio, c.belady)
				if ratio.objects < least || ratio.bytes < least {
					t.Errorf("zipf %.1f, %s, 1/%d: %v of the best, want %.2f of both", exponent, name, part, ratio, least)
				}
			}
		}
	}
}

func (r rates) String() string { return fmt.Sprintf("%.3f/%.3f", r.objects, r.bytes) }

// BenchmarkPolicy is TestPolicy with a limit of 200 MB and 2 GB that are requested. cmd/bench has a line for it.
func BenchmarkPolicy(b *testing.B) {
	const limit, requested = 200e6, 2e9
	for kind, name := range []string{"steady", "drifting", "steady, scanned", "drifting, scanned"} {
		b.Run(name, func(b *testing.B) {
			var c comparison
			for range b.N {
				c = compareWith(zipfOf(requested, kind), limit)
			}
			ratio := c.ratio()
			for unit, value := range map[string]float64{
				"objects/best": ratio.objects, "bytes/best": ratio.bytes, "%objects": 100 * c.ours.objects, "%bytes": 100 * c.ours.bytes,
				"%Belady-objects": 100 * c.belady.objects, "%Belady-bytes": 100 * c.belady.bytes,
			} {
				b.ReportMetric(value, unit)
			}
			b.Log(c.others)
		})
	}
}

// zipfOf returns a trace of 50,000 requests for modules of so many bytes.
func zipfOf(total int64, kind int) []request {
	for modules := 1000; ; modules += 100 {
		trace := zipf(uint64(kind), 50_000, modules, 1, kind&1 != 0, kind&2 != 0)
		if totalSize(trace) >= total {
			return trace
		}
	}
}
