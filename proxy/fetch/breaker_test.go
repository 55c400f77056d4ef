package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

func wantState(t testing.TB, c *fetch.Chain, want float64) {
	t.Helper()
	if s := metric(t, c, "assay_upstream_breaker_state", "upstream=http://host"); s != want {
		t.Errorf("the state of the breaker is %v, want %v", s, want)
	}
}

// An upstream that is down gets only probes. When it works again, all concurrent clients
// get answers: no client's request is used as a probe.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			well             atomic.Bool
			probes, requests counter
		)
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				probes.next()
			} else {
				requests.next()
			}
			if !well.Load() {
				status(503)(w, r)
			}
		})
		c := n.list("http://host")
		_, err := read(t, c, zipPath)
		wantIs(t, err, fetch.ErrUnavailable)
		synctest.Wait()
		wantState(t, c, 2)
		before, begin := requests.total(), time.Now()
		for range 20 {
			_, err = read(t, c, zipPath)
			wantIs(t, err, fetch.ErrUnavailable)
			var e *fetch.Error
			if !errors.As(err, &e) || e.RetryAfter < time.Second || e.RetryAfter > 5*time.Second {
				t.Errorf("Retry-After of %v", err)
			}
		}
		if requests.total() != before || time.Since(begin) != 0 {
			t.Errorf("an open breaker let a request through, after %v", time.Since(begin))
		}
		if k := metric(t, c, "assay_upstream_requests_total", "outcome=breaker_open"); k != 20 {
			t.Errorf("breaker_open counted %v times", k)
		}
		time.Sleep(time.Minute)
		if requests.total() != before || probes.total() < 12 || probes.total() > 14 {
			t.Errorf("%d requests and %d probes in a minute", requests.total()-before, probes.total())
		}
		well.Store(true) // no failure persists
		time.Sleep(5 * time.Second)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if _, _, err := c.ReadAll(t.Context(), fmt.Sprintf("example.com/m%d/@v/list", i), 10); err != nil {
					t.Errorf("the upstream is well: %v", err)
				}
			})
			all.Go(func() {
				if _, err := read(t, c, zipPath); err != nil {
					t.Errorf("the upstream is well: %v", err)
				}
			})
		}
		all.Wait()
		wantState(t, c, 0)
	})
}

// While a probe hangs, no other request is sent, and the list continues with its next
// entry. A client that comes when the probe is due waits for it only a moment.
func TestBreakerHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests counter
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				requests.next()
			}
			hang(w, r)
		})
		n.serve("good", text("good"))
		c := n.list("http://host|http://good")
		data, err := read(t, c, zipPath)
		wantData(t, data, err, []byte("good"))
		time.Sleep(20 * time.Second) // the probe has failed by now
		before := requests.total()
		for range 40 {
			begin := time.Now()
			data, err := read(t, c, zipPath)
			wantData(t, data, err, []byte("good"))
			if d := time.Since(begin); d > time.Second {
				t.Errorf("waited %v for a probe", d)
			}
			time.Sleep(time.Second / 2)
		}
		if requests.total() != before {
			t.Error("a client's request went to see")
		}
		_, err = read(t, n.list("http://host"), zipPath)
		wantIs(t, err, context.DeadlineExceeded)
		c = n.list("http://host")
		_, err = read(t, c, zipPath)
		wantIs(t, err, context.DeadlineExceeded)
		_, err = read(t, c, zipPath) // refused, for the same reason
		wantIs(t, err, fetch.ErrUnavailable, context.DeadlineExceeded)
	})
}

// Requests of clients do not open the breaker of an upstream that works.
func TestBreakerStaysClosed(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"404": status(404), "403": status(403), "429": status(429), "500": status(500), "503": status(503),
		"hang": hang, "reset": handlers["breaks"], "cut": handlers["breaksoff"], "too large": text(strings.Repeat("x", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.serve("host", lives(handler))
				c := n.list("http://host")
				for i := range 40 {
					ctx := fetch.WithClient(t.Context(), fmt.Sprint("client ", i%2))
					_, _, _ = c.ReadAll(ctx, fmt.Sprintf("example.com/m%d/@v/list", i), 10)
				}
				synctest.Wait()
				wantState(t, c, 0)
			})
		})
	}
	t.Run("impatient callers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.serve("host", lives(hang))
			c := n.list("http://host")
			for range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := c.Fetch(ctx, zipPath, 10)
				wantIs(t, err, context.DeadlineExceeded)
				cancel()
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				_, err = c.Fetch(ctx, zipPath, 10)
				wantIs(t, err, context.Canceled)
			}
			wantState(t, c, 0)
		})
	})
	t.Run("our own descriptors", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.serve("host", text("good"))
			c := n.list("http://host")
			n.refuse("host:80", os.NewSyscallError("socket", syscall.EMFILE))
			_, err := read(t, c, zipPath)
			wantIs(t, err, fetch.ErrUnavailable)
			synctest.Wait()
			wantState(t, c, 0)
			n.refuse("host:80", nil)
			data, err := read(t, c, zipPath)
			wantData(t, data, err, []byte("good"))
		})
	})
}

