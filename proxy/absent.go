package proxy

import (
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/assay-proxy/assay/sumdb"
)

// absent remembers for a moment, and only in memory, that an upstream said an
// object does not exist: over https the go command asks twice. It remembers failures of
// checksum databases too.
type absent struct {
	mu      sync.Mutex
	keys    map[absentKey]absence
	cleared time.Time
}

// absentKey is a key as the public or as the private object that it names: they come
// from different places.
type absentKey struct {
	key     checkedKey
	private bool
}

type absence struct {
	err   error
	until time.Time
}

const (
	// absentFor is short, because what is not there is often just about to
	// be pushed. It must stay below a minute.
	absentFor = 20 * time.Second

	// absentPrivateFor is for what comes from a repository, where the push is
	// somebody's here, who wants to see it.
	absentPrivateFor = 5 * time.Second

	// failedFor is how long a failure is remembered, no longer than an upstream may
	// take to be used again after it was in trouble.
	failedFor = 5 * time.Second

	// maxAbsent bounds the memory that a client which asks for nonsense can take, to some
	// 7 MiB: an error has the key, twice, and what the upstream said. With
	// maxInfos, maxChecked, maxPushes and maxNotedAbsences it is less than the 16 MiB
	// that the program has for them.
	maxAbsent = 4000

	// maxAbsentKey is the longest key that is remembered. Nothing that exists
	// has one that is nearly as long, and a client can ask for 30 kB.
	maxAbsentKey = 400
)

// note remembers err if it is an absence; nil is none. What was asked before
// everything was forgotten is not remembered: that may be why.
func (a *absent) note(key string, err error, private bool, asked time.Time) {
	long := absentFor
	if private {
		long = absentPrivateFor
	}
	if errors.Is(err, fs.ErrNotExist) {
		a.keep(key, private, absence{err, time.Now().Add(long)}, asked)
	}
}

// noteFailure remembers an error, of something public, that is no absence and that is not
// decided here.
func (a *absent) noteFailure(key string, err error, asked time.Time) {
	var rule *failure
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, sumdb.ErrFrozen) && !errors.As(err, &rule) {
		a.keep(key, false, absence{err, time.Now().Add(failedFor)}, asked)
	}
}

// keep remembers what is absent or has failed.
func (a *absent) keep(key string, private bool, what absence, asked time.Time) {
	if len(key) > maxAbsentKey {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if asked.Before(a.cleared) {
		return
	}
	now := time.Now()
	if len(a.keys) >= maxAbsent {
		for old, absence := range a.keys {
			if now.After(absence.until) {
				delete(a.keys, old)
			}
		}
	}
	if a.keys == nil || len(a.keys) >= maxAbsent {
		a.keys = map[absentKey]absence{}
	}
	a.keys[absentKey{checkedKeyOf(key), private}] = what
}

// find returns the error that was remembered for key, nil if there is none.
func (a *absent) find(key string, private bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	absence, ok := a.keys[absentKey{checkedKeyOf(key), private}]
	if !ok || time.Now().After(absence.until) {
		return nil
	}
	return absence.err
}

// clear forgets everything.
func (a *absent) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys, a.cleared = nil, time.Now()
}
