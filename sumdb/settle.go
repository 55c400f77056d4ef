package sumdb

import (
	"context"
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

// settle stores s and then its dependents in one batch. If our head has moved since s was judged, s is
// judged again. If the error is blocked, the caller stores the head and each object alone.
func (f *follower) settle(ctx context.Context, s step, with dependents) error {
	if s.next != nil {
		overtaken, err := f.advance(ctx, s, func(ctx context.Context, ours, next *head) error {
			return f.commitWith(ctx, ours, next, with)
		})
		if err != nil || !overtaken {
			return err
		}
		theirs, from := s.next, s.from
		err = renewed(ctx, f.client.flights, func(ctx context.Context) (err error) {
			s, err = f.judge.olderThan(ctx, f.head.Load(), theirs, from)
			return err
		})
		if err != nil {
			return err
		}
	}
	return f.settleOlder(ctx, s, with)
}

// settleOlder is settle of a head that is not larger than ours.
func (f *follower) settleOlder(ctx context.Context, s step, with dependents) error {
	objects, err := with()
	if err != nil {
		return err
	}
	all := slices.Concat(f.prover.tileObjects(s.tiles), objects)
	if err := f.heads.objects.apply(ctx, storage.Batch{Create: unique(all)}); err != nil {
		return err
	}
	f.settled(s)
	return nil
}