// A connection that breaks with many streams is one transient failure of each.
func TestBreakerSurvivesBlip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		begin := time.Now()
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if time.Since(begin) < 50*time.Millisecond {
				panic(http.ErrAbortHandler)
			}
		})
		c := n.list("http://host")
		results := make(chan error)
		for range 100 {
			go func() {
				_, _, err := c.ReadAll(t.Context(), zipPath, 10)
				results <- err
			}()
		}
		for range 100 {
			if err := <-results; err != nil {
				t.Errorf("a caller saw it: %v", err)
			}
		}
	})
}

// If most fetches, of many modules and for many clients, fail, the upstream is the reason,
// whatever it answers to a probe.
func TestBreakerShare(t *testing.T) {
	const well, lost = false, true
	spread := func(fetches, modules, clients int, answer func(i, client int) bool) (all [][3]int) {
		for i := range fetches {
			client := i % clients
			k := [3]int{client, i % modules, 0}
			if answer(i, client) == lost {
				k[2] = 1
			}
			all = append(all, k)
		}
		return all
	}
	always := func(int, int) bool { return lost }
	crowd := spread(100, 100, 10, func(_, client int) bool { return client < 3 })
	for i := range crowd { // four fifths are of three clients
		if i%2 == 0 {
			crowd[i][0], crowd[i][2] = i%3, 1
		}
	}
	for _, test := range []struct {
		name    string
		fetches [][3]int // client, module, lost
		breaker fetch.Breaker
		want    float64
	}{
		{"all of 20 modules, 3 clients", spread(20, 20, 3, always), fetch.Breaker{}, 2},
		{"19 modules", spread(100, 19, 3, always), fetch.Breaker{}, 0},
		{"2 clients", spread(100, 100, 2, always), fetch.Breaker{}, 0},
		{"1 client", spread(300, 300, 1, always), fetch.Breaker{}, 0},
		{"every second of 40", spread(40, 40, 5, func(i, _ int) bool { return i%2 == 0 }), fetch.Breaker{}, 2},
		{"a third", spread(200, 200, 5, func(i, _ int) bool { return i%3 == 0 }), fetch.Breaker{}, 0},
		{"3 clients of 10, most fetches", spread(300, 300, 10, func(i, client int) bool { return client < 3 }), fetch.Breaker{}, 0},
		{"3 clients of 10, who ask for the most", crowd, fetch.Breaker{}, 0},
		{"fewer are enough", spread(6, 6, 3, always), fetch.Breaker{Minimum: 6}, 2},
		{"a share of its own", spread(100, 100, 5, func(i, _ int) bool { return i%3 == 0 }), fetch.Breaker{Share: 30}, 2},
		{"a window that is too short", spread(100, 100, 5, always), fetch.Breaker{Window: 19}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/lost/") {
						panic(http.ErrAbortHandler)
					}
				}))
				c := n.chain(fetch.Config{List: "http://host", Breaker: test.breaker, Retries: 1})
				for _, k := range test.fetches {
					ctx := fetch.WithClient(t.Context(), fmt.Sprint(k[0]))
					_, _, _ = c.ReadAll(ctx, fmt.Sprintf("%s/m%d/@v/list", []string{"well", "lost"}[k[2]], k[1]), 10)
				}
				synctest.Wait()
				wantState(t, c, test.want)
				time.Sleep(5 * time.Second) // the probe succeeds
				if _, _, err := c.ReadAll(t.Context(), "well/m/@v/list", 10); err != nil {
					t.Error(err)
				}
				wantState(t, c, 0)
			})
		})
	}
}

