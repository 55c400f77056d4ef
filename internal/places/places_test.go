package places_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/internal/places"
)

// bench makes claims for a test and fails it if they are refused.
type bench struct {
	*testing.T
	*places.Places
}

func (b bench) claim(client, module, host string) *places.Claim {
	b.Helper()
	c, err := b.Claim(places.For{Client: client, Module: module, Host: host})
	if err != nil {
		b.Fatalf("claim of %s: %v", client, err)
	}
	return c
}

// placed reports whether a claim has a place now.
func placed(c *places.Claim) bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	got, err := c.Take(ctx, 0)
	return err == nil && got != nil
}

// take takes a place that must be free at once.
func (b bench) take(c *places.Claim) context.Context {
	b.Helper()
	begin := time.Now()
	ctx, err := c.Take(b.Context(), time.Minute)
	if err != nil || time.Since(begin) > 0 {
		b.Fatalf("took a place after %v: %v", time.Since(begin), err)
	}
	return ctx
}

// wantYield checks whether the work in ctx must yield.
func wantYield(t *testing.T, ctx context.Context, want bool) {
	t.Helper()
	synctest.Wait()
	if got := errors.Is(context.Cause(ctx), places.ErrYielded); got != want {
		t.Errorf("yields: %v, want %v", got, want)
	}
}

// For any number of claims of one client, another client finds a place.
func TestShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 16})}
		for i := range 12 {
			b.take(b.claim("a", fmt.Sprint(i), "host"))
		}
		last := b.claim("a", "m", "host")
		if s := b.Stats(); s.Running != 12 || s.Waiting != 1 {
			t.Errorf("one client has %d places, %d claims wait; want 12, 1", s.Running, s.Waiting)
		}
		b.take(b.claim("b", "m", "host"))
		if placed(last) {
			t.Error("a client has more than its share")
		}
	})
}

// A freed place goes to the client that holds the fewest, then the module, then the host;
// among equals to the oldest claim.
func TestOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 3})}
		var held []*places.Claim
		for _, who := range [][3]string{{"a", "m1", "h1"}, {"a", "m2", "h2"}, {"b", "m1", "h1"}} {
			held = append(held, b.claim(who[0], who[1], who[2]))
		}
		// Freed is a place of a: a holds one, b one, h1 two.
		var (
			got  []string
			mu   sync.Mutex
			wait = func(name string, c *places.Claim) {
				if _, err := c.Take(t.Context(), time.Minute); err != nil {
					t.Error(err)
				}
				mu.Lock()
				got = append(got, name)
				mu.Unlock()
				c.Release()
			}
		)
		for _, next := range []struct{ name, client, module, host string }{
			{"5 host with two", "a", "m9", "h1"},
			{"7 module with two", "b", "m1", "h1"},
			{"4 host with none", "b", "m8", "h8"},
			{"2 newcomer", "c", "m1", "h1"},
			{"6 the same later", "a", "m9", "h1"},
			{"3 newcomer later", "d", "m1", "h1"},
			{"1 newcomer, module with none", "c", "m7", "h1"},
		} {
			go wait(next.name, b.claim(next.client, next.module, next.host))
		}
		held[1].Release()
		synctest.Wait()
		if len(got) != 7 || !slices.IsSorted(got) {
			t.Errorf("places went to %q", got)
		}
	})
}

// The queue of a client is limited, and that of all clients: when it is full, a client
// with few claims displaces a claim of the one with the most.
func TestQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 1})}
		b.claim("first", "m", "h")
		var claims []*places.Claim
		for i := range 256 {
			claims = append(claims, b.claim("a", fmt.Sprint(i), "h"))
		}
		if _, err := b.Claim(places.For{Client: "a"}); err != places.ErrClientFull {
			t.Errorf("claim 257 of one client: %v, want ErrClientFull", err)
		}
		for i := range 3 * 256 {
			b.claim(fmt.Sprint("client", i), "m", "h")
		}
		c := b.claim("newcomer", "m", "h")
		if placed(c) {
			t.Error("there was no place")
		}
		if _, err := claims[255].Take(t.Context(), time.Hour); err != places.ErrFull {
			t.Errorf("the newest claim of the longest queue: %v, want ErrFull", err)
		}
		if s := b.Stats(); s.ClientFull != 1 || s.Full != 1 || s.Waiting != 4*256-1 {
			t.Errorf("stats %+v", s)
		}
	})
}

