package content

import (
	"context"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
)

// TellPurged tells the Libraries of other replicas that items were removed from the store. After an error they may
// still have them in memory and on their disks, and the caller should call it again.
func TellPurged(ctx context.Context, board *news.Board, items []Item) error {
	return board.Post(ctx, purgeNews(items)...)
}

// Tell tells of removed items. After an error Run does it, too.
func (t *Teller) Tell(ctx context.Context, items []Item) error { return t.tell(ctx, purgeNews(items)) }

func purgeNews(items []Item) (events []news.Event) {
	for _, item := range items {
		events = append(events, news.Event{Kind: PurgeKind, Subject: item.Key})
	}
	if len(events) > mostPurgeNews {
		events = []news.Event{{Kind: PurgeKind}}
	}
	return events
}

// Teller returns the Teller of l. After an error its Run tells again.
func (l *Library) Teller() *Teller { return l.parts.replicas.teller }

// Forget drops items from memory after they were removed from the store. It does not tell other replicas.
func (l *Library) Forget(items []Item) {
	for _, item := range items {
		l.forget(item.Key)
	}
}

// Purged drops from memory what another replica has removed from the store or replaced in it. It is for a
// subscriber to the news of PurgeKind. A store with a copy of its own must have dropped it before.
func (l *Library) Purged(changes news.Changes) {
	for _, key := range changes.Subjects {
		l.forget(key)
	}
	if !changes.All {
		return
	}
	l.parts.held.known.clear()
	for _, origin := range l.Origins() {
		origin.shelf.hot.clear()
	}
}

// forget drops the object at a key from memory.
func (l *Library) forget(key string) {
	l.parts.held.known.changed(key)
	_, path, ok := storage.CutVoucher(key)
	if !ok {
		path = key
	}
	for _, origin := range l.Origins() {
		if len(path) < storage.MaxComponent {
			origin.shelf.hot.remove(path)
		} else {
			origin.shelf.hot.clear() // it may be cut, and its path unknown
		}
	}
}
