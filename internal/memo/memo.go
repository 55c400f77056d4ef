// Package memo keeps a limited number of values in memory. The caller can obtain each
// value again, so any of them can be dropped.
package memo

import (
	"crypto/sha256"
	"sync"
)

// Map is a map of at most Limit entries. When it is full it drops the Outdated entries,
// and if there are none, all of them: an order of use would need a write lock for each
// Get. The zero value of all fields except Limit is an empty Map. Its methods may be
// called concurrently.
type Map[K comparable, V any] struct {
	Limit    int
	Outdated func(V) bool // nil: no entry is

	mu      sync.RWMutex
	entries map[K]V
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
	if _, known := m.entries[key]; !known {
		m.makeRoom()
	}
	m.entries[key] = value
}

// makeRoom makes room for one more entry. The caller holds mu.
func (m *Map[K, V]) makeRoom() {
	if m.Outdated != nil && len(m.entries) >= m.Limit {
		for key, value := range m.entries {
			if m.Outdated(value) {
				delete(m.entries, key)
			}
		}
	}
	if m.entries == nil || len(m.entries) >= m.Limit {
		m.entries = map[K]V{}
	}
}

// Delete removes key.
func (m *Map[K, V]) Delete(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, key)
}

// Clear removes all entries.
func (m *Map[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = nil
}

// Key is a 16-byte hash of a text of any length. A client cannot find another text with
// the same Key.
type Key [16]byte

// KeyOf returns the Key of a text.
func KeyOf(text string) Key {
	sum := sha256.Sum256([]byte(text))
	return Key(sum[:16])
}