// A claim that waits too long gets an error; a client that leaves removes its claim.
func TestLateAndLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 1})}
		first := b.claim("a", "m", "h")
		late, left, gone := b.claim("b", "m", "h"), b.claim("c", "m", "h"), b.claim("d", "m", "h")
		if _, err := late.Take(t.Context(), 5*time.Second); err != places.ErrLate {
			t.Errorf("after 5 s: %v, want ErrLate", err)
		}
		left.Leave("c")
		if _, err := left.Take(t.Context(), time.Second); err != places.ErrLeft {
			t.Errorf("after its client has left: %v, want ErrLeft", err)
		}
		if left.Join("x") {
			t.Error("a claim that was dropped can be joined")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := gone.Take(ctx, time.Second); err != context.Canceled {
			t.Errorf("with a context that has ended: %v", err)
		}
		for _, c := range []*places.Claim{first, late, left, gone, first} {
			c.Release()
		}
		if n := b.Leftovers(); n != 0 {
			t.Errorf("%d leftovers", n)
		}
	})
}

// Sixteen dripping transfers of different clients yield to any new claim; while no claim
// waits none yields.
func TestDripping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 16})}
		var work []context.Context
		drip := time.NewTicker(time.Second)
		defer drip.Stop()
		for i := range 16 {
			c := b.claim(fmt.Sprint("client", i), fmt.Sprint(i), "evil.example")
			ctx := b.take(c)
			context.AfterFunc(ctx, c.Release)
			go func() {
				for range 3600 {
					c.Progress(1)
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
						return
					}
				}
			}()
			work = append(work, ctx)
		}
		time.Sleep(time.Minute)
		for _, ctx := range work {
			wantYield(t, ctx, false)
		}
		for i := range 16 {
			b.take(b.claim(fmt.Sprint("new", i), "m", "good.example")).Done()
		}
		if s := b.Stats(); s.Slow != 16 || s.Running != 16 {
			t.Errorf("stats %+v, want 16 that had to yield", s)
		}
	})
}

// move makes progress of n bytes per second until ctx ends.
func move(ctx context.Context, c *places.Claim, n int) {
	for ctx.Err() == nil {
		c.Progress(n / 10)
		select {
		case <-time.After(time.Second / 10):
		case <-ctx.Done():
		}
	}
}

// Work that makes progress never yields; sluggish work only to a client that holds fewer
// places; work without progress yet has its time; firm work stays.
func TestYields(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		rate           int // bytes per second
		after          time.Duration
		client         string
		firm, left     bool
		wantYieldAfter time.Duration // -1: never
	}{
		{"good", 100_000, time.Minute, "b", false, false, -1},
		{"good, same client", 100_000, time.Minute, "a", false, false, -1},
		{"sluggish", 20_000, time.Minute, "b", false, false, 0},
		{"sluggish, same client", 20_000, time.Minute, "a", false, false, -1},
		{"crawling, same client", 1000, time.Minute, "a", false, false, 0},
		{"crawling, firm", 1000, time.Minute, "b", true, false, -1},
		{"just begun", 1000, time.Second, "b", false, false, 2 * time.Second},
		{"hanging", 0, time.Second, "b", false, false, 9 * time.Second},
		{"abandoned", 100_000, time.Second, "b", false, true, 0},
		{"abandoned, firm", 100_000, time.Second, "b", true, true, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bench{t, places.New(places.Config{N: 1, Patience: 10 * time.Second})}
				c := b.claim("a", "m", "h")
				ctx := b.take(c)
				if test.rate > 0 {
					go move(ctx, c, test.rate)
				}
				if test.firm {
					c.Firm()
				}
				if test.left {
					c.Leave("a")
				}
				time.Sleep(test.after)
				b.claim(test.client, "m2", "h2")
				time.Sleep(max(test.wantYieldAfter, 0) - time.Millisecond)
				if test.wantYieldAfter > 0 {
					wantYield(t, ctx, false)
				}
				time.Sleep(time.Second + 2*time.Millisecond)
				if test.wantYieldAfter < 0 {
					time.Sleep(time.Hour)
				}
				wantYield(t, ctx, test.wantYieldAfter >= 0)
				c.Release()
			})
		})
	}
}

// A transfer that was fast and now stalls yields; one that was slow and now is fast does
// not; one that has all its bytes and rests has its full time again.
func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 4, Patience: 10 * time.Second})}
		stalls, speeds, rests := b.claim("a", "1", "h"), b.claim("b", "2", "h"), b.claim("c", "3", "h")
		fast, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		go move(fast, stalls, 1e6)
		go move(fast, speeds, 100)
		go move(fast, rests, 1e6)
		a, s, r := b.take(stalls), b.take(speeds), b.take(rests)
		b.claim("d", "4", "h").Firm()
		time.Sleep(time.Minute + time.Millisecond)
		rests.Rest()
		go move(s, speeds, 1e6)
		time.Sleep(7 * time.Second)
		b.claim("e", "5", "h")
		wantYield(t, a, true)
		wantYield(t, s, false)
		wantYield(t, r, false)
		stalls.Release()
		speeds.Firm()
		time.Sleep(4 * time.Second)
		b.claim("f", "6", "h")
		wantYield(t, r, true)
		speeds.Release()
	})
}

