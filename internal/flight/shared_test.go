package flight_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/panics"
)

// The work runs once for all callers, also when the first one leaves, with the values of
// that caller's context; afterwards it runs again.
func TestSharedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := flight.NewShared()
		defer s.Close()
		type key struct{}
		runs, release := 0, make(chan struct{})
		work := func(ctx context.Context) (string, error) {
			runs++
			<-release
			return ctx.Value(key{}).(string), ctx.Err()
		}
		first, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "of the first"))
		results := make(chan error, 3)
		go func() {
			_, err := flight.Do(first, s, "a", time.Minute, work)
			results <- err
		}()
		synctest.Wait()
		for range 2 {
			go func() {
				value, err := flight.Do(t.Context(), s, "a", time.Minute, work)
				if value != "of the first" {
					t.Errorf("value %q", value)
				}
				results <- err
			}()
		}
		synctest.Wait()
		leave()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller that left: %v", err)
		}
		close(release)
		for range 2 {
			if err := <-results; err != nil {
				t.Errorf("a caller that stayed: %v", err)
			}
		}
		if runs != 1 {
			t.Errorf("the work was done %d times", runs)
		}
		again := context.WithValue(t.Context(), key{}, "again")
		if value, err := flight.Do(again, s, "a", time.Minute, work); err != nil || value != "again" || runs != 2 {
			t.Errorf("afterwards: %q, %v, done %d times", value, err, runs)
		}
	})
}

// Work ends with its last caller, with its limit and with Close; the next caller after
// the last one starts it again.
func TestSharedEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := flight.NewShared()
		ended := make(chan error, 1)
		work := func(ctx context.Context) (int, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return 0, ctx.Err()
		}
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		if _, err := flight.Do(ctx, s, "a", time.Minute, work); !errors.Is(err, context.Canceled) {
			t.Errorf("the last caller left: %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("work without a caller ended with %v", err)
		}
		begin := time.Now()
		if _, err := flight.Do(t.Context(), s, "a", time.Minute, work); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the limit: %v", err)
		}
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("the limit came after %v", took)
		}
		<-ended
		time.AfterFunc(time.Second, s.Close)
		if _, err := flight.Do(t.Context(), s, "a", time.Minute, work); !errors.Is(err, context.Canceled) {
			t.Errorf("Close: %v", err)
		}
		<-ended
		if _, err := flight.Do(t.Context(), s, "a", time.Minute, work); !errors.Is(err, flight.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// A panic of the work is an error of its callers.
func TestSharedPanic(t *testing.T) {
	t.Parallel()
	s := flight.NewShared()
	defer s.Close()
	_, err := flight.Do(t.Context(), s, "a", time.Minute, func(context.Context) (int, error) { panic("broken") })
	var p *panics.Error
	if !errors.As(err, &p) {
		t.Errorf("error %v, want a *panics.Error", err)
	}
}

// After Anew callers start new work; earlier callers get what they wait for.
func TestSharedAnew(t *testing.T) {
	s := flight.NewShared()
	defer s.Close()
	begun, release := make(chan struct{}), make(chan struct{})
	earlier := make(chan int)
	go func() {
		n, _ := flight.Do(t.Context(), s, "k", time.Minute, func(context.Context) (int, error) {
			close(begun)
			<-release
			return 1, nil
		})
		earlier <- n
	}()
	<-begun
	s.Anew()
	if n, err := flight.Do(t.Context(), s, "k", time.Minute, func(context.Context) (int, error) { return 2, nil }); n != 2 || err != nil {
		t.Errorf("a later caller gets %d, %v", n, err)
	}
	close(release)
	if n := <-earlier; n != 1 {
		t.Errorf("the earlier caller gets %d", n)
	}
}
