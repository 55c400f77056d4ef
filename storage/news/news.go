// Package news tells the replicas that share a store what one of them has changed.
//
// A replica that has a value in memory subscribes to the news about it, and one that changes the value posts them.
// The news are one small state of the store, which each replica reads once a second: that is all that idle replicas
// cost. News are hints: what is true is in the store, and a replica that may have missed some is told to look at
// everything.
package news

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/storage"
)

// Board is where the replicas of a store post news and find them. All methods may be called concurrently.
type Board struct {
	store storage.Store // nil: there is one replica
	log   *slog.Logger
	every time.Duration // between two looks
	alone bool          // there are no other replicas, and commands may post

	poster  *poster
	confirm func(context.Context) error // see Confirm; nil: none
	metrics *metrics

	mu          sync.Mutex
	subscribers []*subscriber
}

// New returns the board of the replicas that share store.
func New(store storage.Store, log *slog.Logger) *Board {
	return &Board{store: store, log: log, every: time.Second, poster: newPoster(store), metrics: newMetrics()}
}

// Alone returns the board of a program that shares its store with no other. There are no news.
func Alone() *Board { return &Board{} }

// Listen returns the board of the only server that uses store. It finds the news of commands.
func Listen(store storage.Store, log *slog.Logger) *Board {
	b := New(store, log)
	b.alone = true
	return b
}

// Shared reports whether there may be other replicas.
func (b *Board) Shared() bool { return b.store != nil && !b.alone }

// Confirm makes Run call confirm when the page of events is gone, is another one, or was set back: then the store may
// be another one. As long as confirm returns an error there are no news; Run calls it once a second, in place of its
// look, and after nil tells each subscriber to look at everything. Run makes a page if there is none, so that its absence
// says something. Confirm must be called before Run.
func (b *Board) Confirm(confirm func(ctx context.Context) error) { b.confirm = confirm }

// Metrics returns the collectors of a Board that has news.
func (b *Board) Metrics() []prometheus.Collector {
	if b.store == nil {
		return nil
	}
	return []prometheus.Collector{b.metrics.read, b.metrics.missed, b.metrics.failed}
}

// Subscribe makes Run call do, on one goroutine for each subscriber, when there are news of a kind: also those that
// this Board has posted. After an error do is called again, a second later, with the same changes and those since.
// The first call, when Run begins, has All. Subscribe must be called before Run.
func (b *Board) Subscribe(kind string, do func(ctx context.Context, changes Changes) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subscribers = append(b.subscribers, &subscriber{kind: kind, do: do, wake: make(chan struct{}, 1)})
}

// Post posts events. Other replicas have them within two seconds after it returns nil, as long as they reach the store.
// After an error, or when ctx ends, they may be posted or not: what has changed is in the store all the same, and the
// caller decides whether to call Post again. An event that is posted twice does no harm.
func (b *Board) Post(ctx context.Context, events ...Event) error {
	if b.store == nil || len(events) == 0 {
		return nil
	}
	return b.poster.post(ctx, events)
}

// Run looks for news once a second until ctx ends, and calls the subscribers. It returns when they have returned. While
// the store cannot be read, there are no news; Run logs the first of several errors.
func (b *Board) Run(ctx context.Context) {
	if b.store == nil {
		<-ctx.Done()
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	b.mu.Lock()
	subscribers := slices.Clone(b.subscribers)
	b.mu.Unlock()
	for _, s := range subscribers {
		running.Go(func() { s.run(ctx, b.every, b.log, b.metrics.failed) })
	}
	ticker := time.NewTicker(b.every)
	defer ticker.Stop()
	reader := reader{store: b.store, poster: b.poster, confirm: b.confirm, metrics: b.metrics, sure: true}
	failing := false
	for {
		events, missed, err := reader.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing {
				b.log.Warn("news of other replicas cannot be read; what they change is noticed when the store answers again", "err", err)
			}
		default:
			b.metrics.looked()
			if failing {
				b.log.Info("the store answers again: news of other replicas are read")
			}
			for _, s := range subscribers {
				s.tell(events, missed)
			}
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
