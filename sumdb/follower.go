package sumdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/storage"
)

// refreshGrace is how long a response of upstream to latest, or a failure, counts as recent. It
// limits the requests that a client with a newer head than ours causes when it requests one tile
// after the other.
const refreshGrace = time.Second

// follower follows the head of the log. It moves our head forward, only to heads that provably
// continue it, and stores the tiles that clients with any accepted head need. It reads no records.
type follower struct {
	client  *client
	prover  *prover
	judge   *judge
	heads   *headStore
	freezer *freezer
	metrics *metrics
	log     *slog.Logger

	// head is the newest proved head, nil before the first one. It is read without a lock; only the
	// holder of moving replaces it, and only by a larger one.
	head atomic.Pointer[head]

	moving  turns // of goroutines that move the head
	proving turns // of those in prove, which may wait for upstream: storing what is proved does not wait for them

	waiting step // the newest one of prove with a head that was larger than ours; guarded by proving
	polls   polls
}

// dependents returns the objects that are stored in the batch of a head, after it. It is called right
// before that, perhaps more than once; after an error nothing is stored.
type dependents func() ([]storage.Small, error)

// alone is no dependents.
func alone() ([]storage.Small, error) { return nil, nil }

// polls records when upstream was asked for its latest head.
type polls struct {
	mu       sync.Mutex
	ended    time.Time // with an answer or an error
	answered time.Time // with a head that verified
}

func (p *polls) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = time.Now()
}

func (p *polls) answer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered = time.Now()
}

// recent reports whether upstream was asked within refreshGrace.
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

// size returns the number of records under our head, 0 if there is no head.
func (f *follower) size() int64 {
	if h := f.head.Load(); h != nil {
		return h.tree.N
	}
	return 0
}

// newest returns our head. If there is none, it fetches the first one.
func (f *follower) newest(ctx context.Context) (*head, error) {
	if h := f.head.Load(); h != nil {
		return h, nil
	}
	if !f.client.connected() {
		return nil, fmt.Errorf("this mirror of %s is empty and has no upstream: %w", f.client.name, notfound.Stated)
	}
	if err := f.refresh(ctx); err != nil {
		return nil, err
	}
	return f.head.Load(), nil
}

// refresh fetches the latest head of upstream and makes it ours if it is newer.
func (f *follower) refresh(ctx context.Context) error {
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
		if err := f.accept(ctx, msg, "latest"); err != nil {
			return struct{}{}, err
		}
		f.polls.answer()
		return struct{}{}, f.completeEdge(ctx)
	})
	return err
}

// load makes the stored head our head.
func (f *follower) load(ctx context.Context) error {
	stored, state, damage := f.heads.read(ctx)
	switch {
	case damage == nil:
		return f.resume(ctx, stored)
	case errors.Is(damage, fs.ErrNotExist) && state == nil:
		damage = nil // the history replaces the damaged head, if there is a history
	case state == nil && !errors.Is(damage, storage.ErrDamaged):
		return fmt.Errorf("stored tree head: %w", damage)
	}
	// The newest head of the history takes its place: the log may grow from there, but must not
	// shrink or change.
	h, err := f.heads.recall(ctx)
	if err != nil {
		return err
	}
	if h == nil && damage != nil {
		return fmt.Errorf("stored tree head does not verify and there is no history to go back to: %w; "+
			"check that the key is that of the database, then restore the store from a backup; "+
			"an empty store would trust whatever head it is shown first", damage)
	}
	if h == nil {
		return nil
	}
	f.log.Error("stored tree head is damaged or missing; continuing from the history", "size", h.tree.N, "err", damage)
	h.state = state // the next commit replaces it
	f.head.Store(h)
	return nil
}

// resume makes the stored head h our head again. It drops tiles that do not verify, and completes a
// commit that was interrupted.
func (f *follower) resume(ctx context.Context, h *head) error {
	if err := f.prover.checkTiles(ctx, h); err != nil {
		f.log.Error("stored tiles do not verify; they will be fetched again", "size", h.tree.N, "err", err)
		h.tiles = nil
	}
	f.head.Store(h)
	f.archive(ctx, h)
	return ctx.Err()
}

