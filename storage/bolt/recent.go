package bolt

import (
	"slices"
	"strings"
	"sync"
)

// entry is an object that is to be stored, with its record.
type entry struct {
	key   string
	size  int64 // of its content
	value []byte
}

// recent has the objects that are in the journal and perhaps not yet in the tree.
type recent struct {
	mu    sync.RWMutex
	byKey map[string]entry
	keys  []string // of byKey, sorted
	bytes int64    // of the content of the objects
}

// get returns the record of an object, nil if it is not recent.
func (r *recent) get(key string) []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byKey[key].value
}

// from returns the first n objects whose keys are not before from and begin with prefix.
func (r *recent) from(from, prefix string, n int) (found []entry) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	i, _ := slices.BinarySearch(r.keys, from)
	for ; i < len(r.keys) && len(found) < n && strings.HasPrefix(r.keys[i], prefix); i++ {
		found = append(found, r.byKey[r.keys[i]])
	}
	return found
}

// totals returns the number of objects and the bytes of their content.
func (r *recent) totals() (objects, bytes int64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int64(len(r.keys)), r.bytes
}

func (r *recent) add(entries []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byKey == nil {
		r.byKey = map[string]entry{}
	}
	for _, e := range entries {
		i, _ := slices.BinarySearch(r.keys, e.key)
		r.keys = slices.Insert(r.keys, i, e.key)
		r.byKey[e.key] = e
		r.bytes += e.size
	}
}

// reset forgets all objects.
func (r *recent) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byKey, r.keys, r.bytes = nil, nil, 0
}
