// Package memo remembers a bounded number of values in memory. None of them is needed:
// what is forgotten is found out again.
package memo

import (
	"crypto/sha256"
	"sync"
)

// Map is a map of at most Limit entries. When it is full it forgets those that are
// Outdated, and if there are none all of them: an order of use would cost a lock for
// writing at each look. The zero value of all fields but Limit is a Map without entries. Its
// methods may be called at the same time.
type Map[K comparable, V any] struct {
	Limit    int
	Outdated func(V) bool // nil: none is

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

// Change sets the value of key to what change makes of it, and of the zero value if there
// is none, unless change reports false. Nothing else reads or writes the Map meanwhile.
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

// makeRoom makes room for one more entry. It is called with mu held.
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

// Delete forgets key.
func (m *Map[K, V]) Delete(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, key)
}

// Clear forgets everything.
func (m *Map[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = nil
}

// Key stands for a text, however long that is, in 16 bytes that no client can find
// another text for.
type Key [16]byte

// KeyOf returns the Key of a text.
func KeyOf(text string) Key {
	sum := sha256.Sum256([]byte(text))
	return Key(sum[:16])
}
