package content

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
)

// PurgingKind is the kind of the news that a purge has begun. Their subjects are IDs.
const PurgingKind = "purging"

// PurgingState is the state with the purges that are under way, "[]" or nothing if there are none.
const PurgingState = "purging"

// Purging is a purge in a store that several servers may share. It is noted there before anything is removed, until all
// are told of what was: so a process that is killed meanwhile leaves it to the others to finish.
type Purging struct {
	ID     string
	Module module.Version
	Items  []Item
}

// BeginPurge notes that items of a module are about to be removed, and tells other servers. After an error nothing may
// be removed. The caller removes the items, tells other servers of it, and calls EndPurge; where one of these fails,
// FinishPurges of a server does it.
func BeginPurge(ctx context.Context, store storage.Store, board *news.Board, mod module.Version, items []Item) (Purging, error) {
	p := Purging{rand.Text(), mod, items}
	err := changePurging(ctx, store, func(all []Purging) []Purging { return append(all, p) })
	if err == nil {
		err = board.Post(ctx, news.Event{Kind: PurgingKind, Subject: p.ID})
	}
	if err == nil {
		return p, nil
	}
	if left := EndPurge(ctx, store, p); left != nil { // the note may be there although an answer was lost
		return p, fmt.Errorf("note the purge: %w; servers may find the note later, and do the purge", errors.Join(err, left))
	}
	return p, fmt.Errorf("note the purge: %w", err)
}

// EndPurge notes that a purge is finished.
func EndPurge(ctx context.Context, store storage.Store, p Purging) error {
	return changePurging(ctx, store, func(all []Purging) []Purging {
		return slices.DeleteFunc(all, func(other Purging) bool { return other.ID == p.ID })
	})
}

// FinishPurges finishes the purges that are under way, also those of a process that still runs: it removes what is not
// removed yet, and tells the other servers. store is that which they share, without copies.
func FinishPurges(ctx context.Context, store storage.Store, board *news.Board) error {
	all, _, err := purging(ctx, store)
	if err != nil && !errors.Is(err, storage.ErrDamaged) { // the next purge replaces a damaged state
		return err
	}
	var failed error
	for _, p := range all {
		if now, _, err := purging(ctx, store); err == nil && !slices.ContainsFunc(now, func(other Purging) bool { return other.ID == p.ID }) {
			continue // another process has finished it meanwhile
		}
		if err := finishPurge(ctx, store, board, p); err != nil {
			failed = errors.Join(failed, fmt.Errorf("finish the purge of %s: %w", p.Module, err)) // the next one may succeed
		}
	}
	return failed
}

func finishPurge(ctx context.Context, store storage.Store, board *news.Board, p Purging) error {
	items, err := unpurged(ctx, store, p)
	if err == nil {
		_, err = PurgeItems(ctx, store, p.Module, items)
	}
	if err == nil {
		err = TellPurged(ctx, board, p.Items)
	}
	if err == nil {
		err = EndPurge(ctx, store, p)
	}
	return err
}

// unpurged returns the items of p that are in the store, and were not stored again since p began.
func unpurged(ctx context.Context, store storage.Store, p Purging) (items []Item, err error) {
	for _, item := range p.Items {
		switch info, err := store.Stat(ctx, item.Key); {
		case errors.Is(err, fs.ErrNotExist), err == nil && !info.Time.Equal(item.Stored):
		case err != nil && !errors.Is(err, storage.ErrDamaged):
			return nil, err
		default:
			items = append(items, item)
		}
	}
	return items, nil
}

// purging returns the purges that are under way, and the state that has them, nil if there is none.
func purging(ctx context.Context, store storage.Store) (all []Purging, state []byte, err error) {
	state, err = store.State(ctx, PurgingState)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil
	case err != nil:
		return nil, nil, err
	}
	if json.Unmarshal(state, &all) != nil {
		return nil, nil, storage.ErrDamaged
	}
	return all, state, nil
}

// changePurging adds a purge to those that are under way, or removes one.
func changePurging(ctx context.Context, store storage.Store, change func([]Purging) []Purging) error {
	for {
		all, old, err := purging(ctx, store)
		damaged := errors.Is(err, storage.ErrDamaged)
		if err != nil && !damaged {
			return err
		}
		before := len(all)
		all = change(all)
		if len(all) == before {
			return nil // another server has finished it
		}
		value, err := json.Marshal(all)
		if err != nil {
			return err
		}
		if damaged {
			return store.SetState(ctx, PurgingState, value)
		}
		if err := store.SwapState(ctx, PurgingState, old, value); !errors.Is(err, storage.ErrConflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mathrand.N(20 * time.Millisecond)):
		}
	}
}
