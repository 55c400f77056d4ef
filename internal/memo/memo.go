// Package memo keeps a limited number of values in memory. The caller can obtain each
// value again, so any of them can be dropped.
package memo

import (
	"crypto/sha256"
	"sync"
)

// Map is a map of limited size. When it is full it drops the Outdated entries, and if there
// are not enough of them, all entries: an order of use would need a write lock for each
// Get. An entry that is larger than Limit is not kept. The zero value of all fields except
// Limit is an empty Map. Its methods may be called concurrently.
type Map[K comparable, V any] struct {
	Limit    int            // of the number of entries, or of the sum of their sizes
	Size     func(K, V) int // of an entry, always the same; nil: 1
	Outdated func(V) bool   // nil: no entry is

	mu      sync.RWMutex
	entries map[K]V
	used    int // the sum of the sizes
}

// Get returns the value of key, and whether there is one.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	value, ok = m.entries[key]
	return value, ok
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
	value, ok := change(m.entries[key])
	if !ok {
		return
	}
	m.remove(key)
	size := m.size(key, value)
	if size > m.Limit {
		return
	}
	m.makeRoom(size)
	m.entries[key] = value
	m.used += size
}

func (m *Map[K, V]) size(key K, value V) int {
	if m.Size == nil {
		return 1
	}
	return m.Size(key, value)
}

// makeRoom makes room for an entry of a size. The caller holds mu.
func (m *Map[K, V]) makeRoom(size int) {
	if m.Outdated != nil && m.used+size > m.Limit {
		for key, value := range m.entries {
			if m.Outdated(value) {
				m.remove(key)
			}
		}
	}
	if m.entries == nil || m.used+size > m.Limit {
		m.entries, m.used = map[K]V{}, 0
	}
}

// remove is Delete for a caller that holds mu.
func (m *Map[K, V]) remove(key K) {
	if value, ok := m.entries[key]; ok {
		delete(m.entries, key)
		m.used -= m.size(key, value)
	}
}

// Delete removes key.
func (m *Map[K, V]) Delete(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(key)
}

// Used returns the sum of the sizes of all entries.
func (m *Map[K, V]) Used() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.used
}

// Clear removes all entries.
func (m *Map[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries, m.used = nil, 0
}

// Key is a 16-byte hash of a text of any length. A client cannot find another text with
// the same Key.
type Key [16]byte

// KeyOf returns the Key of a text.
func KeyOf(text string) Key {
	sum := sha256.Sum256([]byte(text))
	return Key(sum[:16])
}
