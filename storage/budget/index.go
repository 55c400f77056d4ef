package budget

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// index has the objects that may be evicted, and how they are used.
type index struct {
	keep func(ctx context.Context, info storage.Info) (string, error)

	mu       sync.Mutex
	policy   *policy
	bytes    int64            // of all objects
	small    int64            // of those that are not large
	kept     map[string]int64 // bytes of the objects that are not evicted, by the reason, at the last load
	keptFile int64            // of those that are large
	changed  bool             // since it was saved
}

// freshFor is how long an object that was not read since it was stored is worth as much as if it had been, in
// seconds: the client that waits for it reads it at once. It is not spared then, because it may be a prediction, and
// many of those must displace nothing that is used more.
const freshFor = 30

func newIndex(keep func(context.Context, storage.Info) (string, error)) *index {
	if keep == nil {
		keep = func(context.Context, storage.Info) (string, error) { return "", nil }
	}
	return &index{keep: keep, policy: newPolicy(), kept: map[string]int64{}}
}

// load lists a store.
func (x *index) load(ctx context.Context, store storage.Store) error {
	uses, err := loadUses(ctx, store)
	if err != nil {
		return err
	}
	kept, keptFile := map[string]int64{}, int64(0)
	var found []storage.Info
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return err
		}
		reason, err := x.keep(ctx, info)
		if err != nil {
			return err
		}
		if reason == "" {
			found = append(found, info)
			continue
		}
		kept[reason] += info.Size
		if info.Size > storage.MaxSmall {
			keptFile += info.Size
		}
	}
	slices.SortStableFunc(found, func(a, b storage.Info) int { return cmp.Compare(usedAt(uses, a), usedAt(uses, b)) })
	x.mu.Lock()
	defer x.mu.Unlock()
	x.kept, x.keptFile = kept, keptFile
	for _, info := range found {
		if _, ok := x.policy.objects[info.Key]; ok {
			continue
		}
		x.policy.counts.set(nameOf(info.Key), uses[nameHash(info.Key)].count)
		x.add(info).used = usedAt(uses, info)
	}
	return nil
}

// usedAt returns when an object was used last.
func usedAt(uses map[uint64]useOf, info storage.Info) int64 {
	return max(uses[nameHash(info.Key)].at, info.Time.Unix())
}

// add adds an object. The caller holds mu.
func (x *index) add(info storage.Info) *object {
	x.remove(info.Key)
	x.count(info.Size)
	return x.policy.add(info.Key, info.Size)
}

// remove removes an object, which may not be there. The caller holds mu.
func (x *index) remove(key string) {
	if o, ok := x.policy.objects[key]; ok {
		x.policy.remove(key)
		x.count(-o.size)
	}
}

// count adds the size of an object, or subtracts it.
func (x *index) count(size int64) {
	x.bytes += size
	if size <= storage.MaxSmall && size >= -storage.MaxSmall {
		x.small += size
	}
	x.changed = true
}

// stored notes an object that was stored.
func (x *index) stored(ctx context.Context, info storage.Info) {
	if reason, err := x.keep(ctx, info); reason != "" || err != nil {
		return // an object that is not known to be evictable is found by the next load
	}
	now := time.Now().Unix()
	x.mu.Lock()
	defer x.mu.Unlock()
	open := int32(0)
	if old, ok := x.policy.objects[info.Key]; ok {
		open = old.open
	}
	o := x.add(info)
	o.used, o.fresh, o.open = now, now+freshFor, open
}

// removed notes an object that was deleted.
func (x *index) removed(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(key)
}

// passed notes the use of an object that is not stored.
func (x *index) passed(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.policy.use(key, time.Now().Unix())
}

// opened notes that an object is being read, and reports whether it is one that may be evicted.
func (x *index) opened(key string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	o, ok := x.policy.objects[key]
	if ok {
		o.open++
		x.changed = true
		x.policy.use(key, time.Now().Unix())
	}
	return ok
}

// closed notes the end of what opened began.
func (x *index) closed(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if o, ok := x.policy.objects[key]; ok && o.open > 0 {
		o.open--
	}
}

