// Package memo keeps a limited number of values in memory, above all those that are requested again.
// The caller can obtain each value again, so any of them can be dropped.
package memo

import (
	"crypto/sha256"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// Map is a map of limited size, in which what is requested again stays, and what is requested once
// passes through: docs/design/memory.md has the reasons, and what is not promised. When it is full it
// drops Outdated entries, then the oldest of those that were not requested again. An entry is not
// kept if it is larger than Limit, or if most of the others were requested again just now. Get takes a
// lock that its callers share, and does not allocate. The zero value of all fields except Limit is an
// empty Map. Its methods may be called concurrently.
type Map[K comparable, V any] struct {
	Limit    int            // of the number of entries, or of the sum of their sizes
	Size     func(K, V) int // of an entry, always the same; nil: 1
	Outdated func(V) bool   // nil: no entry is

	mu      sync.RWMutex
	index   map[K]int32   // of entries
	entries []entry[K, V] // the first ones are the ends of the rings
	unused  int32         // the first one without a value, 0 if there is none; its next is the second
	used    [rings]int    // the sums of the sizes
	puts    uint32        // of new keys
	swept   uint32        // puts, when the outdated entries were dropped
	past    []uint32      // hashes of keys that were dropped from fresh; nil: none was
	seed    maphash.Seed  // of the hashes in past
}

// entry is a key with its value, in a ring: one place for each key, without a pointer to it, makes an
// entry small, and the garbage collector need not look for pointers in a Map that has none.
type entry[K comparable, V any] struct {
	key   K
	value V
	put   uint32 // Map.puts, when the key was new
	stays uint32 // how often it stays when its turn comes; callers of Get set it at the same time

	ring       ring
	prev, next int32
}

// ring is a circular list of entries in the order in which their turn comes, and the index of its end.
type ring = int32

const (
	fresh  ring = iota // new entries
	proven             // entries that were requested again while they were in fresh, or soon after
	rings
)

const (
	// freshShare is the part of the Map that proven leaves to fresh, where an entry has to wait for
	// its second request.
	freshShare = 4

	// togetherShare is the part of the entries that are so new that a request does not count: clients
	// with the same requests send them at nearly the same time.
	togetherShare = 32

	// requestedStays is how often the turn of a proven entry comes after a request until it is dropped.
	requestedStays = 3

	// maxStaying limits the entries that one Put looks at in vain, so that it is short.
	maxStaying = 256
)

// Get returns the value of key, and whether there is one.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	at, ok := m.index[key]
	if !ok {
		return value, false
	}
	e := &m.entries[at]
	m.request(e)
	return e.value, true
}

// request notes a request of e. The caller holds mu, perhaps with others. An entry that is requested
// often is only read, so that the caches of several processors share it.
func (m *Map[K, V]) request(e *entry[K, V]) {
	if atomic.LoadUint32(&e.stays) < requestedStays && m.puts-e.put > uint32(len(m.index)/togetherShare) {
		atomic.StoreUint32(&e.stays, requestedStays)
	}
}

// Put sets the value of key.
func (m *Map[K, V]) Put(key K, value V) {
	m.Change(key, func(V) (V, bool) { return value, true })
}