// One client that requests 1,000 modules that hang, and 200 that fail, does not affect
// others.
func TestOneClientsModules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasPrefix(r.URL.Path, "/hangs"):
				hang(w, r)
			case strings.HasPrefix(r.URL.Path, "/fails"):
				w.WriteHeader(http.StatusInternalServerError)
			}
		}))
		c := n.list("http://host")
		var all sync.WaitGroup
		for i := range 1000 {
			for _, kind := range []string{"hangs", "fails"} {
				if kind == "fails" && i >= 200 {
					continue
				}
				all.Go(func() {
					ctx := fetch.WithClient(t.Context(), "mallory")
					_, _, err := c.ReadAll(ctx, fmt.Sprintf("%s/m%d/@v/v1.0.0.info", kind, i), 10)
					wantIs(t, err, fetch.ErrUnavailable)
				})
			}
		}
		for i := range 500 {
			ctx := fetch.WithClient(t.Context(), fmt.Sprint("client ", i%4))
			begin := time.Now()
			if _, _, err := c.ReadAll(ctx, fmt.Sprintf("good/m%d/@v/v1.0.0.info", i), 10); err != nil || time.Since(begin) != 0 {
				t.Fatalf("after %v: %v", time.Since(begin), err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		all.Wait()
		wantState(t, c, 0)
	})
}

// The go command requests each prefix of a path. An upstream that answers 500 for missing
// objects answers probes so, too.
func TestUpstreamSays500ForAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/h.example/a/@") {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		c := n.chain(fetch.Config{List: "http://host", Database: "sum.example"})
		get := func(module, file string) error {
			_, _, err := c.ReadAll(t.Context(), module+file, 10)
			return err
		}
		for range 10 {
			var all sync.WaitGroup
			for _, module := range []string{"h.example", "h.example/a", "h.example/a/b", "h.example/a/b/c", "h.example/a/b/c/d", "h.example/a/b/c/d/e"} {
				all.Go(func() {
					if err := get(module, "/@v/list"); (err == nil) != (module == "h.example/a") {
						t.Errorf("%s: %v", module, err)
					}
				})
			}
			all.Wait()
			synctest.Wait()
			wantState(t, c, 0)
			for _, file := range []string{"/@latest", "/@v/v1.0.0.info", "/@v/v1.0.0.mod", "/@v/v1.0.0.zip"} {
				if err := get("h.example/a", file); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(20 * time.Second)
		}
	})
}

// Such an upstream, from which only missing objects were requested at first, is used again,
// and its habit is known from then on.
func TestUpstreamSays500FromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/good/@v/list" {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		c := n.list("http://host")
		_, _, err := c.ReadAll(t.Context(), "bad/@v/list", 10)
		wantIs(t, err, fetch.ErrUnavailable)
		synctest.Wait()
		wantState(t, c, 2)
		time.Sleep(time.Minute + 5*time.Second)
		for i := range 30 {
			if _, _, err := c.ReadAll(t.Context(), "good/@v/list", 10); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			_, _, _ = c.ReadAll(t.Context(), fmt.Sprintf("bad%d/@v/list", i), 10)
			time.Sleep(30 * time.Second)
			wantState(t, c, 0)
		}
	})
}

// A path that fails is not requested for a while, which grows, is returned, and ends with a
// success. Other paths are not affected, even of the same module.
func TestRememberedFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			requests counter
			well     atomic.Bool
		)
		n := newNetwork(t)
		n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/a.example/@v/branch.info" && !well.Load() {
				requests.next()
				status(500)(w, r)
			}
		}))
		c := n.list("http://host")
		get := func(path string) error {
			_, _, err := c.ReadAll(t.Context(), path, 10)
			return err
		}
		for _, pause := range []time.Duration{5, 10, 20, 40, 60, 60} {
			pause *= time.Second
			first := get("a.example/@v/branch.info")
			before, begin := requests.total(), time.Now()
			second := get("a.example/@v/branch.info")
			var e *fetch.Error
			if !errors.As(second, &e) || e.RetryAfter != pause || second.Error() != first.Error() || errors.Is(second, fs.ErrNotExist) {
				t.Errorf("got %v, Retry-After %v, want %v, %v", second, e.RetryAfter, first, pause)
			}
			if requests.total() != before || time.Since(begin) != 0 {
				t.Error("it was asked for again")
			}
			if err := get("a.example/@v/list"); err != nil {
				t.Errorf("another path of the module: %v", err)
			}
			time.Sleep(pause)
		}
		if k := metric(t, c, "assay_upstream_requests_total", "outcome=remembered"); k != 6 {
			t.Errorf("remembered counted %v times", k)
		}
		well.Store(true)
		if err := get("a.example/@v/branch.info"); err != nil {
			t.Error(err)
		}
		well.Store(false)
		_ = get("a.example/@v/branch.info")
		time.Sleep(5 * time.Second)
		well.Store(true)
		if err := get("a.example/@v/branch.info"); err != nil {
			t.Errorf("the time still grows: %v", err)
		}
	})
}

