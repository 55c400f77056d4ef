package bolt

import "context"

// turns lets one Backup or Compact run at a time. The others wait, and may give up.
type turns chan struct{}

func (t turns) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turns) unlock() { <-t }
