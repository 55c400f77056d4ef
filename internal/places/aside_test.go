package places_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/internal/places"
)

// Work that waits aside leaves its place to others, and takes one again. Without a place in time it ends, as it does
// when no client waits for it any more.
func TestAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := places.New(places.Config{N: 1})
		take := func(client string) *places.Claim {
			t.Helper()
			claim, err := all.Claim(places.For{Client: client})
			if err != nil {
				t.Fatal(err)
			}
			return claim
		}
		first := take("a")
		ctx, err := first.Take(t.Context(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		other := take("b")
		err = first.Aside(ctx, time.Minute, func() bool {
			if _, err := other.Take(t.Context(), time.Second); err != nil {
				t.Errorf("the place of work that waits aside: %v", err)
			}
			go func() {
				time.Sleep(time.Second)
				other.Release()
			}()
			return true
		})
		if s := all.Stats(); err != nil || s.Running != 1 || s.Waiting != 0 || ctx.Err() != nil {
			t.Errorf("afterwards: %v, %+v, %v", err, s, ctx.Err())
		}

		other = take("b")
		if err := first.Aside(ctx, time.Second, func() bool { return true }); !errors.Is(err, places.ErrLate) {
			t.Errorf("without a place in time: %v", err)
		}
		first.Release()
		other.Release()

		left := take("a")
		if ctx, err = left.Take(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		left.Leave("a")
		if err := left.Aside(ctx, time.Second, func() bool { return true }); !errors.Is(err, places.ErrLeft) {
			t.Errorf("without a client: %v", err)
		}
		left.Release()

		// What is given up while it waits aside does not come back, and what needs no place ends without.
		given := take("a")
		if ctx, err = given.Take(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		given.Leave("a")
		if err := given.Aside(ctx, time.Second, func() bool { return given.GiveUp() }); !errors.Is(err, places.ErrYielded) || !errors.Is(context.Cause(ctx), places.ErrYielded) {
			t.Errorf("given up: %v, %v", err, context.Cause(ctx))
		}
		given.Release()
		done := take("a")
		if ctx, err = done.Take(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		if err := done.Aside(ctx, time.Second, func() bool { return false }); err != nil {
			t.Errorf("without coming back: %v", err)
		}
		if s := all.Stats(); s.Running != 0 || s.Waiting != 0 {
			t.Errorf("places in use: %+v", s)
		}
		done.Release()
		if s := all.Stats(); s.Running != 0 || s.Waiting != 0 || s.Clients != 0 {
			t.Errorf("at the end: %+v", s)
		}
	})
}