// Change calls change with the value of key, the zero value if there is none, and sets
// the value to its result, unless change returns false. The Map is locked meanwhile.
func (m *Map[K, V]) Change(key K, change func(old V) (V, bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := entry[K, V]{key: key, put: m.puts + 1, ring: fresh}
	at, known := m.index[key]
	if known {
		m.request(&m.entries[at])
		e = m.entries[at]
	}
	value, ok := change(e.value)
	if !ok {
		return
	}
	e.value = value
	if known {
		m.drop(at)
	} else {
		m.puts++
		if m.remembers(key) {
			e.ring = proven
		}
	}
	if size := m.size(&e); size <= m.Limit && m.makeRoom(size) {
		m.add(e)
	}
}

func (m *Map[K, V]) size(e *entry[K, V]) int {
	if m.Size == nil {
		return 1
	}
	return m.Size(e.key, e.value)
}

// makeRoom makes room for an entry of a size, and reports whether there is room now. The caller holds
// mu. Entries that are requested once pass through fresh, however many they are: only if fresh has
// less than its share, because many entries were requested again, proven loses some.
func (m *Map[K, V]) makeRoom(size int) bool {
	for staying := 0; m.sum()+size > m.Limit; {
		if m.Outdated != nil && int(m.puts-m.swept) >= len(m.index) {
			m.dropOutdated()
			continue
		}
		from := proven
		if !m.empty(fresh) && (m.empty(proven) || m.used[fresh]+size > m.Limit/freshShare) {
			from = fresh
		}
		at := m.entries[from].next
		e := &m.entries[at]
		if e.stays == 0 || m.Outdated != nil && m.Outdated(e.value) {
			if from == fresh {
				m.remember(e.key)
			}
			m.drop(at)
			continue
		}
		if staying++; staying > maxStaying {
			return false
		}
		if e.stays--; from == fresh {
			e.stays = 0 // until it is requested there
		}
		m.unlink(at)
		m.link(at, proven)
	}
	return true
}

// remember remembers that key was dropped from fresh. Of about as many keys as there are entries, it
// remembers most, in four bytes each.
func (m *Map[K, V]) remember(key K) {
	if len(m.index) > 2*len(m.past) {
		m.past, m.seed = make([]uint32, len(m.index)), maphash.MakeSeed()
	}
	slot, mark := m.mark(key)
	*slot = mark
}

// remembers reports whether key was dropped from fresh, and no other key of its slot after it.
func (m *Map[K, V]) remembers(key K) bool {
	if m.past == nil {
		return false
	}
	slot, mark := m.mark(key)
	return *slot == mark
}

// mark returns the slot of past for a key, and what stands for the key in it.
func (m *Map[K, V]) mark(key K) (slot *uint32, mark uint32) {
	hash := maphash.Comparable(m.seed, key)
	return &m.past[hash%uint64(len(m.past))], uint32(hash >> 32)
}

// dropOutdated drops the outdated entries. It looks at all, therefore it is called once for as many new
// keys.
func (m *Map[K, V]) dropOutdated() {
	m.swept = m.puts
	for _, at := range m.index {
		if m.Outdated(m.entries[at].value) {
			m.drop(at)
		}
	}
}

// add adds an entry for whose key there is none. The caller holds mu.
func (m *Map[K, V]) add(e entry[K, V]) {
	if m.index == nil {
		m.index, m.entries = map[K]int32{}, make([]entry[K, V], rings)
		for end := range rings {
			m.entries[end].prev, m.entries[end].next = end, end
		}
	}
	at := m.unused
	if at == 0 {
		at = int32(len(m.entries))
		m.entries = append(m.entries, e)
	} else {
		m.unused = m.entries[at].next
		m.entries[at] = e
	}
	m.index[e.key] = at
	m.link(at, e.ring)
}

// drop removes the entry at an index. The caller holds mu.
func (m *Map[K, V]) drop(at int32) {
	m.unlink(at)
	delete(m.index, m.entries[at].key)
	m.entries[at] = entry[K, V]{next: m.unused} // releases what it refers to
	m.unused = at
}

// link puts an entry at the end of a ring.
func (m *Map[K, V]) link(at int32, to ring) {
	e := &m.entries[at]
	e.ring, e.prev, e.next = to, m.entries[to].prev, to
	m.entries[e.prev].next, m.entries[to].prev = at, at
	m.used[to] += m.size(e)
}

// unlink removes an entry from its ring.
func (m *Map[K, V]) unlink(at int32) {
	e := &m.entries[at]
	m.entries[e.prev].next, m.entries[e.next].prev = e.next, e.prev
	m.used[e.ring] -= m.size(e)
}

func (m *Map[K, V]) empty(r ring) bool { return m.entries[r].next == r }

// sum returns the sum of the sizes of all entries.
func (m *Map[K, V]) sum() int { return m.used[fresh] + m.used[proven] }

// Delete removes key.
func (m *Map[K, V]) Delete(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.index[key]; ok {
		m.drop(at)
	}
}

// Used returns the sum of the sizes of all entries.
func (m *Map[K, V]) Used() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.sum()
}

// Clear removes all entries.
func (m *Map[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index, m.entries, m.unused, m.used, m.past = nil, nil, 0, [rings]int{}, nil
}

// Key is a 16-byte hash of a text of any length. A client cannot find another text with
// the same Key.
type Key [16]byte

// KeyOf returns the Key of a text.
func KeyOf(text string) Key {
	sum := sha256.Sum256([]byte(text))
	return Key(sum[:16])
}
