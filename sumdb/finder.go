package sumdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/storage/news"
)

// refreshGrace is how long a response of upstream to latest, or a failure, counts as recent. It
// limits the requests that a client with a newer head than ours causes when it requests one tile
// after the other.
const refreshGrace = time.Second

// finder finds newer heads: in the store, where another replica may have stored one, and then at
// upstream. The follower judges them.
type finder struct {
	client   *client
	follower *follower
	freezer  *freezer
	board    *news.Board
	every    time.Duration // between two polls of upstream, by any of the replicas
	log      *slog.Logger

	polls polls
	looks polls         // at the stored head, because of clients
	heard chan struct{} // has a value after a replica has polled
}

// newsOfHeads is the kind of the news that a replica has polled upstream, or has stored a newer head of
// the database.
const newsOfHeads = "head"

// polls records when upstream was asked for its latest head, or the store for the stored one.
type polls struct {
	mu       sync.Mutex
	ended    time.Time // with an answer or an error
	answered time.Time // with a head that verified, to any replica
}

func (p *polls) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = time.Now()
}

func (p *polls) answer() { p.answerAt(time.Now()) }

func (p *polls) answerAt(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered = t
}

// recent reports whether that was within refreshGrace.
func (p *polls) recent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.ended) < refreshGrace
}

// lastAnswer returns when upstream last sent a head that verified, the zero time if it never did.
func (p *polls) lastAnswer() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}

// newest returns our head. If there is none, it finds the first one.
func (f *finder) newest(ctx context.Context) (*head, error) {
	if h := f.follower.head.Load(); h != nil {
		return h, nil
	}
	if err := f.catchUp(ctx); err != nil {
		return nil, err
	}
	if h := f.follower.head.Load(); h != nil {
		return h, nil
	}
	if !f.client.connected() {
		return nil, fmt.Errorf("this mirror of %s is empty and has no upstream: %w", f.client.name, notfound.Stated)
	}
	if err := f.refresh(ctx); err != nil {
		return nil, err
	}
	return f.follower.head.Load(), nil
}

// catchUp takes over the stored head for a client that needs more than ours covers. It does nothing if
// no other replica has the store.
func (f *finder) catchUp(ctx context.Context) error {
	if !f.board.Shared() {
		return nil
	}
	_, err := share(ctx, f.client, "stored head", fileTime, func(ctx context.Context) (struct{}, error) {
		defer f.looks.end()
		return struct{}{}, f.follower.takeOver(ctx)
	})
	return err
}

// refresh fetches the latest head of upstream and makes it ours if it is newer.
func (f *finder) refresh(ctx context.Context) error {
	if !f.client.connected() {
		return fmt.Errorf("refresh %s: no upstream", f.client.name)
	}
	if err := f.freezer.check(); err != nil {
		return err
	}
	_, err := share(ctx, f.client, "latest", fileTime, func(ctx context.Context) (struct{}, error) {
		defer f.polls.end()
		msg, err := f.client.latest(ctx)
		if err != nil {
			return struct{}{}, err
		}
		if err := f.follower.accept(ctx, msg, "latest"); err != nil {
			return struct{}{}, err
		}
		f.polls.answer()
		return struct{}{}, f.follower.completeEdge(ctx)
	})
	return err
}

// run polls upstream until ctx ends. Of several replicas, one polls in each interval, and the others
// hear of it: each waits a little longer than the interval, and all begin anew when one has polled.
func (f *finder) run(ctx context.Context) {
	timer := time.NewTimer(f.first())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.heard:
		case <-timer.C:
			f.poll(ctx)
		}
		timer.Reset(f.wait())
	}
}

// first returns how long the first poll waits. A replica that starts finds the head of the others in
// the store.
func (f *finder) first() time.Duration {
	h := f.follower.head.Load()
	if !f.board.Shared() || h == nil {
		return 0
	}
	age := time.Since(h.time)
	if age < 0 || age >= f.every { // the clock of the other replica may be wrong
		return 0
	}
	f.polls.answerAt(h.time)
	return f.wait() - age
}

// wait returns how long a poll waits after the last one.
func (f *finder) wait() time.Duration {
	if !f.board.Shared() {
		return f.every
	}
	return f.every + rand.N(f.every/10+1)
}

// poll refreshes our head, and tells the other replicas.
func (f *finder) poll(ctx context.Context) {
	if !f.client.connected() {
		return // a reload may add an upstream later
	}
	if err := f.refresh(ctx); err == nil {
		f.follower.told()
	} else if ctx.Err() == nil {
		f.log.Warn("latest head not refreshed", "size", f.follower.size(), "err", err)
	}
}

// tell tells the other replicas that upstream has answered, and perhaps of a newer head.
func (f *finder) tell(ctx context.Context) error {
	return f.board.Post(ctx, news.Event{Kind: newsOfHeads, Subject: f.client.name})
}

// hear takes over what another replica has stored.
func (f *finder) hear(ctx context.Context, changes news.Changes) error {
	polled := slices.Contains(changes.Subjects, f.client.name)
	if !polled && !changes.All {
		return nil
	}
	err := f.follower.takeOver(ctx) // and not catchUp, which shares work that may have read the store earlier
	if errors.Is(err, ErrFrozen) {
		return nil // the end of the freeze is news, too
	}
	if err == nil && polled {
		f.polls.answer()
		select {
		case f.heard <- struct{}{}:
		default: // run has not looked yet
		}
	}
	return err
}