// accept proves that the signed head msg and our head are of one log, and makes it ours if it is
// larger. from says where it was seen. The error is ErrInvalid if msg is not a head of the database
// or cannot be proved, and ErrFrozen if it is the head of a fork or the mirror is frozen already.
func (f *follower) accept(ctx context.Context, msg []byte, from string) error {
	theirs, err := f.judge.open(msg, from)
	if err != nil {
		return err
	}
	return f.acceptHead(ctx, theirs, from)
}

// acceptHead is accept of a signed head that is open already.
func (f *follower) acceptHead(ctx context.Context, theirs *head, from string) error {
	ours := f.head.Load()
	if ours == nil || theirs.tree.N > ours.tree.N {
		overtaken, err := f.advance(ctx, step{theirs: theirs, from: from}, f.commit)
		if err != nil || !overtaken {
			return err
		}
		ours = f.head.Load()
	}
	return f.acceptOlder(ctx, ours, theirs, from)
}

// advance makes the head of s ours, with commit. It judges s again if s was judged with another head
// than ours of now. If ours is not smaller any more, it does nothing and reports that: an older head
// is judged without holding moving.
func (f *follower) advance(ctx context.Context, s step, commit func(ctx context.Context, ours, next *head) error) (overtaken bool, err error) {
	err = f.moving.take(ctx, func(ctx context.Context) (err error) {
		overtaken, err = f.advanceNext(ctx, s, commit)
		return err
	})
	return overtaken, err
}

// advanceNext is advance in its turn.
func (f *follower) advanceNext(ctx context.Context, s step, commit func(ctx context.Context, ours, next *head) error) (overtaken bool, err error) {
	const attempts = 10 // the only way to lose a race is that another process moves the stored head
	for range attempts {
		if err := f.freezer.check(); err != nil {
			return false, err
		}
		ours, theirs := f.head.Load(), cmp.Or(s.next, s.theirs)
		if ours != nil && theirs.tree.N <= ours.tree.N {
			return true, nil
		}
		if s.next == nil || s.ours != ours {
			if s, err = f.judge.newerThan(ctx, ours, theirs, s.from); err != nil {
				return false, err
			}
		}
		if err = commit(ctx, ours, s.next); err == nil {
			f.settled(s)
		}
		if !errors.Is(err, storage.ErrConflict) {
			return false, err
		}
		if err := f.acceptStored(ctx, ours); err != nil {
			return false, err
		}
	}
	return false, err
}

// acceptOlder proves that theirs, which is not larger than ours, is a prefix of ours.
func (f *follower) acceptOlder(ctx context.Context, ours, theirs *head, from string) error {
	s, err := f.judge.olderThan(ctx, ours, theirs, from)
	if err == nil {
		err = f.prover.save(ctx, s.tiles)
	}
	if err == nil {
		f.settled(s)
	}
	return err
}

// settled notes that s is stored.
func (f *follower) settled(s step) {
	f.prover.stored(s.tiles)
	if s.next != nil {
		old := int64(0)
		if s.ours != nil {
			old = s.ours.tree.N
			f.judge.addOlder(s.ours.tree)
		}
		f.metrics.heads.WithLabelValues("advanced").Inc()
		f.log.Info("tree head advanced", "size", s.next.tree.N, "from", old, "source", s.from)
		return
	}
	if _, known := f.judge.older.Get(s.theirs.tree); !known && s.theirs.tree != s.ours.tree {
		f.judge.addOlder(s.theirs.tree)
		f.metrics.heads.WithLabelValues("older").Inc()
	}
}

// commit replaces our head by next: it stores next, publishes it to readers, and archives it. The
// error is storage.ErrConflict if the stored head is not ours.
func (f *follower) commit(ctx context.Context, ours, next *head) error {
	err := f.commitWith(ctx, ours, next, alone)
	if err == nil || errors.Is(err, storage.ErrConflict) || next.state == nil {
		return err
	}
	// Objects are in the way, or the disk took a part of the batch: the head alone, then the rest.
	if err := f.heads.swap(ctx, ours.stored(), next.state); err != nil {
		return fmt.Errorf("store tree head %d of %s: %w", next.tree.N, f.client.name, err)
	}
	f.head.Store(next)
	f.archive(context.WithoutCancel(ctx), next)
	return nil
}

