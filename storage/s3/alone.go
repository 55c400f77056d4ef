package s3

import (
	"hash/maphash"
	"sync"
)

// alone checks the conditions of requests in this process. It is for an object store that does not keep them, and that
// no other process uses.
type alone struct {
	seed maphash.Seed
	keys [256]sync.Mutex // each for the keys with one hash, held during a request that changes one of them
}

func newAlone() *alone { return &alone{seed: maphash.MakeSeed()} }

// lock waits until no other request changes key. The caller calls unlock at the end of its own.
func (a *alone) lock(key string) (unlock func()) {
	m := &a.keys[maphash.String(a.seed, key)%uint64(len(a.keys))]
	m.Lock()
	return m.Unlock
}
