package budget

import (
	"cmp"
	"math"
	"slices"

	"github.com/assay-proxy/assay/storage"
)

// policy decides what is worth keeping. It is TinyLFU with a worth for each object,
//
//	log2(uses + 1/2) - 0.15 log2(bytes)
//
// so that of two objects that are used as often the larger one is evicted first, without giving up popular
// large ones: with 0, hits by objects are 4 to 19 % below those of W-TinyLFU, with 0.3, hits by bytes are up to
// 15 % below. Objects of about the same worth are in one list, in the order of their last use, whose end is
// evicted first. The uses are counted for names that are not stored, too, and halved after every agePeriod uses
// for each object. So a client that reads many objects once displaces other objects that were used once, and
// nothing else. A policy is not safe for concurrent use.
type policy struct {
	objects map[string]*object // by key
	lists   [ranks]ring        // by rank, the least worth first
	counts  *sketch
	since   int // uses since the counts were halved
}

// object is a stored object that may be evicted.
type object struct {
	key   string
	size  int64 // bytes
	used  int64 // when, in ticks of the caller's clock; 0: not since it was stored
	held  int64 // not evicted before this tick
	fresh int64 // worth as much as if it had been used once more, before this tick
	open  int32 // readers
	rank  int8

	before, after *object
}

// ring is a circle of objects: after the root comes the one that was used last.
type ring struct{ root object }

func (r *ring) init() { r.root.before, r.root.after = &r.root, &r.root }

func (r *ring) push(o *object) {
	o.before, o.after = &r.root, r.root.after
	o.before.after, o.after.before = o, o
}

func (o *object) unlink() {
	o.before.after, o.after.before = o.after, o.before
	o.before, o.after = nil, nil
}

const (
	// sizeWeight is how much the size of an object counts against its uses.
	sizeWeight = 0.15

	// ranks is the number of lists, each of which has the objects of a quarter of a bit of worth.
	ranks     = 44
	rankWidth = 0.25

	// agePeriod is how many uses for each stored object there are until counts are halved, as in TinyLFU, and
	// leastPeriod is the smallest number of uses until then.
	agePeriod   = 10
	leastPeriod = 1000
)

// rankOf returns the list for an object.
func rankOf(uses uint8, size int64) int8 {
	const least = -1 - sizeWeight*34 // never used, and 16 GiB
	worth := math.Log2(float64(uses)+0.5) - sizeWeight*math.Log2(float64(max(size, 1)))
	return int8(min(max((worth-least)/rankWidth, 0), ranks-1))
}

func newPolicy() *policy {
	p := &policy{objects: map[string]*object{}, counts: newSketch()}
	for i := range p.lists {
		p.lists[i].init()
	}
	return p
}

// add adds an object, which may be there already.
func (p *policy) add(key string, size int64) *object {
	p.remove(key)
	o := &object{key: key, size: size}
	p.objects[key] = o
	p.place(o)
	return o
}

// place puts an object into the list that is right now, as its most recent one.
func (p *policy) place(o *object) {
	if o.after != nil {
		o.unlink()
	}
	o.rank = rankOf(p.counts.uses(nameOf(o.key)), o.size)
	p.lists[o.rank].push(o)
}

// remove removes an object, which may not be there.
func (p *policy) remove(key string) {
	if o, ok := p.objects[key]; ok {
		o.unlink()
		delete(p.objects, key)
	}
}

// use notes that an object is used, stored or not.
func (p *policy) use(key string, now int64) {
	p.counts.add(nameOf(key))
	if o, ok := p.objects[key]; ok {
		o.used, o.held, o.fresh = now, 0, 0
		p.place(o)
	}
	if p.since++; p.since >= max(agePeriod*len(p.objects), leastPeriod) {
		p.since = 0
		p.counts.halve()
		p.sort()
	}
}

// sort puts all objects into their lists again, in the order of their last use.
func (p *policy) sort() {
	all := make([]*object, 0, len(p.objects))
	for i := range p.lists {
		for o := p.lists[i].root.before; o != &p.lists[i].root; o = o.before {
			all = append(all, o)
		}
	}
	slices.SortStableFunc(all, func(a, b *object) int { return cmp.Compare(a.used, b.used) })
	for _, o := range all {
		p.place(o)
	}
}

// victims yields the objects in the order in which they are to be evicted. The caller may remove the yielded one.
func (p *policy) victims(yield func(*object) bool) {
	for i := range p.lists {
		root := &p.lists[i].root
		for o := root.before; o != root; {
			next := o.before
			if !yield(o) {
				return
			}
			o = next
		}
	}
}

// nameOf returns the name under which the uses of an object are counted: what follows its voucher in the key,
// because another database may vouch for it later.
func nameOf(key string) string {
	if _, path, ok := storage.CutVoucher(key); ok {
		return path
	}
	return key
}
