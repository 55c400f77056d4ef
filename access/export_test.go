package access

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// ErrSlowed and SlowedError are these errors.
var ErrSlowed = errSlowed

type SlowedError = slowedError

// CountWork returns a counter of the work for passwords from now on, in rounds of bcrypt: 2^cost
// for each.
func CountWork(a *Authenticator) *atomic.Int64 {
	work, hash := new(atomic.Int64), a.passwords.hash
	a.passwords.hash = func(h, password []byte) error {
		cost, err := bcrypt.Cost(h)
		if err != nil {
			panic(err) // a hash without a cost would need no work
		}
		work.Add(1 << cost)
		return hash(h, password)
	}
	return work
}

// NoWork makes every password wrong, immediately.
func NoWork(a *Authenticator) {
	a.passwords.hash = func([]byte, []byte) error { return bcrypt.ErrMismatchedHashAndPassword }
}

// SlowWork makes every password wrong, after a time.
func SlowWork(a *Authenticator, each time.Duration) {
	a.passwords.hash = func([]byte, []byte) error {
		time.Sleep(each)
		return bcrypt.ErrMismatchedHashAndPassword
	}
}

// Addresses returns the number of addresses in the table.
func Addresses(a *Authenticator) int {
	a.passwords.guard.mu.Lock()
	defer a.passwords.guard.mu.Unlock()
	return len(a.passwords.guard.rows)
}

// Remembered returns how many verified tokens of issuers are remembered.
func Remembered(a *Authenticator) int {
	all := a.oidc.Get()
	all.mu.Lock()
	defer all.mu.Unlock()
	return len(all.judged)
}

// Reload puts the current files into force, or changes nothing.
func (a *Authenticator) Reload(ctx context.Context) error {
	commit, err := a.Prepare(ctx)
	if err == nil {
		commit()
	}
	return err
}
