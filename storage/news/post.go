package news

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/assay-proxy/assay/storage"
)

const (
	state    = "news" // the name of the state
	postTime = 20 * time.Second
)

// poster adds events to the page in the store. One caller at a time does so, for all who wait.
type poster struct {
	store  storage.Store
	writer chan struct{} // has an element while a caller posts

	mu      sync.Mutex
	waiting []*post
}

// post is what one call of Post waits for.
type post struct {
	events []Event
	err    error
	done   chan struct{} // closed when err is set
}

func newPoster(store storage.Store) *poster {
	return &poster{store: store, writer: make(chan struct{}, 1)}
}

// post adds events, as Board.Post documents.
func (all *poster) post(ctx context.Context, events []Event) error {
	p := &post{events: events, done: make(chan struct{})}
	all.mu.Lock()
	all.waiting = append(all.waiting, p)
	all.mu.Unlock()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	case all.writer <- struct{}{}:
		defer func() { <-all.writer }()
		all.postWaiting(ctx)
	}
	<-p.done // p was waiting, or another caller had it done
	return p.err
}

// postWaiting posts the events of all callers that wait.
func (all *poster) postWaiting(ctx context.Context) {
	all.mu.Lock()
	waiting := all.waiting
	all.waiting = nil
	all.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	var events []Event
	for _, p := range waiting {
		for _, e := range p.events {
			if e = e.tidy(); !slices.Contains(events, e) {
				events = append(events, e)
			}
		}
	}
	// Others wait for it, too: the end of the first caller must not be theirs.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), postTime)
	defer cancel()
	err := all.add(ctx, events)
	for _, p := range waiting {
		p.err = err
		close(p.done)
	}
}

// begin makes a page without events, unless there is one.
func (all *poster) begin(ctx context.Context) error {
	err := all.store.SwapState(ctx, state, nil, page{id: rand.Text()}.encode())
	if errors.Is(err, storage.ErrConflict) {
		return nil
	}
	return err
}

// add appends events to the page in the store.
func (all *poster) add(ctx context.Context, events []Event) error {
	for {
		old, err := all.store.State(ctx, state)
		damaged := errors.Is(err, storage.ErrDamaged)
		if err != nil && !damaged && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tell other replicas: %w", err)
		}
		p := decode(old)
		if p.id == "" {
			p = page{id: rand.Text()}
		}
		value := p.with(events, time.Now()).encode()
		if damaged {
			err = all.store.SetState(ctx, state, value)
		} else {
			err = all.store.SwapState(ctx, state, bytesOrNil(old, err), value)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("tell other replicas: %w", err)
		}
		select { // another replica posts: one of them must be first
		case <-ctx.Done():
			return fmt.Errorf("tell other replicas: %w", ctx.Err())
		case <-time.After(mathrand.N(20 * time.Millisecond)):
		}
	}
}

// bytesOrNil returns the value of a state for SwapState: nil stands for a state that does not exist.
func bytesOrNil(value []byte, err error) []byte {
	if err != nil {
		return nil
	}
	if value == nil {
		return []byte{}
	}
	return bytes.Clone(value)
}
