package sumdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// forks is the evidence of forks that the replicas of a store share: one small state. All of it is
// read when a replica changes its head, so it has no other kinds of evidence.
type forks struct {
	objects *objects
}

// sharedFork is the evidence of one fork.
type sharedFork struct {
	File    string    `json:"file"` // the name of the evidence file, without its kind
	Text    string    `json:"text"`
	Cleared time.Time `json:"cleared,omitzero"` // when an administrator has cleared it
	Reason  string    `json:"reason,omitempty"` // of that
}

func (f sharedFork) open() bool { return f.Cleared.IsZero() }

const (
	// mostCleared is how many cleared forks the state keeps. A replica that returns with the file of an
	// older one freezes all of them again.
	mostCleared = 50

	maxChanges = 30 // of the state, in the race with other replicas
)

// name returns the name of the state.
func (s *forks) name() string { return s.objects.key("forks") }

// read returns what the replicas have found, the oldest first. The error is storage.ErrDamaged if the
// state is not such a list.
func (s *forks) read(ctx context.Context) ([]sharedFork, error) {
	found, _, err := s.state(ctx)
	return found, err
}

func (s *forks) state(ctx context.Context) (found []sharedFork, state []byte, err error) {
	state, err = s.objects.store.State(ctx, s.name())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if state == nil {
		state = []byte{} // there is a state, and it is empty
	}
	if err := json.Unmarshal(state, &found); err != nil {
		return nil, state, fmt.Errorf("%s: %w: %v", s.name(), storage.ErrDamaged, err)
	}
	for _, f := range found {
		if !isEvidence(s.objects.name, f.File) { // it would be the name of a file
			return nil, state, fmt.Errorf("%s: %w: no evidence is named %.100q", s.name(), storage.ErrDamaged, f.File)
		}
	}
	return found, state, nil
}

// change replaces the list by what edit makes of it. With over it replaces a damaged state, too.
func (s *forks) change(ctx context.Context, over bool, edit func([]sharedFork) []sharedFork) ([]sharedFork, error) {
	for range maxChanges {
		old, state, err := s.state(ctx)
		if err != nil && (!over || !errors.Is(err, storage.ErrDamaged)) {
			return nil, err
		}
		found := withoutOld(edit(slices.Clone(old)))
		value, e := json.Marshal(found)
		if e != nil {
			return nil, e
		}
		if err == nil && (bytes.Equal(value, state) || state == nil && len(found) == 0) {
			return found, nil
		}
		if err != nil && state == nil { // the store cannot read it, so it cannot be compared
			err = s.objects.store.SetState(ctx, s.name(), value)
		} else {
			err = s.objects.store.SwapState(ctx, s.name(), state, value)
		}
		if !errors.Is(err, storage.ErrConflict) {
			return found, err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: %w, again and again", s.name(), storage.ErrConflict)
}

// withoutOld returns found without the oldest cleared forks, if there are many.
func withoutOld(found []sharedFork) []sharedFork {
	cleared := 0
	for _, f := range found {
		if !f.open() {
			cleared++
		}
	}
	return slices.DeleteFunc(found, func(f sharedFork) bool {
		if f.open() || cleared <= mostCleared {
			return false
		}
		cleared--
		return true
	})
}

// withForks returns found with those of more that it lacks.
func withForks(found, more []sharedFork) []sharedFork {
	for _, f := range without(slices.Clone(more), found) {
		f.Text = f.Text[:min(len(f.Text), mostText)]
		found = append(found, f)
	}
	return found
}

// without returns those of all that found lacks.
func without(all, found []sharedFork) []sharedFork {
	return slices.DeleteFunc(all, func(f sharedFork) bool {
		return slices.ContainsFunc(found, func(known sharedFork) bool { return known.File == f.File })
	})
}

// asForks returns the evidence in files, without its text.
func asForks(files []string) (all []sharedFork) {
	for _, file := range files {
		all = append(all, sharedFork{File: file})
	}
	return all
}

// pause waits for a random time up to most: writers that met each other do not meet again.
func pause(ctx context.Context, most time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(most)):
		return nil
	}
}
