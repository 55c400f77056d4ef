package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/storage"
)

// leases let one replica at a time fetch an object, while others wait for it. A lease is a small state that its
// owner creates, changes every few seconds, and removes at the end. It says nothing about what is stored: a
// replica that does without one, or takes that of another by mistake, fetches the object once more, and the store
// keeps the first. So nothing here fails: without a lease the object is fetched at once.
//
// No clock decides that an owner is gone, but that its lease has not changed while this replica looked at it.
type leases struct {
	store storage.Store
	alone bool // there are no other replicas, and no leases
	scope *flight.Scope
	life  time.Duration // leaseTime, except in tests

	metrics *leaseMetrics

	mu       sync.Mutex
	answered time.Time // when the store last answered a request for a lease
	without  time.Time // until then there are no leases, because the store is slow
}

const (
	// leaseTime is how long a lease counts that its owner does not change.
	leaseTime = 6 * time.Second

	// leaseRequest is how long a fetch waits for one request about its lease, see leases.request.
	leaseRequest = 2 * time.Second

	// leasePause is how long no fetch asks for a lease after that was too slow, or has failed, and the store has
	// answered no other fetch meanwhile.
	leasePause = 5 * time.Second

	// The first and the longest time between two looks at the lease of another replica.
	firstLook, longestLook = 50 * time.Millisecond, 500 * time.Millisecond

	// leaseRounds is how often a fetch waits for another replica that then has not stored the object: a prediction
	// may have been too large.
	leaseRounds = 3

	// leaseForgotten is the age from which a lease belongs to a replica that was killed, if the clocks agree
	// roughly. It only saves the time to look at it.
	leaseForgotten = time.Hour
)

// turn is what a replica fetches at most once.
type turn struct {
	key      string
	patience time.Duration // how long to wait for another replica that fetches it

	// found reports whether it is in the store.
	found func(ctx context.Context) (bool, error)

	// aside calls wait, which waits for another replica, without a place, and takes a place again if wait returns
	// true. The error says why there is none. It may be nil: there is no place.
	aside func(wait func() (again bool)) error
}

func newLeases(store storage.Store, alone bool, scope *flight.Scope) *leases {
	return &leases{store: store, alone: alone, scope: scope, life: leaseTime, metrics: newLeaseMetrics()}
}

// request returns how long a fetch waits for one request about its lease.
func (l *leases) request() time.Duration { return max(l.life/3, leaseRequest) }

// once calls do, unless t is found in the store, after another replica that does the same has ended.
func (l *leases) once(ctx context.Context, t turn, do func(ctx context.Context) error) error {
	own, found, err := l.await(ctx, t)
	if found || err != nil {
		return err
	}
	if own != nil {
		defer l.release(own)
	}
	if found, err := t.found(ctx); found || err != nil {
		return err
	}
	if own != nil {
		defer l.keep(own)()
	}
	return do(ctx)
}

// await returns a lease, or nil if t is to be done without, or reports that another replica has done it.
func (l *leases) await(ctx context.Context, t turn) (own *lease, found bool, err error) {
	if l.alone {
		return nil, false, nil
	}
	own = newLease(t.key)
	deadline := time.Now().Add(t.patience)
	for range leaseRounds {
		other, got := l.take(ctx, own)
		if got {
			l.metrics.own.Inc()
			return own, false, nil
		}
		if other == nil || other.key != own.key { // there are none now, or the lease of another object has its name
			l.metrics.none.Inc()
			return nil, false, nil
		}
		ended := false
		wait := func() (again bool) {
			if ended = l.watch(ctx, own, *other, deadline); ended {
				found, err = t.found(ctx)
			}
			return !found && err == nil && ctx.Err() == nil
		}
		l.metrics.waiting.Inc()
		var left error
		if t.aside == nil {
			wait()
		} else {
			left = t.aside(wait)
		}
		l.metrics.waiting.Dec()
		if left != nil {
			return nil, false, left
		}
		if err == nil && !found {
			err = context.Cause(ctx)
		}
		switch {
		case found:
			l.metrics.shared.Inc()
		case err == nil && !ended:
			l.metrics.late.Inc()
		}
		if found || err != nil || !ended {
			return nil, found, err
		}
	}
	l.metrics.late.Inc()
	return nil, false, nil
}

// paused reports whether there are no leases now.
func (l *leases) paused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.without)
}

// answer notes whether the store has answered a request for a lease that began at a time.
func (l *leases) answer(begun time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); err == nil {
		l.answered = now
	} else if l.answered.Before(begun) {
		l.without = now.Add(leasePause)
	}
}

// take creates a lease, or returns that of another replica. It returns neither if there are no leases now.
func (l *leases) take(parent context.Context, own *lease) (other *lease, got bool) {
	if l.paused() {
		return nil, false
	}
	begun := time.Now()
	other, got, err := l.swap(parent, own)
	if err == nil {
		l.answer(begun, nil)
		return other, got
	}
	if parent.Err() == nil { // otherwise the fetch has ended, which says nothing about the store
		l.answer(begun, err)
	}
	l.scope.Go(func(context.Context) { l.release(own) }) // it may have been created
	return nil, false
}

// swap is take if there are leases.
func (l *leases) swap(ctx context.Context, own *lease) (other *lease, got bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.request())
	defer cancel()
	err = l.store.SwapState(ctx, own.name, nil, own.value())
	if errors.Is(err, storage.ErrConflict) {
		var value []byte
		if value, err = l.store.State(ctx, own.name); err == nil {
			other := parseLease(own.name, value)
			if other.nonce == own.nonce {
				return nil, true, nil // the answer to our request was lost
			}
			if !other.forgotten() {
				return other, false, nil
			}
			err = l.store.SwapState(ctx, own.name, value, own.value())
		}
	}
	switch {
	case err == nil:
		return nil, true, nil
	case errors.Is(err, storage.ErrConflict), errors.Is(err, fs.ErrNotExist):
		return &lease{name: own.name, key: own.key}, false, nil // it has just changed: look at it
	}
	return nil, false, err
}

