package sumdb

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
)

// step is a head that is proved to be of our log, and what must be stored before an answer may depend
// on it. Until then our head stays as it is: the step may be dropped, and settle judges the head again
// if ours has moved meanwhile.
type step struct {
	ours, theirs *head  // ours is nil before the first one
	from         string // where theirs was seen

	next  *head     // theirs with its tiles, if it is larger than ours; else nil
	tiles fullTiles // that prove theirs, if it is smaller and was not proved before
}

// head returns the larger one of both, which is proved.
func (s step) head() *head {
	if s.next != nil {
		return s.next
	}
	return s.ours
}

// held returns how many tiles s has in memory.
func (s step) held() int {
	if s.next != nil {
		return len(s.next.tiles)
	}
	return len(s.tiles)
}

// judge proves that the signed head msg and our head are of one log, and stores nothing. The errors
// are those of accept.
func (f *follower) judge(ctx context.Context, msg []byte, from string) (step, error) {
	theirs, err := f.open(msg, from)
	if err != nil {
		return step{}, err
	}
	if ours := f.head.Load(); ours != nil && theirs.tree.N <= ours.tree.N {
		return f.judgeOlder(ctx, ours, theirs, from)
	}
	var s step
	err = f.move(ctx, func(ctx context.Context) (err error) {
		s, err = f.judgeNext(ctx, theirs, from)
		return err
	})
	return s, err
}

// judgeNext judges theirs, which was larger than ours when it came. A head that waits to be stored is
// not judged twice. The caller holds moving.
func (f *follower) judgeNext(ctx context.Context, theirs *head, from string) (step, error) {
	ours := f.head.Load()
	if ours != nil && theirs.tree.N <= ours.tree.N {
		return f.judgeOlder(ctx, ours, theirs, from)
	}
	if f.waiting.ours == ours && f.waiting.next != nil && f.waiting.next.tree == theirs.tree {
		return f.waiting, nil
	}
	s, err := f.judgeNewer(ctx, ours, theirs, from)
	if err == nil {
		f.waiting = s
	}
	return s, err
}

// judgeOlder proves that theirs, which is not larger than ours, is a prefix of ours.
func (f *follower) judgeOlder(ctx context.Context, ours, theirs *head, from string) (step, error) {
	s := step{ours: ours, theirs: theirs, from: from}
	if _, proved := f.older.Get(theirs.tree); proved || theirs.tree == ours.tree {
		return s, nil
	}
	found, err := f.compare(ctx, theirs.tree, ours.tree, ours)
	if err != nil {
		return step{}, err
	}
	if found.root != theirs.tree.Hash {
		return step{}, f.refuseFork(ours, theirs, found, from)
	}
	s.tiles = f.prover.toStore(found.tiles)
	return s, nil
}

// judgeNewer proves that ours, nil before the first one, is a prefix of theirs. It reads the tiles of
// the right edge of ours under theirs, so that every answer that was possible stays possible.
func (f *follower) judgeNewer(ctx context.Context, ours, theirs *head, from string) (step, error) {
	var old tlog.Tree
	old.Hash, _ = tlog.TreeHash(0, nil)
	if ours != nil {
		old = ours.tree
	}
	found, err := f.compare(ctx, old, theirs.tree, ours.with(theirs))
	if err != nil {
		return step{}, err
	}
	if found.root != old.Hash {
		return step{}, f.refuseFork(ours, theirs, found, from)
	}
	next := *theirs
	next.tiles = found.tiles
	if ours != nil {
		next.inherit(ours)
	}
	return step{ours: ours, theirs: theirs, from: from, next: &next}, nil
}

// compare compares two trees of signed heads.
func (f *follower) compare(ctx context.Context, older, newer tlog.Tree, base *head) (comparison, error) {
	if err := f.freezer.check(); err != nil {
		return comparison{}, err
	}
	found, err := f.prover.compare(ctx, older, newer, base)
	if err != nil {
		f.countRefused(err)
	}
	return found, err
}

// settle stores s and then objects, which depend on it, in one batch. If our head has moved since s
// was judged, s is judged again and stored before. If the error is blocked, the caller stores theirs
// and each object alone.
func (f *follower) settle(ctx context.Context, s step, objects []storage.Small) error {
	if s.next == nil {
		return f.settleOlder(ctx, s, objects)
	}
	together := false
	err := f.move(ctx, func(ctx context.Context) (err error) {
		if err := f.freezer.check(); err != nil {
			return err
		}
		if f.head.Load() == s.ours {
			if err = f.commitWith(ctx, s.ours, s.next, objects); err == nil {
				together = true
				f.settled(s)
			}
			if !errors.Is(err, storage.ErrConflict) {
				return err
			}
		}
		return f.acceptNewer(ctx, s.next, s.from)
	})
	if err != nil || together {
		return err
	}
	return f.heads.objects.apply(ctx, storage.Batch{Create: objects})
}

// settleOlder is settle of a head that is not larger than ours.
func (f *follower) settleOlder(ctx context.Context, s step, objects []storage.Small) error {
	all := slices.Concat(f.prover.tileObjects(s.tiles), objects)
	if err := f.heads.objects.apply(ctx, storage.Batch{Create: unique(all)}); err != nil {
		return err
	}
	f.settled(s)
	return nil
}

// settled notes that s is stored.
func (f *follower) settled(s step) {
	f.prover.stored(s.tiles)
	if s.next != nil {
		f.waiting = step{}
		old := int64(0)
		if s.ours != nil {
			old = s.ours.tree.N
			f.addOlder(s.ours.tree)
		}
		f.metrics.heads.WithLabelValues("advanced").Inc()
		f.log.Info("tree head advanced", "size", s.next.tree.N, "from", old, "source", s.from)
		return
	}
	if _, known := f.older.Get(s.theirs.tree); !known && s.theirs.tree != s.ours.tree {
		f.addOlder(s.theirs.tree)
		f.metrics.heads.WithLabelValues("older").Inc()
	}
}