// Paths that failed before and during an outage are requested as soon as it is over.
func TestRememberedFailureEndsWithOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lives, well atomic.Bool
		lives.Store(true)
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if !well.Load() && (r.URL.Path != "/" || !lives.Load()) {
				w.WriteHeader(http.StatusBadGateway)
			}
		})
		c := n.list("http://host")
		for range 6 { // until it is remembered for a minute
			_, err := read(t, c, zipPath)
			wantIs(t, err, fetch.ErrUnavailable)
			time.Sleep(time.Minute)
		}
		_, err := read(t, c, zipPath)
		wantIs(t, err, fetch.ErrUnavailable)
		lives.Store(false)
		_, err = read(t, c, "example.com/b/@v/v1.0.0.zip")
		wantIs(t, err, fetch.ErrUnavailable)
		synctest.Wait()
		wantState(t, c, 2)
		well.Store(true)
		time.Sleep(5 * time.Second)
		if _, err := read(t, c, zipPath); err != nil {
			t.Error(err)
		}
	})
}

// An upstream that always answers its probe with 503, such as a gateway with nothing at its
// root, is used again a minute after a failure; from then on that answer is ignored.
func TestBreakerOfGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" || r.URL.Path == "/bad/@v/list" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		c := n.list("http://host")
		for i := range 4 {
			_, _, err := c.ReadAll(t.Context(), "bad/@v/list", 10)
			wantIs(t, err, fetch.ErrUnavailable)
			synctest.Wait()
			if i == 0 {
				wantState(t, c, 2)
				time.Sleep(70 * time.Second)
			}
			wantState(t, c, 0)
			for range 3 {
				if _, _, err := c.ReadAll(t.Context(), "good/@v/list", 10); err != nil {
					t.Errorf("round %d: %v", i, err)
				}
				time.Sleep(4 * time.Second)
				wantState(t, c, 0)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A gateway whose upstream is down gets no more than one request a minute, and is used at
// once when that works again.
func TestBreakerOfGatewayInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var gone atomic.Bool
		var asked counter
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				asked.next()
			}
			if gone.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		c := n.list("http://host")
		for range 3 {
			if _, _, err := c.ReadAll(t.Context(), "m/@v/list", 10); err != nil {
				t.Error(err)
			}
			gone.Store(true)
			before := asked.total()
			for i := range 600 { // ten minutes
				_, _, err := c.ReadAll(t.Context(), fmt.Sprint("m", i, "/@v/list"), 10)
				wantIs(t, err, fetch.ErrUnavailable)
				time.Sleep(time.Second)
			}
			if n := asked.total() - before; n > 150 {
				t.Errorf("%d requests in an outage of ten minutes", n)
			}
			gone.Store(false)
			time.Sleep(6 * time.Second)
			wantState(t, c, 0)
		}
	})
}

// An upstream that answers clients while its probe fails is alive.
func TestBreakerBelievesAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/":
				time.Sleep(2 * time.Second)
				w.WriteHeader(http.StatusServiceUnavailable)
			case "/bad/@v/list":
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		c := n.list("http://host")
		for range 3 {
			_, _, err := c.ReadAll(t.Context(), "bad/@v/list", 10)
			wantIs(t, err, fetch.ErrUnavailable)
			time.Sleep(time.Second)
			if _, _, err := c.ReadAll(t.Context(), "good/@v/list", 10); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			wantState(t, c, 0)
		}
	})
}

// A path that fails for several clients is not requested again for them because another client
// requests thousands of paths that fail.
func TestFailuresOfOthersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var requests counter
		n.serve("host", lives(func(w http.ResponseWriter, _ *http.Request) {
			requests.next()
			w.WriteHeader(501)
		}))
		c := n.list("http://host")
		fail := func(path string) {
			_, _, err := c.ReadAll(t.Context(), path, 10)
			wantIs(t, err, fetch.ErrUnavailable)
		}
		for _, some := range []string{"popular", "other", "popular"} {
			for i := range 100 {
				fail(fmt.Sprint(some, i))
			}
		}
		for i := range 10_000 {
			fail(fmt.Sprintf("m%d", i))
		}
		before := requests.total()
		for i := range 100 {
			fail(fmt.Sprintf("popular%d", i))
		}
		if again := requests.total() - before; again > 0 {
			t.Errorf("%d of 100 paths were requested again", again)
		}
	})
}

// The number of remembered failures is limited.
func TestRememberedFailuresAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", lives(status(501)))
		c := n.list("http://host")
		for i := range 2500 {
			_, _, err := c.ReadAll(t.Context(), fmt.Sprintf("m%d/@v/list", i), 10)
			wantIs(t, err, fetch.ErrUnavailable)
		}
		_, _, _ = c.ReadAll(t.Context(), strings.Repeat("x", 10_000), 10)
		if n := c.Remembered(); n != 2000 {
			t.Errorf("%d failures are remembered, want 2000", n)
		}
	})
}
