package admin

import (
	"context"
	"time"
)

// Collected is what a collection of garbage in a bucket has done.
type Collected struct {
	Contents int64 `json:"contents"` // that are there
	Marked   int64 `json:"marked"`   // to which nothing refers, and which the next collection may delete
	Deleted  int64 `json:"deleted"`
	Uploads  int64 `json:"uploads"` // unfinished ones that were ended
	Leases   int   `json:"leases"`  // of killed servers, that were removed
}

// collectFunc collects garbage. A collection less than wait after the one before is an error.
type collectFunc = func(ctx context.Context, wait time.Duration) (Collected, error)
