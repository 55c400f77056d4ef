package fetch_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// An upstream that asks for fewer requests gets none that no client waits for, as long as it says. What a
// client waits for is requested as always.
func TestRespite(t *testing.T) {
	for _, test := range []struct {
		status     int
		retryAfter string
		respite    time.Duration
		modules    int // for which it must ask
	}{
		{429, "60", time.Minute, 1},
		{429, "", 30 * time.Second, 1},
		{429, "0", 30 * time.Second, 1},
		{429, "86400", 5 * time.Minute, 1},
		{503, "100", 100 * time.Second, 2},
		{502, "40", 40 * time.Second, 2},
		{503, "", 0, 2},
		{500, "", 0, 2},
		{404, "60", 0, 2},
	} {
		for _, first := range []string{"client", "prediction"} {
			t.Run(fmt.Sprintf("%d %q to a %s", test.status, test.retryAfter, first), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var requests counter
					var well atomic.Bool
					n := newNetwork(t)
					n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
						requests.next()
						if well.Load() {
							text("good")(w, r)
							return
						}
						if test.retryAfter != "" {
							w.Header().Set("Retry-After", test.retryAfter)
						}
						w.WriteHeader(test.status)
					}))
					c := n.list("http://host")
					wanted := first == "client"
					files := 0
					get := func() error {
						files++
						isWanted := wanted
						ctx := fetch.WhileWanted(t.Context(), func() bool { return isWanted }, func() bool { return !isWanted })
						_, _, err := c.ReadAll(ctx, fmt.Sprintf("example.com/%d/@v/v1.0.0.mod", files), 100)
						return err
					}
					var begin time.Time
					for range test.modules {
						begin = time.Now()
						if err := get(); err == nil {
							t.Fatal("no error")
						}
					}
					if !wanted && test.respite > 0 && requests.total() != test.modules {
						t.Errorf("%d requests for a prediction", requests.total())
					}
					if c.Spared() != (test.respite > 0) {
						t.Errorf("Spared() = %v", c.Spared())
					}
					well.Store(true)
					wanted = false
					before := requests.total()
					err := get()
					if sent := requests.total() > before; sent != (test.respite == 0) || (err == nil) != sent {
						t.Fatalf("a prediction is sent: %v, %v", sent, err)
					}
					var e *fetch.Error
					if test.respite > 0 && (!errors.As(err, &e) || !errors.Is(err, fetch.ErrUnavailable) || e.RetryAfter > test.respite || e.RetryAfter < test.respite-25*time.Second) {
						t.Errorf("%v, Retry-After %v", err, e.RetryAfter)
					}
					wanted = true
					if err := get(); err != nil {
						t.Errorf("a client gets %v", err)
					}
					wanted = false
					time.Sleep(test.respite + 5*time.Second - time.Since(begin))
					if !c.Spared() {
						if err := get(); err != nil {
							t.Errorf("afterwards: %v", err)
						}
					} else if first == "prediction" {
						t.Error("it is spared for longer than it said")
					}
				})
			})
		}
	}
}

// A checksum database that is asked directly and asks for fewer requests is spared predictions, too. But a
// file of it that one of them fetches is never given up: a client may share it.
func TestRespiteOfDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var well atomic.Bool
		n := newNetwork(t)
		n.serve("host", lives(text("good")))
		n.serve("sum.example", lives(func(w http.ResponseWriter, r *http.Request) {
			if well.Load() {
				text("good")(w, r)
				return
			}
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		c := n.chain(fetch.Config{List: "http://host", Database: "sum.example"})
		read := c.SumDB("sum.example", "http://sum.example", false)
		ctx := fetch.WhileWanted(t.Context(), func() bool { return false }, func() bool {
			t.Error("a prediction gives up a file that a client may share")
			return true
		})
		if _, err := read(ctx, "lookup/a.example@v1.0.0", 100); err == nil {
			t.Fatal("no error")
		}
		if !c.Spared() {
			t.Error("the database is not spared")
		}
		well.Store(true)
		data, err := read(ctx, "lookup/b.example@v1.0.0", 100)
		wantData(t, data, err, []byte("good"))
		time.Sleep(time.Minute)
		if c.Spared() {
			t.Error("it is spared for longer than it said")
		}
	})
}

