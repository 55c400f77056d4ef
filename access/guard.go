package access

import (
	"context"
	"crypto/sha256"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// guesses is how many wrong passwords an address has, and guessWindow the time in which it gets
	// them all back, one after the other: a user who mistypes is never slowed, a program has 14,400
	// guesses a day.
	guesses     = 10
	guessWindow = time.Minute
	// wrongKept is how many wrong passwords of an address are remembered, so that repeating them
	// does not count.
	wrongKept = 4
	// maxAddresses bounds the table, at about 20 MB.
	maxAddresses = 1 << 16
	// evictAmong is how many rows of a full table are compared to choose the one to drop. Comparing
	// all of them would make each new address expensive.
	evictAmong = 16
)

// A bucket counts events, and forgets them at a constant rate.
type bucket struct {
	level float64 // at the time at
	at    time.Time
}

// levelAt returns the remaining level at now if max events are forgotten in window.
func (b bucket) levelAt(now time.Time, max float64, window time.Duration) float64 {
	forgotten := max * float64(now.Sub(b.at)) / float64(window)
	return math.Max(0, b.level-math.Max(0, forgotten))
}

// wait returns how long it takes until there is room for one more event, 0 if there is room.
func (b bucket) wait(now time.Time, max float64, window time.Duration) time.Duration {
	over := b.levelAt(now, max, window) - (max - 1)
	if over < 1e-9 { // rounding
		return 0
	}
	return time.Duration(math.Ceil(over / max * float64(window)))
}

// add counts one event.
func (b *bucket) add(now time.Time, max float64, window time.Duration) {
	*b = bucket{b.levelAt(now, max, window) + 1, now}
}

// attempt identifies a user, a password and the hash with which it was compared.
type attempt [sha256.Size]byte

// guard slows down clients that guess passwords. Passwords from one site are tried one after the
// other, so that a thousand concurrent ones are still ten guesses, and a site with many addresses
// does not delay the logins of all others. The same password again is not a guess: a go command
// with an old password sends it twice for each file, and must not slow down the other clients at
// its address.
type guard struct {
	mu   sync.Mutex      // guards rows and their contents
	rows map[string]*row // of addresses, and of sites with many addresses
}

type row struct {
	turn   chan struct{} // of a site: holds one element while one of its passwords is tried
	users  int           // calls between enter and leave; such a row is not dropped
	failed bucket
	wrong  []attempt // the last wrong ones
}

// knows reports whether the same attempt was wrong from the same address before.
func (g *guard) knows(address string, a attempt) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.rows[ClientOf(address)]
	return r != nil && slices.Contains(r.wrong, a)
}

// enter waits until a password from the address may be tried. The caller then calls leave with the
// result. The error is a *slowedError, or wraps ErrUnavailable if ctx ended.
func (g *guard) enter(ctx context.Context, address string, a attempt) (leave func(wrong bool), err error) {
	key, site := ClientOf(address), SiteOf(address)
	r, queue := g.hold(key), g.hold(site)
	release := func() {
		g.release(key, r)
		g.release(site, queue)
	}
	if err := g.slowed(r); err != nil {
		release()
		return nil, err
	}
	select {
	case queue.turn <- struct{}{}:
	case <-ctx.Done():
		release()
		return nil, unavailable("the request ended before its password was tried: %w", context.Cause(ctx))
	}
	if err := g.slowed(r); err != nil { // by passwords that were tried before
		<-queue.turn
		release()
		return nil, err
	}
	return func(wrong bool) {
		if wrong {
			g.fail(r, a)
		}
		release()
		<-queue.turn // the next one is tried only when everything is noted
	}, nil
}

func (g *guard) fail(r *row, a attempt) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.failed.add(time.Now(), guesses, guessWindow)
	if len(r.wrong) == wrongKept {
		r.wrong = slices.Delete(r.wrong, 0, 1)
	}
	r.wrong = append(r.wrong, a)
}

func (g *guard) slowed(r *row) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if wait := r.failed.wait(time.Now(), guesses, guessWindow); wait > 0 {
		return &slowedError{wait}
	}
	return nil
}

// hold returns the row of an address, and keeps it until release.
func (g *guard) hold(key string) *row {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.rows[key]
	if r == nil {
		if len(g.rows) >= maxAddresses {
			g.evict()
		}
		r = &row{turn: make(chan struct{}, 1)}
		g.rows[key] = r
	}
	r.users++
	return r
}

func (g *guard) release(key string, r *row) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.users--
	if r.users == 0 && r.failed.levelAt(time.Now(), guesses, guessWindow) == 0 {
		delete(g.rows, key)
	}
}

// evict drops the row with the fewest failures among a few. Rows in use stay; there are at most as
// many of them as requests. The caller holds mu.
func (g *guard) evict() {
	now := time.Now()
	best, least, compared := "", math.Inf(1), 0
	for key, r := range g.rows { // in random order
		if level := r.failed.levelAt(now, guesses, guessWindow); r.users == 0 && level < least {
			best, least = key, level
		}
		if compared++; compared == evictAmong {
			break
		}
	}
	if !math.IsInf(least, 1) {
		delete(g.rows, best)
	}
}
