package daemon

import (
	"context"
	"errors"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage/news"
)

// followPurges makes what other replicas have removed or replaced leave the copies of the store, and then memory, by
// purged: it could get the objects from a copy again. It finishes the purges of processes that were killed.
func (s *stores) followPurges(purged func(news.Changes)) {
	s.board.Subscribe(content.PurgeKind, func(ctx context.Context, changes news.Changes) error {
		err := s.dropCopies(ctx, changes)
		if !changes.Again { // a copy that could not be dropped is not served, so memory cannot have it again
			purged(changes)
		}
		return err
	})
	s.board.Subscribe(content.PurgingKind, func(ctx context.Context, _ news.Changes) error {
		return content.FinishPurges(ctx, s.bucket, s.board)
	})
}

// dropCopies drops all copies that it can. The others are not served; the error says that the next process may.
func (s *stores) dropCopies(ctx context.Context, changes news.Changes) error {
	switch {
	case s.tier == nil:
		return nil
	case changes.All && changes.Again:
		return s.tier.SaveDoubt(ctx)
	case changes.All:
		return s.tier.Doubt(ctx)
	}
	var errs []error
	for _, key := range changes.Subjects {
		errs = append(errs, s.tier.Forget(ctx, key))
	}
	return errors.Join(errs...)
}
