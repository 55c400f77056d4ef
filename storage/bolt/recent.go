package bolt

import (
	"maps"
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

// recent has the objects that are in the journal and not yet in the tree, or were put into it a
// moment ago.
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

// all returns all objects by their keys.
func (r *recent) all() map[string]entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return maps.Clone(r.byKey)
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

// around returns the first objects whose keys are not before from, and after the last one those from the
// beginning on: at most so many, and of so many bytes, but at least one if there is any.
func (r *recent) around(from string, objects, bytes int) (found []entry) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	first, _ := slices.BinarySearch(r.keys, from)
	for i := range min(objects, len(r.keys)) {
		e := r.byKey[r.keys[(first+i)%len(r.keys)]]
		if bytes -= len(e.key) + len(e.value); bytes < 0 && i > 0 {
			break
		}
		found = append(found, e)
	}
	return found
}

// remove forgets the objects that around returned, if none was added since.
func (r *recent) remove(found []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(found) == len(r.keys) {
		r.byKey, r.keys, r.bytes = nil, nil, 0
		return
	}
	for _, e := range found {
		delete(r.byKey, e.key)
		r.bytes -= e.size
	}
	first, _ := slices.BinarySearch(r.keys, found[0].key)
	n := min(len(found), len(r.keys)-first)
	r.keys = slices.Delete(r.keys, first, first+n)
	r.keys = slices.Delete(r.keys, 0, len(found)-n)
}
