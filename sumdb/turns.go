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

// take calls do when it is its turn, as renewed does: a proof that hangs would stop all others.
func (t turns) take(ctx context.Context, do func(context.Context) error) error {
	return renewed(ctx, t.flights, func(ctx context.Context) error {
		select {
		case t.taken <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-t.taken }()
		return do(ctx)
	})
}

// renewed calls do. If another upstream replaces the one that do began with, do ends and begins again:
// the old one may hang.
func renewed(ctx context.Context, flights *flight.Shared, do func(context.Context) error) error {
	for {
		replaced, err := once(ctx, flights, do)
		if err == nil || !replaced || ctx.Err() != nil {
			return err
		}
	}
}

// once is one attempt of renewed. It reports whether upstream was replaced meanwhile.
func once(ctx context.Context, flights *flight.Shared, do func(context.Context) error) (replaced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	anew := flights.NextAnew()
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