// watch waits until the lease of another replica has ended, and reports whether it has.
func (l *leases) watch(ctx context.Context, own *lease, other lease, deadline time.Time) (ended bool) {
	last, since := other.value(), time.Now()
	for pause := firstLook; ; pause = min(pause*3/2, longestLook) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
		value, err := l.look(ctx, own.name)
		now := time.Now()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return true
		case err != nil || now.After(deadline):
			return false
		case parseLease(own.name, value).key != own.key:
			return true // the name belongs to the lease of another object now
		case !bytes.Equal(value, last):
			last, since = value, now
		case now.Sub(since) > l.life:
			return l.remove(ctx, own.name, value)
		}
	}
}

func (l *leases) look(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, l.request())
	defer cancel()
	return l.store.State(ctx, name)
}

// remove removes the lease of a replica that is gone, and reports whether it could.
func (l *leases) remove(ctx context.Context, name string, value []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*l.request())
	defer cancel()
	err := removeLease(ctx, l.store, name, value)
	return err == nil || errors.Is(err, storage.ErrConflict) || errors.Is(err, fs.ErrNotExist)
}

// removeLease removes a lease that has this value. First it swaps it, so that of several replicas one removes it, and none
// that of the next owner.
func removeLease(ctx context.Context, store storage.Store, name string, value []byte) error {
	gone := parseLease(name, value)
	gone.nonce, gone.count = rand.Text(), 0
	if err := store.SwapState(ctx, name, value, gone.value()); err != nil {
		return err
	}
	return store.DeleteState(ctx, name)
}

// SweepLeases removes what killed replicas have left of leases in a store, and returns their number. A lease that is in
// use is younger than leaseForgotten; the loss of one would cost a second fetch, and nothing else.
func SweepLeases(ctx context.Context, store interface {
	storage.Store
	storage.Enumerator
}) (removed int, err error) {
	for name, err := range store.States(ctx, leaseDir) {
		if err != nil {
			return removed, fmt.Errorf("leases: %w", err)
		}
		value, err := store.State(ctx, name)
		if err == nil {
			if !parseLease(name, value).forgotten() {
				continue
			}
			err = removeLease(ctx, store, name, value)
		}
		switch {
		case err == nil:
			removed++
		case errors.Is(err, storage.ErrConflict), errors.Is(err, fs.ErrNotExist): // another replica has taken or removed it
		default:
			return removed, fmt.Errorf("leases: %w", err)
		}
	}
	return removed, nil
}

// keep changes a lease until the returned function is called.
func (l *leases) keep(own *lease) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(l.life / 3):
			}
			old := own.value()
			own.count++
			request, end := context.WithTimeout(ctx, l.life)
			err := l.store.SwapState(request, own.name, old, own.value())
			end()
			if err == nil {
				continue
			}
			value, err := l.look(ctx, own.name) // it may have been changed all the same
			now := parseLease(own.name, value)
			if err == nil && now.nonce != own.nonce || errors.Is(err, fs.ErrNotExist) {
				return // another replica has taken it
			}
			if own.count--; err == nil {
				own.count = now.count
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// release removes an own lease, without waiting.
func (l *leases) release(own *lease) {
	l.scope.Go(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 2*leaseTime)
		defer cancel()
		if value, err := l.store.State(ctx, own.name); err != nil || parseLease(own.name, value).nonce != own.nonce {
			return
		}
		// Another replica may take it at this moment, if it is late. Then it goes on without.
		_ = l.store.DeleteState(ctx, own.name) // otherwise others see that it does not change
	})
}

// leaseDir is what the names of leases begin with.
const leaseDir = "lease/"

// lease is the value of a state:
//
//	lease NONCE COUNT TIME
//	KEY
//
// with the random nonce of its owner, how often the owner has changed it, and the time of the last change in
// seconds since 1970.
type lease struct {
	name, key string
	nonce     string
	count     int
	seconds   int64
}

// newLease makes a lease for a key. There are 65,536 names: what killed replicas leave takes a bounded number of
// states, and is replaced by the next lease with its name.
func newLease(key string) *lease {
	sum := sha256.Sum256([]byte(key))
	return &lease{name: fmt.Sprintf(leaseDir+"%02x/%02x", sum[0], sum[1]), key: key, nonce: rand.Text(), seconds: time.Now().Unix()}
}

func (l *lease) value() []byte {
	return fmt.Appendf(nil, "lease %s %d %d\n%s", l.nonce, l.count, l.seconds, l.key)
}

// parseLease is the inverse of value. What is no lease is one that is forgotten.
func parseLease(name string, value []byte) *lease {
	l := &lease{name: name}
	line, key, _ := bytes.Cut(value, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) != 4 || string(fields[0]) != "lease" {
		return l
	}
	l.key, l.nonce = string(key), string(fields[1])
	l.count, _ = strconv.Atoi(string(fields[2]))
	l.seconds, _ = strconv.ParseInt(string(fields[3]), 10, 64)
	return l
}

// forgotten reports whether the owner of a lease is surely gone.
func (l *lease) forgotten() bool {
	return time.Since(time.Unix(l.seconds, 0)).Abs() > leaseForgotten
}
