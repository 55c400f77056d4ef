package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/storage"
)

// leakState is a state of the store in which each replica saves its list of leaks for the others.
type leakState struct {
	store   storage.Store
	log     *slog.Logger
	own     *leaks
	replica string // the random name of this process

	mu      sync.Mutex
	saving  bool
	closing chan struct{} // closed by close
	saved   sync.WaitGroup
}

// leakList is the list of one replica.
type leakList struct {
	Replica string
	Saved   time.Time
	Leaks   []Leak
}

const (
	leakStateName = "leaks"

	// leakPause is the time from a leak until the list is saved, with those that come meanwhile.
	leakPause = 30 * time.Second

	// leakSaveTime is how long saving may take.
	leakSaveTime = 20 * time.Second

	// Limits of the state, some 4 MiB: replicas, rows of each, and the age of the list of one that has ended.
	maxLeakLists   = 32
	maxSavedLeaks  = 200
	maxLeakListAge = 24 * time.Hour
)

func newLeakState(store storage.Store, own *leaks, log *slog.Logger) *leakState {
	return &leakState{store: store, own: own, log: log, replica: rand.Text(), closing: make(chan struct{})}
}

// changed saves the list of this replica after a pause. A nil leakState does nothing.
func (s *leakState) changed() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.saving || s.isClosed() {
		return
	}
	s.saving = true
	s.saved.Go(s.saveLater)
}

func (s *leakState) saveLater() {
	select {
	case <-time.After(leakPause):
	case <-s.closing:
	}
	s.mu.Lock()
	s.saving = false // what comes from now on is saved again
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), leakSaveTime)
	defer cancel()
	if err := s.save(ctx); err != nil {
		s.log.Warn("the list of leaks is not saved for other replicas; it is saved with the next leak", "err", err)
	}
}

func (s *leakState) isClosed() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// close saves what is not saved yet. A nil leakState does nothing.
func (s *leakState) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	if !s.isClosed() {
		close(s.closing)
	}
	s.mu.Unlock()
	s.saved.Wait()
}

// save puts the list of this replica beside those of the others, without old ones.
func (s *leakState) save(ctx context.Context) error {
	for {
		old, lists, err := s.read(ctx)
		damaged := errors.Is(err, storage.ErrDamaged)
		if err != nil && !damaged {
			return err
		}
		value, err := json.Marshal(s.with(lists, time.Now()))
		if err != nil {
			return err
		}
		if damaged {
			return s.store.SetState(ctx, leakStateName, value)
		}
		if err := s.store.SwapState(ctx, leakStateName, old, value); !errors.Is(err, storage.ErrConflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mathrand.N(20 * time.Millisecond)):
		}
	}
}

// with returns lists with that of this replica.
func (s *leakState) with(lists []leakList, now time.Time) []leakList {
	lists = slices.DeleteFunc(lists, func(l leakList) bool {
		return l.Replica == s.replica || now.Sub(l.Saved).Abs() > maxLeakListAge
	})
	slices.SortFunc(lists, func(a, b leakList) int { return b.Saved.Compare(a.Saved) })
	lists = lists[:min(len(lists), maxLeakLists-1)]
	leaks := s.own.list()
	leaks = leaks[:min(len(leaks), maxSavedLeaks)]
	for i := range leaks {
		leaks[i].Client = text.Clip(leaks[i].Client, 200)
	}
	return append(lists, leakList{s.replica, now.UTC(), leaks})
}

// read returns the state, nil if there is none, and the lists in it. The error is storage.ErrDamaged if they cannot
// be read.
func (s *leakState) read(ctx context.Context) (state []byte, lists []leakList, err error) {
	state, err = s.store.State(ctx, leakStateName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(state, &lists); err != nil {
		return nil, nil, fmt.Errorf("state %s: %w: %v", leakStateName, storage.ErrDamaged, err)
	}
	return bytes.Clone(state), lists, nil
}

// others returns the leaks of other replicas. A nil leakState has none.
func (s *leakState) others(ctx context.Context) (leaks []Leak, err error) {
	if s == nil {
		return nil, nil
	}
	_, lists, err := s.read(ctx)
	if errors.Is(err, storage.ErrDamaged) { // the next save replaces it
		s.log.Warn("the leaks of other replicas are unknown", "err", err)
		return nil, nil
	}
	for _, list := range lists {
		if list.Replica != s.replica {
			leaks = append(leaks, list.Leaks...)
		}
	}
	return leaks, err
}