// One module that an upstream cannot serve now stops no predictions of others: an upstream that is well
// answers them. Two modules in a row that it refuses so are a sign that all requests are too many.
func TestRespiteOfModules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		requests := map[string]*counter{"bad": {}, "worse": {}, "good": {}}
		n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
			name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), ".example/")
			requests[name].next()
			if name == "good" {
				text("good")(w, r)
				return
			}
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		c := n.list("http://host")
		get := func(name, file string) error {
			t.Helper()
			ctx := fetch.WhileWanted(t.Context(), func() bool { return false }, func() bool { return true })
			_, _, err := c.ReadAll(ctx, name+".example/m/@v/"+file, 100)
			return err
		}
		want := func(name, file string, sent, ok, spared bool) {
			t.Helper()
			before := requests[name].total()
			err := get(name, file)
			if got := requests[name].total() - before; (got == 1) != sent || got > 1 || (err == nil) != ok {
				t.Errorf("%s/%s: %d requests, %v", name, file, got, err)
			}
			if c.Spared() != spared {
				t.Errorf("after %s/%s: Spared() = %v", name, file, c.Spared())
			}
		}
		want("bad", "v1.0.0.mod", true, false, false)
		want("bad", "v1.0.0.info", false, false, false) // nor is it repeated for another file
		want("good", "v1.0.0.mod", true, true, false)
		want("worse", "v1.0.0.mod", true, false, false) // what is between them was answered
		want("good", "v1.1.0.mod", true, true, false)
		time.Sleep(time.Minute)
		want("bad", "v1.1.0.mod", true, false, false)
		time.Sleep(time.Minute)
		want("worse", "v1.1.0.mod", true, false, false) // the time of the other is over
		want("bad", "v1.2.0.mod", true, false, true)
		want("good", "v1.2.0.mod", false, false, true)
		time.Sleep(time.Minute)
		want("good", "v1.2.0.mod", true, true, false)
	})
}

// Four modules that were requested together, and fail together, are a sign that all requests are too many.
func TestRespiteOfManyTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var came, all sync.WaitGroup
		came.Add(4)
		n.serve("host", lives(func(w http.ResponseWriter, _ *http.Request) {
			came.Done()
			came.Wait()
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		c := n.list("http://host")
		for i := range 4 {
			all.Go(func() {
				ctx := fetch.WhileWanted(t.Context(), func() bool { return false }, func() bool { return true })
				if _, _, err := c.ReadAll(ctx, fmt.Sprintf("m%d.example/m/@v/v1.0.0.mod", i), 100); err == nil {
					t.Error("no error")
				}
			})
		}
		all.Wait()
		if !c.Spared() {
			t.Error("it is not spared")
		}
	})
}

// Two modules that were requested together, and fail together, are one sign: that of their host.
func TestRespiteOfModulesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var came sync.WaitGroup
		came.Add(2)
		n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "third") {
				came.Done()
				came.Wait()
			}
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		c := n.list("http://host")
		get := func(name string) {
			ctx := fetch.WhileWanted(t.Context(), func() bool { return false }, func() bool { return true })
			if _, _, err := c.ReadAll(ctx, name+".example/m/@v/v1.0.0.mod", 100); err == nil {
				t.Error("no error")
			}
		}
		var both sync.WaitGroup
		for _, name := range []string{"bad", "worse"} {
			both.Go(func() { get(name) })
		}
		both.Wait()
		if c.Spared() {
			t.Error("all are spared because of two modules that were requested together")
		}
		get("third")
		if !c.Spared() {
			t.Error("none is spared although the next one fails, too")
		}
	})
}

// An upstream that answers lookups, and fails for modules, is spared.
func TestRespiteBesideLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/lookup/") || strings.Contains(r.URL.Path, "/supported") {
				text("good")(w, r)
				return
			}
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		c := n.chain(fetch.Config{List: "http://host", Database: "sum.example"})
		read := c.SumDB("sum.example", "http://127.0.0.1:1", true)
		get := func(name string) {
			t.Helper()
			ctx := fetch.WhileWanted(t.Context(), func() bool { return false }, func() bool { return true })
			if _, _, err := c.ReadAll(ctx, name+".example/m/@v/v1.0.0.mod", 100); err == nil {
				t.Error("no error")
			}
		}
		get("bad")
		data, err := read(t.Context(), "lookup/worse.example/m@v1.0.0", 100)
		wantData(t, data, err, []byte("good"))
		if c.Spared() {
			t.Error("one module is a sign for all")
		}
		get("worse")
		if !c.Spared() {
			t.Error("it is not spared")
		}
	})
}
