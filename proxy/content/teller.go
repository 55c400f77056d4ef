package content

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/assay-proxy/assay/storage/news"
)

// PurgeKind is the kind of the news about objects that were removed from the store or replaced in it. Their subjects are
// keys.
const PurgeKind = "purge"

// tellTime is how long news wait for the store that are told in the background.
const tellTime = 20 * time.Second

// mostPurgeNews is how many objects are named to other replicas. If more are purged, they forget everything.
const mostPurgeNews = 100

// Teller tells other replicas that objects were removed from the store or replaced in it.
type Teller struct {
	board *news.Board
	log   *slog.Logger

	mu     sync.Mutex
	untold map[string]struct{} // keys of which other replicas could not be told, at most mostPurgeNews; "" stands for all
}

func (t *Teller) tell(ctx context.Context, events []news.Event) error {
	err := t.board.Post(ctx, events...)
	if err == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.untold == nil {
		t.untold = map[string]struct{}{}
	}
	for _, e := range events {
		t.untold[e.Subject] = struct{}{}
	}
	if len(t.untold) > mostPurgeNews {
		t.untold = map[string]struct{}{"": {}}
	}
	return err
}

// tellEvery is the time between two attempts of Run.
const tellEvery = 2 * time.Second

// Run tells, until ctx ends, what could not be told before.
func (t *Teller) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(tellEvery):
		}
		t.again(ctx)
	}
}

func (t *Teller) again(ctx context.Context) {
	t.mu.Lock()
	var events []news.Event
	for key := range t.untold {
		events = append(events, news.Event{Kind: PurgeKind, Subject: key})
	}
	t.untold = nil
	t.mu.Unlock()
	if len(events) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	if t.tell(ctx, events) == nil {
		t.log.Info("other replicas are told of removed or replaced objects", "news", len(events))
	}
}
