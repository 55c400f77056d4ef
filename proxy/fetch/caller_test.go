package fetch_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// after answers after a time, if the client still waits.
func after(d time.Duration, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			next(w, r)
		case <-r.Context().Done():
		}
	}
}

// patient is the context of a fill, which has three minutes.
func patient(t testing.TB, client string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return fetch.WithPatience(fetch.WithClient(ctx, client))
}

// An upstream that always answers late answers callers that have time, in any list, and from
// then on all callers.
func TestPatience(t *testing.T) {
	for _, test := range []struct {
		name, list string
		upstream   http.HandlerFunc
		within     time.Duration
		later      time.Duration // how long the next fetch takes, without patience; 0: it fails
	}{
		{"9 s for everything", "http://host", after(9*time.Second, text("good")), 35 * time.Second, 9 * time.Second},
		{"14 s for everything", "http://host", after(14*time.Second, text("good")), 40 * time.Second, 14 * time.Second},
		{"60 s for modules", "http://host", lives(after(time.Minute, text("good"))), 86 * time.Second, 0},
		{"before an absence", "http://host|http://absent", after(9*time.Second, text("good")), 40 * time.Second, 9 * time.Second},
		{"before a failure", "http://host|http://sick", after(9*time.Second, text("good")), 40 * time.Second, 9 * time.Second},
		{"before off", "http://host,off", after(9*time.Second, text("good")), 35 * time.Second, 9 * time.Second},
		{"after an absence", "http://absent,http://host", after(9*time.Second, text("good")), 35 * time.Second, 9 * time.Second},
		{"elsewhere", "http://host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://late/x", http.StatusFound)
		}, 35 * time.Second, 0},
	} {
		for _, file := range []string{zipPath, "example.com/a/@v/list"} {
			t.Run(test.name+" "+file, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t)
					n.serve("host", test.upstream)
					n.serve("late", after(9*time.Second, text("good")))
					n.serve("absent", status(404))
					n.serve("sick", status(503))
					c := n.list(test.list)
					get := func(ctx context.Context, path string) (data []byte, err error) {
						if !strings.HasSuffix(path, ".zip") {
							data, _, err = c.ReadAll(ctx, path, 100)
							return data, err
						}
						object, err := c.Fetch(ctx, path, 100)
						if err != nil {
							return nil, err
						}
						defer object.Body.Close()
						return io.ReadAll(object.Body)
					}
					begin := time.Now()
					data, err := get(patient(t, ""), file)
					wantData(t, data, err, []byte("good"))
					if d := time.Since(begin); d > test.within {
						t.Errorf("took %v, want at most %v", d, test.within)
					}
					begin = time.Now()
					data, err = get(t.Context(), strings.Replace(file, "/a/", "/b/", 1))
					if test.later == 0 {
						wantIs(t, err, fetch.ErrUnavailable)
						return
					}
					wantData(t, data, err, []byte("good"))
					if d := time.Since(begin); d != test.later {
						t.Errorf("the next one took %v, want %v", d, test.later)
					}
				})
			})
		}
	}
}

// The same for a checksum database behind such an upstream, and for a direct one.
func TestPatienceForDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", after(9*time.Second, text("good")))
		n.serve("sum.example", after(9*time.Second, text("good")))
		c := n.chain(fetch.Config{List: "http://host", Database: "sum.example"})
		for _, proxied := range []bool{true, false} {
			read := c.SumDB("sum.example", "http://sum.example", proxied)
			data, err := read(patient(t, ""), "lookup/a.example@v1.0.0", 100)
			wantData(t, data, err, []byte("good"))
			data, err = read(t.Context(), "lookup/b.example@v1.0.0", 100)
			wantData(t, data, err, []byte("good"))
		}
	})
}

