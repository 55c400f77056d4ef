package sumdb

import (
	"context"

	"github.com/assay-proxy/assay/internal/flight"
)

// turns lets one goroutine at a time work. It has a channel and not a mutex, so that a caller can stop
// waiting when its context ends.
type turns struct {
	taken   chan struct{} // has a value while a goroutine has its turn
	flights *flight.Shared
}

func newTurns(flights *flight.Shared) turns { return turns{make(chan struct{}, 1), flights} }

// take calls do when it is its turn. If another upstream replaces the one that do began with, do ends
// and begins again: the old one may hang, and meanwhile no head of the new one could be accepted.
func (t turns) take(ctx context.Context, do func(context.Context) error) error {
	for {
		replaced, err := t.once(ctx, do)
		if err == nil || !replaced || ctx.Err() != nil {
			return err
		}
	}
}

// once is one attempt of take. It reports whether upstream was replaced meanwhile.
func (t turns) once(ctx context.Context, do func(context.Context) error) (replaced bool, err error) {
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-t.taken }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	anew := t.flights.NextAnew()
	go func() {
		select {
		case <-anew:
			cancel()
		case <-ctx.Done():
		}
	}()
	err = do(ctx)
	select {
	case <-anew:
		return true, err
	default:
		return false, err
	}
}
