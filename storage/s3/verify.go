package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/storage"
)

// verifyAhead is how many objects Verify reads at a time.
const verifyAhead = 8

// Verify implements storage.Verifier. It reads all contents, those that several replicas store meanwhile too. Contents
// to which no record refers are no damage: Collect deletes them.
func (db *DB) Verify(ctx context.Context, o storage.VerifyOptions) (storage.Verified, error) {
	v := &verifier{db: db, options: o}
	err := v.each(ctx, db.Keys(ctx, ""), v.object)
	if err == nil {
		err = v.each(ctx, db.States(ctx, ""), v.state)
	}
	if err != nil {
		return v.Verified, fmt.Errorf("verify the store in %s: %w", db.Place(), err)
	}
	return v.Verified, nil
}

// States implements storage.Enumerator. It sends a request for 1,000 states.
func (db *DB) States(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := db.check(ctx); err != nil {
			yield("", fmt.Errorf("list the states %.200q: %w", prefix, err))
			return
		}
		for key, err := range db.records.keys(ctx, states+prefix) {
			if err != nil {
				yield("", fmt.Errorf("list the states %.200q: %w", prefix, err))
				return
			}
			if name := key[len(states):]; storage.CheckKey(name) == nil && !yield(name, nil) {
				return
			}
		}
	}
}

// verifier is one run of Verify.
type verifier struct {
	db      *DB
	options storage.VerifyOptions

	mu sync.Mutex // held while the fields below change, and while the functions of options run
	storage.Verified
}

// each calls check for each name, for some at a time.
func (v *verifier) each(ctx context.Context, names iter.Seq2[string, error], check func(ctx context.Context, name string) error) error {
	group, checking := errgroup.WithContext(ctx)
	group.SetLimit(verifyAhead)
	for name, err := range names {
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		if checking.Err() != nil {
			break
		}
		group.Go(func() error { return check(checking, name) })
	}
	return group.Wait()
}

// object reads an object. Only damage is counted; an error of the store ends Verify.
func (v *verifier) object(ctx context.Context, key string) error {
	size, err := v.read(ctx, key)
	switch {
	case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		return nil
	case errors.Is(err, storage.ErrDamaged):
		repair := func() error { return v.db.Delete(ctx, key) }
		if strings.HasPrefix(key, storage.LogPrefix) {
			repair = nil // what follows an entry of the own log would be signed with another one in its place
		}
		v.found(key, err, repair)
		return nil
	case err != nil:
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Objects++
	v.Bytes += size
	if v.options.Progress != nil {
		v.options.Progress(v.Verified)
	}
	return nil
}

func (v *verifier) read(ctx context.Context, key string) (size int64, err error) {
	object, err := v.db.Open(ctx, key)
	if err != nil {
		return 0, err
	}
	defer object.Close()
	return object.WriteTo(io.Discard)
}

func (v *verifier) state(ctx context.Context, name string) error {
	_, err := v.db.State(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, storage.ErrDamaged):
		v.found("state "+name, err, nil) // the part of the program that has it decides what its loss means
		return nil
	case err != nil:
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.States++
	return nil
}

// found counts and reports a Damage, and repairs it if the options say so and repair is not nil.
func (v *verifier) found(key string, damage error, repair func() error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := storage.Damage{Key: key, Err: damage}
	if v.options.Repair && repair != nil {
		if err := repair(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.Err = fmt.Errorf("%w (and the repair failed: %w)", damage, err)
		} else {
			d.Repaired = true
			v.Repaired++
		}
	}
	v.Damaged++
	if v.options.Damage != nil {
		v.options.Damage(d)
	}
}
