package content

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/sumdb"
)

// absent remembers for a moment, and only in memory, that an upstream stated the absence
// of an object: over https the go command requests it twice. It remembers failures of
// checksum databases too.
type absent struct {
	long time.Duration // how long an absence is remembered
	keys memo.Map[memo.Key, absence]

	mu      sync.Mutex
	cleared time.Time
}

type absence struct {
	err   error
	until time.Time
}

const (
	// absentFor is short, because an absent version is often about to be pushed. It must
	// stay below a minute.
	absentFor = 20 * time.Second

	// absentPrivateFor is for repositories: users of this proxy push to them, and want to
	// see the new version.
	absentPrivateFor = 5 * time.Second

	// failedFor is how long a failure is remembered: no longer than it can take until an
	// upstream is used again after an outage.
	failedFor = 5 * time.Second

	// maxAbsent limits the memory that a client can use up by requesting nonsense, to
	// some 7 MiB: an error has the key, twice, and the text of the upstream. Together
	// with maxInfos, maxChecked, maxPushes and maxNotedAbsences this is less than the 16
	// MiB that the program reserves for them. A quarter is for private modules.
	maxAbsent        = 4000
	maxAbsentPrivate = maxAbsent / 4

	// maxAbsentKey is the longest key that is remembered. Real keys are much shorter, but
	// a client can request 30 kB.
	maxAbsentKey = 400
)

func newAbsent(long time.Duration, limit int) *absent {
	a := &absent{long: long}
	a.keys.Limit = limit
	a.keys.Outdated = func(old absence) bool { return time.Now().After(old.until) }
	return a
}

// note remembers err if it is an absence; nil is none. It ignores requests from before
// the last clear: their answers may be outdated.
func (a *absent) note(key string, err error, asked time.Time) {
	if IsAbsence(err) {
		a.keep(key, absence{err, time.Now().Add(a.long)}, asked)
	}
}

// noteFailure remembers an error that is neither an absence nor a decision of this
// program.
func (a *absent) noteFailure(key string, err error, asked time.Time) {
	if err != nil && !IsAbsence(err) && !errors.Is(err, sumdb.ErrFrozen) && !decided(err) {
		a.keep(key, absence{err, time.Now().Add(failedFor)}, asked)
	}
}

// keep remembers an absence or a failure.
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

// find returns the remembered error for key, nil if there is none.
func (a *absent) find(ctx context.Context, key string) error {
	known, ok := a.keys.Get(memo.KeyOf(key))
	if !ok || time.Now().After(known.until) {
		return nil
	}
	spans.Note(ctx, spans.NegativeHit)
	return known.err
}

// clear removes all entries.
func (a *absent) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys.Clear()
	a.cleared = time.Now()
}