// Work without progress keeps its place as long as a client waits, if Patience is 0.
func TestNoPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 1})}
		c := b.claim("a", "m", "h")
		ctx := b.take(c)
		next := b.claim("b", "m", "h")
		time.Sleep(time.Hour)
		wantYield(t, ctx, false)
		c.Leave("a")
		time.Sleep(time.Second)
		wantYield(t, ctx, true)
		if c.Join("a") {
			t.Error("work that yields can be joined")
		}
		c.Release()
		b.take(next)
	})
}

// A client that joins a waiting claim brings its own share along.
func TestJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bench{t, places.New(places.Config{N: 4})}
		for i := range 3 {
			b.claim("a", fmt.Sprint(i), "h")
		}
		c := b.claim("a", "popular", "h")
		if !c.Join("a") || b.Stats().Running != 3 {
			t.Fatalf("stats %+v", b.Stats())
		}
		if !c.Join("b") {
			t.Error("cannot be joined")
		}
		if n := b.Stats().Clients; n != 6 {
			t.Errorf("%d requests wait, want 6", n)
		}
		b.take(c)
		c.Leave("a")
		c.Leave("a")
		late := b.claim("d", "m", "h")
		time.Sleep(time.Minute)
		if placed(late) {
			t.Error("work that a client waits for has yielded")
		}
	})
}

// Under concurrent use no more work runs than there are places, no client has more than
// its share, and no count is left in the end.
func TestChaos(t *testing.T) {
	p := places.New(places.Config{N: 8, Patience: time.Millisecond, Window: time.Millisecond})
	var (
		all     atomic.Int32
		clients [5]atomic.Int32
		wg      sync.WaitGroup
	)
	for i := range 64 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			client := i % len(clients)
			for range 20 {
				c, err := p.Claim(places.For{Client: fmt.Sprint(client), Module: fmt.Sprint(r.IntN(9)), Host: fmt.Sprint(r.IntN(3))})
				if err != nil {
					t.Error(err)
					return
				}
				if r.IntN(4) == 0 {
					c.Leave(fmt.Sprint(client))
				}
				if ctx, err := c.Take(t.Context(), time.Duration(r.IntN(3000))*time.Microsecond); err == nil {
					if n := all.Add(1); n > 8 {
						t.Errorf("%d run", n)
					}
					if n := clients[client].Add(1); n > 6 {
						t.Errorf("one client has %d places", n)
					}
					c.Progress(r.IntN(100))
					select {
					case <-ctx.Done():
					case <-time.After(time.Duration(r.IntN(2000)) * time.Microsecond):
					}
					clients[client].Add(-1)
					all.Add(-1)
				}
				c.Release()
			}
		})
	}
	wg.Wait()
	if n := p.Leftovers(); n != 0 {
		t.Errorf("%d leftovers", n)
	}
}

// A site with any number of clients takes neither all places nor the whole queue. Its
// clients come after one of another site that holds as few places; among themselves they
// share as before.
func TestSites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		site := func(client string) string { name, _, _ := strings.Cut(client, "/"); return name }
		b := bench{t, places.New(places.Config{N: 4, Site: site})}
		var held []*places.Claim
		for i := range 3 {
			held = append(held, b.claim(fmt.Sprint("x/", i), fmt.Sprint(i), "h"))
			b.take(held[i])
		}
		for i := range 4*256 + 1 {
			c := b.claim(fmt.Sprint("x/", 3+i/2), fmt.Sprint("m", i), "h")
			if i == 0 && placed(c) {
				t.Fatal("one site has all places")
			}
		}
		if _, err := b.Claim(places.For{Client: "x/3"}); err != places.ErrFull {
			t.Errorf("a claim of a client at a site that fills the queue: %v, want ErrFull", err)
		}
		b.claim("x/new", "m", "h") // displaces a claim of a client with two
		first := b.claim("y/1", "m", "h")
		b.take(first) // the fourth place
		second := b.claim("z/1", "m", "h")
		held[0].Release()
		b.take(second)
	})
}

// Work that turns out to be expensive is given up if no client waits for it, and then no client joins it.
func TestGiveUp(t *testing.T) {
	b := bench{t, places.New(places.Config{N: 2})}
	c := b.claim("a", "m", "h")
	if !c.Wanted() || c.GiveUp() {
		t.Error("work is given up that a client waits for")
	}
	c.Leave("a")
	if c.Wanted() || !c.Join("b") {
		t.Error("a client cannot join work that runs")
	}
	if c.GiveUp() {
		t.Error("work is given up that another client waits for")
	}
	c.Leave("b")
	if !c.GiveUp() || c.Join("c") {
		t.Error("work is not given up that no client waits for")
	}
	if n := b.Stats().Abandoned; n != 1 {
		t.Errorf("%d pieces of work are abandoned, want one", n)
	}
	c.Release()
	firm := b.claim("a", "m", "h")
	firm.Leave("a")
	if firm.Firm(); firm.GiveUp() {
		t.Error("work is given up that is almost done")
	}
	firm.Release()
}