// There is no last attempt at a dead upstream, or for a path that failed recently, and it
// ends in time for its caller.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.host("hole:80", nil)
		n.serve("stuck", hang)
		n.serve("host", lives(hang))
		var asked counter
		n.serve("dying", sequence(&asked, status(503), hang))
		for _, list := range []string{"http://hole", "http://stuck", "http://nobody", "http://dying"} {
			begin := time.Now()
			_, _, err := n.list(list).ReadAll(patient(t, ""), zipPath, 100)
			wantIs(t, err, fetch.ErrUnavailable)
			if d := time.Since(begin); d > 25*time.Second {
				t.Errorf("%s: took %v, want at most 25 s", list, d)
			}
		}
		c := n.list("http://host")
		begin := time.Now()
		_, _, err := c.ReadAll(patient(t, ""), zipPath, 100)
		wantIs(t, err, fetch.ErrUnavailable, context.DeadlineExceeded)
		wantIsNot(t, err, fs.ErrNotExist)
		if d := time.Since(begin); d < 170*time.Second || d > 178*time.Second {
			t.Errorf("took %v, want a little less than 3 minutes", d)
		}
		begin = time.Now()
		_, _, err = c.ReadAll(patient(t, ""), zipPath, 100)
		wantIs(t, err, fetch.ErrUnavailable, context.DeadlineExceeded)
		if d := time.Since(begin); d != 0 {
			t.Errorf("what failed a moment ago was asked for again, for %v", d)
		}
	})
}

// The number of last attempts is limited, and lower for one client.
func TestPatienceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu        sync.Mutex
			now, most int
		)
		begin := time.Now()
		n := newNetwork(t)
		n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
			if time.Since(begin) > 20*time.Second { // the three first attempts have begun
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				defer func() {
					mu.Lock()
					now--
					mu.Unlock()
				}()
			}
			if strings.HasPrefix(r.URL.Path, "/late") {
				after(time.Minute, text("good"))(w, r)
				return
			}
			hang(w, r)
		}))
		c := n.list("http://host")
		var all sync.WaitGroup
		get := func(client, path string, want error) {
			all.Go(func() {
				_, _, err := c.ReadAll(patient(t, client), path, 100)
				if want != nil {
					wantIs(t, err, want)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		for i := range 100 {
			get("mallory", fmt.Sprintf("hangs%d/@v/list", i), context.DeadlineExceeded)
		}
		time.Sleep(time.Second)
		for i := range 4 {
			get("alice", fmt.Sprintf("late%d/@v/list", i), nil)
		}
		all.Wait()
		if most != 8 {
			t.Errorf("%d last attempts at a time, want 8", most)
		}
	})
}

// What fails while no client waits for it says nothing to clients: no path is remembered, no breaker
// opens because of many such fetches, and there is no last attempt. When a client comes meanwhile, it
// is a fetch like any other.
func TestWhileWanted(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		t.Run(fmt.Sprintf("wanted %v", wanted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var late sync.Map // paths of which the first requests get no answer
				n := newNetwork(t)
				n.serve("host", lives(func(w http.ResponseWriter, r *http.Request) {
					if _, again := late.Load(r.URL.Path); again {
						text("good")(w, r)
						return
					}
					<-r.Context().Done()
				}))
				c := n.list("http://host")
				for client := range 4 {
					for i := range 20 {
						ctx := fetch.WhileWanted(patient(t, fmt.Sprint(client)), func() bool { return wanted }, func() bool { return !wanted })
						path := fmt.Sprintf("example.com/%d-%d/@v/v1.0.0.mod", client, i)
						begin := time.Now()
						if _, _, err := c.ReadAll(ctx, path, 100); err == nil {
							t.Fatal("no error")
						}
						if d := time.Since(begin); !wanted && d > time.Minute {
							t.Errorf("it took %v", d)
						}
						late.Store("/"+path, true)
					}
				}
				state := 0.0
				if wanted {
					state = 2
				}
				wantState(t, c, state)
				if !wanted {
					data, _, err := c.ReadAll(t.Context(), "example.com/0-0/@v/v1.0.0.mod", 100)
					wantData(t, data, err, []byte("good"))
				}
			})
		})
	}
}
