package content

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
)

// replicas is what this process has in common with others that use the same store.
type replicas struct {
	store  storage.Store
	board  *news.Board
	log    *slog.Logger
	facts  *facts
	pushes *pushes
	leases *leases
	teller *Teller
}

// pushKind is the kind of news whose subject is the number of a push and the repository.
const pushKind = "push"

// pushesState is the state with the number of the last push.
const pushesState = "pushes"

// announceTime is how long a webhook waits for the store. Code hosts wait 10 s.
const announceTime = 8 * time.Second

func newReplicas(ctx context.Context, c Config, scope *flight.Scope) (*replicas, error) {
	r := &replicas{store: c.Store, board: c.News, log: c.Logger, pushes: new(pushes), teller: &Teller{board: c.News, log: c.Logger}}
	r.leases = newLeases(c.Store, !c.News.Shared(), scope)
	var err error
	r.facts, err = newFacts(ctx, c)
	return r, err
}

// announce gives a push to repositories its number and tells other replicas of it. Without any it does
// nothing, and the number is 0. It can be another number than 0 after an error.
func (r *replicas) announce(ctx context.Context, repos []string) (number int64, err error) {
	if !r.board.Shared() {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, announceTime)
	defer cancel()
	if number, err = r.nextPush(ctx); err != nil {
		return 0, err
	}
	if len(repos) == 0 {
		repos = []string{""} // a module whose repository is unknown may be in it
	}
	var events []news.Event
	for _, repo := range repos {
		events = append(events, news.Event{Kind: pushKind, Subject: pushSubject(number, repo)})
	}
	return number, r.board.Post(ctx, events...)
}

// nextPush returns a number that is higher than those of all pushes before. It begins with the time, so that
// it is higher, too, than those that a backup of the store has made unknown.
func (r *replicas) nextPush(ctx context.Context) (int64, error) {
	for {
		old, last, err := r.readPush(ctx)
		if err != nil {
			return 0, err
		}
		number := max(last+1, time.Now().UnixMilli())
		err = r.store.SwapState(ctx, pushesState, old, strconv.AppendInt(nil, number, 10))
		if !errors.Is(err, storage.ErrConflict) {
			return number, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(rand.N(20 * time.Millisecond)):
		}
	}
}

// lastPush returns the number of the last push, 0 if there is none.
func (r *replicas) lastPush(ctx context.Context) (int64, error) {
	_, number, err := r.readPush(ctx)
	return number, err
}

// readPush returns the state with the number of the last push, and the number. What is no number counts as a
// push now.
func (r *replicas) readPush(ctx context.Context) (state []byte, number int64, err error) {
	state, err = r.store.State(ctx, pushesState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if number, err = strconv.ParseInt(string(state), 10, 64); err != nil {
		number = time.Now().UnixMilli()
	}
	return state, number, nil
}

// tellGone tells other replicas, in the background, that the object at a key was removed or replaced.
func (r *replicas) tellGone(scope *flight.Scope, key string) {
	if !r.board.Shared() {
		return
	}
	scope.Go(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, tellTime)
		defer cancel()
		if err := r.teller.tell(ctx, []news.Event{{Kind: PurgeKind, Subject: key}}); err != nil {
			r.log.Warn("other replicas may serve, from memory or from their disks, an object that was removed or replaced; they are told again until it succeeds",
				"key", key, "err", err)
		}
	})
}
