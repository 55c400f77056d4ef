package sumdb

import (
	"context"
	"errors"
	"slices"

	"github.com/assay-proxy/assay/storage"
)

// This file has the two halves of accepting a head together with what it proves: prove and settle.

// prove proves that theirs and our head, which is smaller, are of one log, and stores nothing. The
// errors are those of accept.
func (f *follower) prove(ctx context.Context, theirs *head, from string) (s step, err error) {
	err = f.proving.take(ctx, func(ctx context.Context) (err error) {
		s, err = f.proveNext(ctx, theirs, from)
		return err
	})
	return s, err
}

// proveNext is prove in its turn. It does not judge a head twice that waits to be stored.
func (f *follower) proveNext(ctx context.Context, theirs *head, from string) (step, error) {
	ours := f.head.Load()
	if ours != nil && theirs.tree.N <= ours.tree.N {
		return f.judge.olderThan(ctx, ours, theirs, from)
	}
	if f.waiting.ours == ours && f.waiting.next != nil && f.waiting.next.tree == theirs.tree {
		return f.waiting, nil
	}
	s, err := f.judge.newerThan(ctx, ours, theirs, from)
	if err == nil {
		f.waiting = s
	}
	return s, err
}

// settle stores s and then objects, which depend on it, in one batch. If our head has moved since s
// was judged, s is judged again and stored before. If the error is blocked, the caller stores theirs
// and each object alone.
func (f *follower) settle(ctx context.Context, s step, objects []storage.Small) error {
	if s.next == nil {
		return f.settleOlder(ctx, s, objects)
	}
	together := false
	err := f.moving.take(ctx, func(ctx context.Context) (err error) {
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
