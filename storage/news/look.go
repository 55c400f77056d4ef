package news

import (
	"context"
	"errors"
	"io/fs"

	"github.com/assay-proxy/assay/storage"
)

// reader is what a Board has seen of the page.
type reader struct {
	store   storage.Store
	poster  *poster
	confirm func(context.Context) error // see Board.Confirm; nil: none
	metrics *metrics

	seen  page
	known bool // seen is what the subscribers know
	sure  bool // the store is the one with which the board began, as far as its page shows
}

// look returns the events since the last look, and whether some may be missing.
func (r *reader) look(ctx context.Context) (events []Event, missed bool, err error) {
	if !r.sure {
		if err := r.confirm(ctx); err != nil {
			return nil, false, err
		}
		r.sure = true
	}
	p, found, err := r.read(ctx)
	if err == nil && r.confirm != nil && r.strange(p, found) {
		p, err = r.confirmPage(ctx, p, found)
	}
	if err != nil {
		return nil, false, err
	}
	events, missed = p.since(r.seen)
	if missed && r.known {
		r.metrics.missed.Inc()
	}
	missed = missed || !r.known
	r.seen, r.known = p, true
	return events, missed, nil
}

// strange reports whether a page, if it is found, may be that of another store.
func (r *reader) strange(p page, found bool) bool {
	return !found || r.known && !p.continues(r.seen)
}

// confirmPage confirms the store, and returns its page. It makes one if there is none.
func (r *reader) confirmPage(ctx context.Context, p page, found bool) (page, error) {
	if err := r.confirm(ctx); err != nil {
		// What was read or written since the last look may be of the other store.
		r.sure, r.known = false, false
		return p, err
	}
	if found {
		return p, nil
	}
	if err := r.poster.begin(ctx); err != nil {
		return p, err
	}
	p, _, err := r.read(ctx)
	return p, err
}

// read returns the newest page, an empty one if there is none, and whether the store has one. A damaged page counts as
// an empty one: the next Post replaces it, and everything is looked at.
func (r *reader) read(ctx context.Context) (p page, found bool, err error) {
	data, err := r.store.State(ctx, state)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) {
		return page{}, errors.Is(err, storage.ErrDamaged), nil
	}
	if err != nil {
		return page{}, false, err
	}
	return decode(data), true, nil
}