// rankOf returns the rank that an object will have after its first use.
func (x *index) rankOf(info storage.Info) int8 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.usedRank(info.Key, info.Size)
}

// usedRank is rankOf. The caller holds mu.
func (x *index) usedRank(key string, size int64) int8 {
	return rankOf(min(x.policy.counts.uses(nameOf(key))+1, mostUses), size)
}

// victim is an object that is to be evicted.
type victim struct {
	key  string
	size int64
	used int64 // it is evicted only if it was not used since this time, in seconds; 0: whenever it was used
}

// victims returns at most n objects, of n bytes if possible, in the order in which they are to be evicted. Their
// rank is below the given one, or of it. None is held or open.
func (x *index) victims(most int, bytes int64, below int8, large bool) (found []victim) {
	now := time.Now().Unix()
	x.mu.Lock()
	defer x.mu.Unlock()
	full := func() bool { return len(found) == most || bytes <= 0 }
	take := func(o *object) {
		found = append(found, victim{key: o.key, size: o.size})
		bytes -= o.size
	}
	var fresh []*object // they come after others of the rank that they have when they are read
	takeFresh := func(below int8) {
		for len(fresh) > 0 && !full() && x.usedRank(fresh[0].key, fresh[0].size) < below {
			take(fresh[0])
			fresh = fresh[1:]
		}
	}
	for o := range x.policy.victims {
		if o.rank > below {
			break
		}
		if takeFresh(o.rank); full() {
			break
		}
		switch {
		case o.open > 0 || o.held > now || large && o.size <= storage.MaxSmall:
		case o.fresh <= now:
			take(o)
		case len(fresh) < most:
			fresh = append(fresh, o)
		}
	}
	takeFresh(below + 1)
	return found
}

// old returns the objects that were not used since a time, in seconds, in the order of their last use. None is held or
// open.
func (x *index) old(since int64) (found []victim) {
	now := time.Now().Unix()
	x.mu.Lock()
	for _, o := range x.policy.objects {
		if o.used < since && o.open == 0 && max(o.held, o.fresh) <= now {
			found = append(found, victim{o.key, o.size, o.used})
		}
	}
	x.mu.Unlock()
	slices.SortFunc(found, func(a, b victim) int { return cmp.Compare(a.used, b.used) })
	return found
}

// sample returns at most n objects that are chosen at random.
func (x *index) sample(n int) (found []victim) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range x.policy.objects { // in another order each time
		if len(found) == n {
			break
		}
		found = append(found, victim{key: o.key, size: o.size})
	}
	return found
}

// hold makes an object no victim for some seconds.
func (x *index) hold(key string, seconds int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if o, ok := x.policy.objects[key]; ok {
		o.held = time.Now().Unix() + seconds
	}
}

// free reports whether a victim is stored, no reader has it open, and it was not used since it became one because of
// its age.
func (x *index) free(v victim) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	o, ok := x.policy.objects[v.key]
	return ok && o.open == 0 && (v.used == 0 || o.used <= v.used)
}

// report returns the numbers of the index.
func (x *index) report() Report {
	x.mu.Lock()
	defer x.mu.Unlock()
	return Report{Evictable: x.bytes, Objects: int64(len(x.policy.objects)), Kept: maps.Clone(x.kept)}
}

// save writes the uses into a state if they have changed.
func (x *index) save(ctx context.Context, store storage.Store) error {
	value := x.encode()
	if value == nil {
		return nil
	}
	return store.SetState(ctx, usesState, value)
}

// encode returns the state, nil if it has not changed.
func (x *index) encode() []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.changed {
		return nil
	}
	x.changed = false
	all := slices.SortedFunc(maps.Values(x.policy.objects), func(a, b *object) int { return cmp.Compare(b.used, a.used) })
	var hashes []uint64
	var uses []useOf
	for _, o := range all[:min(len(all), mostSaved)] {
		hashes = append(hashes, nameHash(o.key))
		uses = append(uses, useOf{x.policy.counts.uses(nameOf(o.key)), o.used})
	}
	return encodeUses(hashes, uses)
}
