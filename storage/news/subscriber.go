package news

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// mostPending is how many subjects wait for a subscriber; more are All.
const mostPending = 1000

// Changes are the argument of a subscriber.
type Changes struct {
	Subjects []string // in the order in which they were posted, each once
	All      bool     // everything of the kind may have changed; Subjects is empty then
	Again    bool     // the last call had the same changes and has failed; nothing is new
}

// subscriber collects the changes of a kind that its function has not seen.
type subscriber struct {
	kind string
	do   func(ctx context.Context, changes Changes) error
	wake chan struct{}

	mu      sync.Mutex
	pending Changes
}

// tell adds the events of its kind, or everything, to what is pending.
func (s *subscriber) tell(events []Event, all bool) {
	s.mu.Lock()
	if all || slices.ContainsFunc(events, func(e Event) bool { return e.Kind == s.kind }) {
		s.pending.Again = false
	}
	for _, e := range events {
		if e.Kind == s.kind && e.Subject == "" {
			all = true
		}
		if e.Kind == s.kind && !s.pending.All && !slices.Contains(s.pending.Subjects, e.Subject) {
			s.pending.Subjects = append(s.pending.Subjects, e.Subject)
		}
	}
	if all || s.pending.All || len(s.pending.Subjects) > mostPending {
		s.pending = Changes{All: true, Again: s.pending.Again}
	}
	some := s.pending.All || len(s.pending.Subjects) > 0
	s.mu.Unlock()
	if some {
		select {
		case s.wake <- struct{}{}:
		default: // it is awake
		}
	}
}

// run calls do until ctx ends. It logs the first of several errors, and the success after them.
func (s *subscriber) run(ctx context.Context, pause time.Duration, log *slog.Logger, failed prometheus.Counter) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.mu.Lock()
		changes := s.pending
		s.pending = Changes{}
		s.mu.Unlock()
		if !changes.All && len(changes.Subjects) == 0 {
			continue
		}
		err := s.do(ctx, changes)
		if err == nil && failing {
			log.Info("what this server could not do after news of replicas is done", "kind", s.kind)
			failing = false
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		failed.Inc()
		if !failing {
			log.Warn("this server cannot do yet what news of replicas demand, and tries it again each second", "kind", s.kind, "err", err)
			failing = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		s.again(changes)
	}
}

// again puts changes back before those that came meanwhile.
func (s *subscriber) again(changes Changes) {
	s.mu.Lock()
	later := s.pending
	s.pending = changes
	s.pending.Again = true
	s.mu.Unlock()
	events := make([]Event, len(later.Subjects))
	for i, subject := range later.Subjects {
		events[i] = Event{s.kind, subject}
	}
	s.tell(events, later.All)
}
