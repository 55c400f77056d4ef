package flight_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/internal/places"
)

var errDone = errors.New("done")

// Clients with the same request share one piece of work, which continues when they leave.
func TestGroupShares(t *testing.T) {
	scope := flight.NewScope(flight.Config{})
	group := flight.NewGroup[int](scope)
	all := places.New(places.Config{N: 2})
	release, ran := make(chan struct{}), 0
	join := func(client string) (*flight.Flight[int], bool) {
		f, joined, err := group.Join(places.For{Client: client}, flight.Work[int]{Key: "k", Places: all, Do: func(_ context.Context, f *flight.Flight[int]) error {
			ran++
			<-release
			f.Value = 7
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		return f, joined
	}
	first, joined := join("a")
	if joined {
		t.Error("the first one has joined something")
	}
	second, joined := join("b")
	if !joined || first != second {
		t.Error("the second one has not joined the first")
	}
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errDone)
	if _, err := first.Wait(gone); err != errDone {
		t.Errorf("a client that leaves gets %v", err)
	}
	first.Leave("a")
	close(release)
	if got, err := second.Wait(t.Context()); got != 7 || err != nil || !second.Ended() || ran != 1 {
		t.Errorf("%d, %v after %d runs", got, err, ran)
	}
	if _, joined := join("a"); joined {
		t.Error("work that has ended was joined")
	}
	if err := scope.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// The error of work that had to yield its place says so, and the next client starts it
// again.
func TestGroupYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope(flight.Config{})
		group := flight.NewGroup[string](scope)
		one := places.New(places.Config{N: 1})
		work := func(key string, do func(ctx context.Context) error) flight.Work[string] {
			return flight.Work[string]{Key: key, Places: one, Do: func(ctx context.Context, f *flight.Flight[string]) error { return do(ctx) }}
		}
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		left, _, err := group.Join(places.For{Client: "a"}, work("slow", hang))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		left.Leave("a")
		other, _, err := group.Join(places.For{Client: "b"}, work("other", func(context.Context) error { return nil }))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Wait(t.Context()); err != nil {
			t.Errorf("the other one: %v", err)
		}
		<-left.Done()
		if err := left.Err(); !errors.Is(err, places.ErrYielded) {
			t.Errorf("the one that had to stop: %v", err)
		}
		if err := scope.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A panic is an error for all clients that wait, and is reported with the key of its
// work; Ended gets it before them.
func TestGroupPanics(t *testing.T) {
	var told string
	scope := flight.NewScope(flight.Config{Panicked: func(key string, p *panics.Error) error { told = key; return errDone }})
	group := flight.NewGroup[int](scope)
	var ended error
	f, _, err := group.Join(places.For{}, flight.Work[int]{Key: "k", Do: func(context.Context, *flight.Flight[int]) error { panic("a defect") }, Ended: func(err error) { ended = err }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Wait(t.Context()); err != errDone || ended != errDone || told != "k" {
		t.Errorf("%v; Ended has %v, and it was told of %q", err, ended, told)
	}
}

// Close waits for running work, and cancels it when it has waited long enough. Limit ends
// work earlier.
func TestScopeClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope(flight.Config{})
		group := flight.NewGroup[int](scope)
		do := func(ctx context.Context, _ *flight.Flight[int]) error { <-ctx.Done(); return ctx.Err() }
		limited, _, _ := group.Join(places.For{}, flight.Work[int]{Key: "limited", Limit: time.Second, Do: do})
		if _, err := limited.Wait(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after its limit: %v", err)
		}
		endless, _, _ := group.Join(places.For{}, flight.Work[int]{Key: "endless", Do: do})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if err := scope.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("Close after %v: %v", time.Since(begin), err)
		}
		if !endless.Ended() || !errors.Is(endless.Err(), context.Canceled) {
			t.Errorf("what ran: %v", endless.Err())
		}
	})
}

// A request may run longer than a shutdown lasts. It starts no work after Close, which
// could not wait for it, and gets an error instead of a flight that never ends.
func TestScopeClosed(t *testing.T) {
	scope := flight.NewScope(flight.Config{})
	group := flight.NewGroup[int](scope)
	if err := scope.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, ran := places.New(places.Config{N: 1}), make(chan struct{}, 1)
	do := func(context.Context, *flight.Flight[int]) error { ran <- struct{}{}; return nil }
	for _, of := range []*places.Places{nil, all} {
		if f, _, err := group.Join(places.For{Client: "a"}, flight.Work[int]{Key: "late", Places: of, Do: do}); !errors.Is(err, flight.ErrClosed) {
			t.Errorf("Join after Close = %v, %v", f, err)
		}
	}
	select {
	case <-ran:
		t.Error("work ran after Close")
	case <-time.After(50 * time.Millisecond):
	}
	if s := all.Stats(); s.Running != 0 || s.Waiting != 0 {
		t.Errorf("refused work holds a place: %+v", s)
	}
	if err := scope.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// Work that runs during Close may start more work: Close waits for all of it.
func TestScopeCloseNested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope(flight.Config{})
		group := flight.NewGroup[int](scope)
		var inner error
		outer, _, err := group.Join(places.For{}, flight.Work[int]{Key: "outer", Do: func(context.Context, *flight.Flight[int]) error {
			time.Sleep(time.Second)
			_, _, inner = group.Join(places.For{}, flight.Work[int]{Key: "inner", Do: func(context.Context, *flight.Flight[int]) error {
				time.Sleep(time.Second)
				return nil
			}})
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := scope.Close(t.Context()); err != nil || inner != nil || !outer.Ended() || time.Since(begin) != 2*time.Second {
			t.Errorf("Close after %v: %v; the inner work: %v", time.Since(begin), err, inner)
		}
	})
}

// After Outdate later clients share the next work, which begins when the current one has
// ended, however often Outdate is called meanwhile. The earlier clients get what they wait
// for.
func TestGroupOutdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope(flight.Config{})
		group := flight.NewGroup[int](scope)
		running, runs := 0, 0
		join := func() (*flight.Flight[int], bool) {
			f, joined, err := group.Join(places.For{}, flight.Work[int]{Key: "k", Do: func(ctx context.Context, f *flight.Flight[int]) error {
				if running++; running > 1 {
					t.Error("two pieces of work for one key are running")
				}
				runs++
				f.Value = runs
				time.Sleep(time.Second)
				running--
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			return f, joined
		}
		wantValue := func(f *flight.Flight[int], want int) {
			t.Helper()
			if got, err := f.Wait(t.Context()); got != want || err != nil {
				t.Errorf("the result is that of run %d, %v; want %d", got, err, want)
			}
		}
		first, _ := join()
		synctest.Wait()
		group.Outdate()
		second, joined := join()
		if joined {
			t.Error("outdated work was joined")
		}
		for range 3 {
			group.Outdate()
			if again, joined := join(); again != second || !joined {
				t.Error("work that has not begun was not joined")
			}
		}
		wantValue(first, 1)
		synctest.Wait()
		if again, joined := join(); again != second || !joined {
			t.Error("the next work, which has begun, was not joined")
		}
		group.Outdate()
		third, _ := join()
		wantValue(second, 2)
		wantValue(third, 3)
		fourth, joined := join()
		if joined {
			t.Error("work that has ended was joined")
		}
		wantValue(fourth, 4)
		if err := scope.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
