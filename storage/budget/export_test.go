package budget

import (
	"context"
	"time"
)

// EvictOld evicts what was not used for too long, as Run does from time to time.
func (s *Store) EvictOld(ctx context.Context) error { return s.evictor.evictOld(ctx) }

// Patience sets how long a draft that is not kept keeps others from displacing objects.
func (s *Store) Patience(d time.Duration) { s.room.patience = d }

// CompactForRoom compacts the engine as an eviction does.
func (s *Store) CompactForRoom(ctx context.Context) { s.evictor.compact(ctx) }