// commitWith is commit in one batch together with dependents. After an error it may be half done; the
// head is then not published.
func (f *follower) commitWith(ctx context.Context, ours, next *head, with dependents) (err error) {
	if next.state, err = next.encode(true); err != nil {
		return err
	}
	entry, err := f.heads.entry(next)
	if err != nil {
		return err
	}
	objects, err := with()
	if err != nil {
		return err
	}
	full := next.full()
	all := slices.Concat([]storage.Small{entry}, f.prover.tileObjects(full), objects)
	if err := f.heads.apply(ctx, ours.stored(), next.state, unique(all)); err != nil {
		return fmt.Errorf("store tree head %d of %s: %w", next.tree.N, f.client.name, err)
	}
	f.head.Store(next.archived(full))
	return nil
}

// unique returns objects without those of an earlier key: the tiles of a head and of a record may be
// the same, and then have the same bytes.
func unique(objects []storage.Small) []storage.Small {
	seen := make(map[string]bool, len(objects))
	return slices.DeleteFunc(objects, func(o storage.Small) bool {
		again := seen[o.Info.Key]
		seen[o.Info.Key] = true
		return again
	})
}

// archive finishes the commit of h, which is stored: it adds h to the history and stores its full
// tiles as objects. It logs errors; the next start repeats the work. Until then the tiles are
// answered from the head.
func (f *follower) archive(ctx context.Context, h *head) {
	err := f.heads.remember(ctx, h)
	if errors.Is(err, storage.ErrReadOnly) {
		return // the process that writes the store has archived it, or will
	}
	if err != nil {
		f.log.Error("tree head not in history", "size", h.tree.N, "err", err)
	}
	done := fullTiles{}
	for at, data := range h.full() {
		if err := f.prover.saveTile(ctx, at, data); err != nil {
			f.log.Error("tile not stored", "tile", at.full().Path(), "err", err)
			continue
		}
		done[at] = data
	}
	f.head.CompareAndSwap(h, h.archived(done))
}

// acceptStored makes the stored head ours after another process moved it. The caller holds
// moving. A stored head that does not continue ours is handled as a fork.
func (f *follower) acceptStored(ctx context.Context, ours *head) error {
	stored, state, err := f.heads.read(ctx)
	if err != nil && state == nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stored tree head: %w", err)
	}
	switch {
	case err != nil && ours == nil:
		return fmt.Errorf("stored tree head: %w", err)
	case err != nil:
		// The stored head was removed or damaged while we run: store ours again.
		f.log.Error("stored tree head is damaged or gone", "size", ours.tree.N, "err", err)
		f.replaceNext(ours, state)
		return nil
	}
	if f.prover.checkTiles(ctx, stored) != nil {
		stored.tiles = nil
	}
	if ours == nil {
		f.head.Store(stored)
		return nil
	}
	if stored.tree.N <= ours.tree.N {
		if err := f.acceptOlder(ctx, ours, stored, "the store"); err != nil {
			return err
		}
		f.replaceNext(ours, state)
		return nil
	}
	found, err := f.prover.compare(ctx, ours.tree, stored.tree, stored)
	if err != nil {
		return err
	}
	if found.root != ours.tree.Hash {
		return f.judge.refuseFork(ours, stored, found, "the store")
	}
	next := *stored
	next.tiles = found.tiles
	next.inherit(stored)
	next.inherit(ours)
	f.head.Store(&next)
	f.judge.addOlder(ours.tree)
	return nil
}

// replaceNext makes the next commit replace state, whatever it contains.
func (f *follower) replaceNext(ours *head, state []byte) {
	same := *ours
	same.state = state
	f.head.Store(&same)
}

// completeEdge fetches the tiles of the right edge of a head from the history, which does not store
// them.
func (f *follower) completeEdge(ctx context.Context) error {
	if h := f.head.Load(); h == nil || h.complete() {
		return nil
	}
	return f.moving.take(ctx, f.completeOurs)
}

// completeOurs is completeEdge of our head. The caller holds moving.
func (f *follower) completeOurs(ctx context.Context) error {
	ours := f.head.Load()
	if ours.complete() {
		return nil
	}
	found, err := f.prover.compare(ctx, ours.tree, ours.tree, ours)
	if err != nil {
		return err
	}
	next := *ours
	next.tiles = found.tiles
	next.inherit(ours)
	return f.commit(ctx, ours, &next)
}
