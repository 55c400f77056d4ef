package content

import (
	"errors"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/sumdb"
)

// absent remembers for a moment, and only in memory, that an upstream said an
// object does not exist: over https the go command asks twice. It remembers failures of
// checksum databases too.
type absent struct {
	long time.Duration // for which an absence is remembered
	keys memo.Map[memo.Key, absence]

	mu      sync.Mutex
	cleared time.Time
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
	// that the program has for them. A quarter is for private modules.
	maxAbsent        = 4000
	maxAbsentPrivate = maxAbsent / 4

	// maxAbsentKey is the longest key that is remembered. Nothing that exists
	// has one that is nearly as long, and a client can ask for 30 kB.
	maxAbsentKey = 400
)

func newAbsent(long time.Duration, limit int) *absent {
	a := &absent{long: long}
	a.keys.Limit = limit
	a.keys.Outdated = func(old absence) bool { return time.Now().After(old.until) }
	return a
}

// note remembers err if it is an absence; nil is none. What was asked before
// everything was forgotten is not remembered: that may be why.
func (a *absent) note(key string, err error, asked time.Time) {
	if IsAbsence(err) {
		a.keep(key, absence{err, time.Now().Add(a.long)}, asked)
	}
}

// noteFailure remembers an error that is no absence and that is not decided here.
func (a *absent) noteFailure(key string, err error, asked time.Time) {
	if err != nil && !IsAbsence(err) && !errors.Is(err, sumdb.ErrFrozen) && !decided(err) {
		a.keep(key, absence{err, time.Now().Add(failedFor)}, asked)
	}
}

// keep remembers what is absent or has failed.
func (a *absent) keep(key string, what absence, asked time.Time) {
	if len(key) > maxAbsentKey {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !asked.Before(a.cleared) {
		a.keys.Put(memo.KeyOf(key), what)
	}
}

// find returns the error that was remembered for key, nil if there is none.
func (a *absent) find(key string) error {
	known, ok := a.keys.Get(memo.KeyOf(key))
	if !ok || time.Now().After(known.until) {
		return nil
	}
	return known.err
}

// clear forgets everything.
func (a *absent) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys.Clear()
	a.cleared = time.Now()
}
