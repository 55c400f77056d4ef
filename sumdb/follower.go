package sumdb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/storage"
)

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

	moving  turns // of goroutines that move the head, for as long as the write takes
	proving turns // of those in prove, which may wait for upstream: storing what is proved does not wait for them

	waiting step   // the newest one of prove with a head that was larger than ours; guarded by proving
	told    func() // is called when our head has moved, so that the other replicas are told
}

// dependents returns the objects that are stored in the batch of a head, after it. It is called right
// before that, perhaps more than once; after an error nothing is stored.
type dependents func() ([]storage.Small, error)

// alone is no dependents.
func alone() ([]storage.Small, error) { return nil, nil }

// size returns the number of records under our head, 0 if there is no head.
func (f *follower) size() int64 {
	if h := f.head.Load(); h != nil {
		return h.tree.N
	}
	return 0
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

// mostConflicts is how often a step meets a head that another process has moved in the store. Each time
// one of them has succeeded, so there are many only if the heads of upstream differ much.
const mostConflicts = 100

// conflictPause is the most that a step waits then, so that one process does not lose each race.
const conflictPause = 20 * time.Millisecond

// errOvertaken means that our head has moved since a step was judged.
var errOvertaken = errors.New("our head has moved")

// advance makes the head of s ours, with commit. If s was judged with another head than ours of now,
// it judges s again. If ours is not smaller any more, it does nothing and reports that. It judges
// without holding moving: that may wait for upstream and for the store, and other heads must not.
func (f *follower) advance(ctx context.Context, s step, commit func(ctx context.Context, ours, next *head) error) (overtaken bool, err error) {
	for conflicts := 0; conflicts < mostConflicts; {
		ours, theirs := f.head.Load(), cmp.Or(s.next, s.theirs)
		if ours != nil && theirs.tree.N <= ours.tree.N {
			return true, f.freezer.check()
		}
		if s.next == nil || s.ours != ours {
			if s, err = f.judgeNewer(ctx, ours, theirs, s.from); err != nil {
				return false, err
			}
		}
		switch err = f.commitNext(ctx, s, commit); {
		case errors.Is(err, errOvertaken): // by another head, so this loop ends
		case errors.Is(err, storage.ErrConflict):
			conflicts++
			if _, err := f.acceptStored(ctx, ours); err != nil {
				return false, err
			}
			if err := pause(ctx, conflictPause); err != nil {
				return false, err
			}
		default:
			return false, err
		}
	}
	return false, err
}

// judgeNewer is judge.newerThan, which begins again if upstream is replaced.
func (f *follower) judgeNewer(ctx context.Context, ours, theirs *head, from string) (s step, err error) {
	err = renewed(ctx, f.client.flights, func(ctx context.Context) (err error) {
		s, err = f.judge.newerThan(ctx, ours, theirs, from)
		return err
	})
	return s, err
}

// commitNext makes the head of s ours, with commit. The error is errOvertaken if ours is not the one
// with which s was judged.
func (f *follower) commitNext(ctx context.Context, s step, commit func(ctx context.Context, ours, next *head) error) error {
	next := *s.next // of which commit sets the state, while others may judge that of s
	err := f.move(ctx, s.ours, func(ctx context.Context) error { return commit(ctx, s.ours, &next) })
	if err == nil {
		f.settled(s)
	}
	return err
}

// move calls do, which replaces our head, if that is still ours. The error is errOvertaken if not.
func (f *follower) move(ctx context.Context, ours *head, do func(ctx context.Context) error) error {
	return f.moving.take(ctx, func(ctx context.Context) error {
		if err := f.freezer.check(); err != nil {
			return err
		}
		if f.head.Load() != ours {
			return errOvertaken
		}
		return do(ctx)
	})
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
		f.told()
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

// takeOver makes the stored head ours, if another replica has stored one; it is proved as any other. If
// the store was set back to an older head, takeOver stores ours again. The errors are those of accept.
func (f *follower) takeOver(ctx context.Context) error {
	for range mostConflicts {
		behind, err := f.acceptStored(ctx, f.head.Load())
		if err != nil || !behind {
			return err
		}
		ours := f.head.Load()
		next := *ours
		f.log.Warn("the store has an older tree head than this process, as if it was set back; ours is stored again", "size", ours.tree.N)
		err = f.move(ctx, ours, func(ctx context.Context) error { return f.commit(ctx, ours, &next) })
		if err == nil {
			f.told()
		}
		if !errors.Is(err, storage.ErrConflict) && !errors.Is(err, errOvertaken) {
			return err
		}
	}
	return fmt.Errorf("store tree head of %s again: %w", f.client.name, storage.ErrConflict)
}

// acceptStored makes the stored head ours after another process moved it, unless ours has moved
// meanwhile. It reports whether the stored one is behind ours. A stored head that does not continue ours
// is handled as a fork. Like advance, it holds moving only to replace our head: the store may be slow.
func (f *follower) acceptStored(ctx context.Context, ours *head) (behind bool, err error) {
	var next *head
	err = renewed(ctx, f.client.flights, func(ctx context.Context) (err error) {
		next, behind, err = f.judgeStored(ctx, ours)
		return err
	})
	if err != nil || next == ours {
		return false, err
	}
	err = f.move(ctx, ours, func(context.Context) error {
		f.head.Store(next)
		return nil
	})
	if errors.Is(err, errOvertaken) {
		return false, nil // by a head that was judged too; the next commit compares it with the stored one
	}
	if err == nil && ours != nil && next.tree != ours.tree {
		f.judge.addOlder(ours.tree)
		f.log.Info("tree head advanced", "size", next.tree.N, "from", ours.tree.N, "source", "another process")
	}
	return behind, err
}

// judgeStored returns our next head, as the stored one may be of another process: that one, or ours if
// it is larger, to be stored in its place; nil if there is neither. It reports whether the stored one is behind ours.
func (f *follower) judgeStored(ctx context.Context, ours *head) (next *head, behind bool, err error) {
	stored, state, err := f.heads.read(ctx)
	if errors.Is(err, fs.ErrNotExist) && ours == nil {
		return nil, false, nil // there is none yet, or was none a moment ago
	}
	if err != nil && state == nil && !errors.Is(err, fs.ErrNotExist) || err != nil && ours == nil {
		return nil, false, fmt.Errorf("stored tree head: %w", err)
	}
	if err != nil { // it was removed or damaged while we run: store ours again
		f.log.Error("stored tree head is damaged or gone", "size", ours.tree.N, "err", err)
		return ours.replacing(state), true, nil
	}
	if bytes.Equal(state, ours.stored()) {
		return ours, false, nil
	}
	if f.prover.checkTiles(ctx, stored) != nil {
		stored.tiles = nil
	}
	if ours == nil {
		return stored, false, nil
	}
	if stored.tree.N <= ours.tree.N {
		return ours.replacing(state), stored.tree.N < ours.tree.N, f.acceptOlder(ctx, ours, stored, "the store")
	}
	next, err = f.judgeLarger(ctx, ours, stored)
	return next, false, err
}

// judgeLarger is judgeStored of a head that is larger than ours.
func (f *follower) judgeLarger(ctx context.Context, ours, stored *head) (*head, error) {
	if err := f.judge.freezer.look(ctx); err != nil {
		return nil, err
	}
	found, err := f.prover.compare(ctx, ours.tree, stored.tree, stored)
	if err != nil {
		return nil, err
	}
	if found.root != ours.tree.Hash {
		return nil, f.judge.refuseFork(ours, stored, found, "the store")
	}
	next := *stored
	next.tiles = found.tiles
	next.inherit(stored)
	next.inherit(ours)
	return &next, nil
}

// completeEdge fetches the tiles of the right edge of a head from the history, which does not store
// them.
func (f *follower) completeEdge(ctx context.Context) error {
	ours := f.head.Load()
	if ours == nil || ours.complete() {
		return nil
	}
	var found comparison
	err := renewed(ctx, f.client.flights, func(ctx context.Context) (err error) {
		found, err = f.prover.compare(ctx, ours.tree, ours.tree, ours)
		return err
	})
	if err != nil {
		return err
	}
	next := *ours
	next.tiles = found.tiles
	next.inherit(ours)
	err = f.move(ctx, ours, func(ctx context.Context) error { return f.commit(ctx, ours, &next) })
	if errors.Is(err, errOvertaken) {
		return nil // by a head with its edge
	}
	return err
}
