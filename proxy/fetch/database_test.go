package fetch_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// sumProxy answers for the checksum database sum.example: state is the status of
// supported, and of everything else.
func sumProxy(name string, state *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		code := int(state.Load())
		if !strings.HasPrefix(r.URL.Path, "/sumdb/sum.example/") {
			code = 400
		}
		if code != 200 {
			w.WriteHeader(code)
			return
		}
		text(name)(w, r)
	}
}

func TestSumDB(t *testing.T) {
	for _, test := range []struct {
		list     string
		proxies  bool
		from     string // the host that answers
		err      error
		elsewise string
	}{
		{"http://yes", true, "yes", nil, ""},
		{"http://no,http://yes", true, "yes", nil, ""},
		{"http://no,http://gone", true, "direct", nil, ""},
		{"http://no|", true, "direct", nil, ""},
		{"http://sick|http://yes", true, "yes", nil, ""},
		{"http://denied|http://yes", true, "yes", nil, ""},
		{"http://sick,http://yes", true, "", fetch.ErrUnavailable, ""},
		{"http://denied,http://yes", true, "", fetch.ErrRefused, ""},
		{"http://empty,http://yes", true, "", fetch.ErrUnavailable, ""},
		// Like the go command: a failure before | does not lead to the database.
		{"http://sick|http://no", true, "", fetch.ErrUnavailable, ""},
		{"http://sick|", true, "", fetch.ErrUnavailable, ""},
		// Unlike for the go command, off means off.
		{"http://no,off", true, "", fetch.ErrUnavailable, ""},
		{"off", true, "", fetch.ErrUnavailable, ""},
		{"http://yes,off", true, "yes", nil, ""},
		{"http://no,direct", true, "direct", nil, ""},
		{"http://sick|direct", true, "direct", nil, ""},
		{"http://sick,direct", true, "", fetch.ErrUnavailable, ""},
		{"direct", true, "direct", nil, ""},
		{"http://yes", false, "direct", nil, ""},
		{"off", false, "direct", nil, ""},
	} {
		t.Run(test.list, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				for host, code := range map[string]int32{"yes": 200, "no": 404, "gone": 410, "sick": 503, "denied": 403, "empty": 204} {
					var state atomic.Int32
					state.Store(code)
					n.serve(host, sumProxy(host, &state))
				}
				var asked []string
				n.serve("sum.example", func(w http.ResponseWriter, r *http.Request) {
					asked = append(asked, r.URL.Path)
					text("direct")(w, r)
				})
				get := n.list(test.list).SumDB("sum.example", "http://sum.example", test.proxies)
				data, err := get(t.Context(), "lookup/example.com/!a@v1.0.0", 100)
				if string(data) != test.from || (err == nil) != (test.err == nil) {
					t.Errorf("got %q, %v, want %q, %v", data, err, test.from, test.err)
				}
				if test.err != nil {
					wantIs(t, err, test.err)
					wantIsNot(t, err, fs.ErrNotExist)
					wantErrorType(t, err)
				}
				if want := test.from == "direct"; (len(asked) > 0) != want || want && asked[0] != "/lookup/example.com/!a@v1.0.0" {
					t.Errorf("the database was asked %q", asked)
				}
			})
		})
	}
}

// The way to the database is looked for again after a while, and after a failure.
func TestSumDBForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var one, two atomic.Int32
		one.Store(404)
		two.Store(200)
		n := newNetwork(t)
		n.serve("one", sumProxy("one", &one))
		n.serve("two", sumProxy("two", &two))
		n.serve("sum.example", text("direct"))
		get := n.list("http://one|http://two").SumDB("sum.example", "http://sum.example", true)
		want := func(want string) {
			t.Helper()
			data, err := get(t.Context(), "latest", 100)
			if string(data) != want || err != nil {
				t.Errorf("got %q, %v, want %q", data, err, want)
			}
		}
		want("two")
		one.Store(200)
		want("two") // remembered
		time.Sleep(10*time.Minute + 1)
		want("one")
		one.Store(503)
		want("two") // at once
		two.Store(503)
		if data, err := get(t.Context(), "latest", 100); err == nil {
			t.Errorf("everything is down: %q", data)
		}
		one.Store(200)
		time.Sleep(6 * time.Second) // if the breaker has opened
		want("one")
		one.Store(404) // absence is an answer, not a failure
		_, err := get(t.Context(), "latest", 100)
		wantIs(t, err, fs.ErrNotExist)
	})
}

// Concurrent callers look for the way once.
func TestSumDBAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var supported counter
		n := newNetwork(t)
		n.serve("yes", func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/supported") {
				supported.next()
				time.Sleep(time.Second)
			}
		})
		get := n.list("http://yes").SumDB("sum.example", "", true)
		results := make(chan error)
		for range 50 {
			go func() {
				_, err := get(t.Context(), "latest", 100)
				results <- err
			}()
		}
		for range 50 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if supported.total() != 1 {
			t.Errorf("asked %d times", supported.total())
		}
	})
}

// A lookup sends the name of a module. Nothing else does: callers that look up different modules
// share the requests for tiles, and one of these modules may not be permitted any more.
func TestSumDBPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("yes", func(http.ResponseWriter, *http.Request) {})
		errSecret := errors.New("a secret")
		for _, proxies := range []bool{true, false} {
			c := n.chain(fetch.Config{List: "http://yes", Permit: func(modulePath string) error {
				if modulePath == "secret.example" {
					return errSecret
				}
				return nil
			}})
			get, secret := c.SumDB("sum.example", "http://yes", proxies), fetch.WithModule(t.Context(), "secret.example")
			if _, err := get(secret, "lookup/secret.example@v1.0.0", 100); !errors.Is(err, errSecret) {
				t.Errorf("lookup of what is not permitted: %v", err)
			}
			if _, err := get(fetch.WithModule(t.Context(), "a.example"), "lookup/a.example@v1.0.0", 100); err != nil {
				t.Errorf("another lookup: %v", err)
			}
			if _, err := get(secret, "tile/8/0/000", 100); err != nil {
				t.Errorf("tile: %v", err)
			}
		}
	})
}

func TestSumDBBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("stuck", hang)
		n.serve("yes", func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/supported") {
				hang(w, r)
			}
		})
		for _, list := range []string{"http://stuck", "http://stuck|http://stuck", "http://yes", "http://stuck|http://yes"} {
			get := n.list(list).SumDB("sum.example", "http://stuck", true)
			begin := time.Now()
			results := make(chan error)
			for range 3 {
				go func() {
					_, err := get(t.Context(), "latest", 100)
					results <- err
				}()
			}
			for range 3 {
				wantIs(t, <-results, fetch.ErrUnavailable)
			}
			if d := time.Since(begin); d > 25*time.Second {
				t.Errorf("%s: took %v", list, d)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			begin = time.Now()
			_, err := get(ctx, "latest", 100)
			if d := time.Since(begin); err == nil || d > time.Second {
				t.Errorf("%s: %v after %v", list, err, d)
			}
		}
	})
}

func TestSumDBBadURL(t *testing.T) {
	c := newChain(t, fetch.Config{List: "off"})
	for _, url := range []string{"ftp://x", "http://user:secret@sum.example", "https://user:secret@sum.example:x"} {
		_, err := c.SumDB("sum.example", url, false)(t.Context(), "latest", 100)
		wantIs(t, err, fetch.ErrUnavailable)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
	_, err := c.SumDB("sum.example", "https://sum.example", false)(t.Context(), "../x", 100)
	wantIs(t, err, fs.ErrNotExist)
}

// A directory can contain the database, too, as a bundle does.
func TestSumDBDirectory(t *testing.T) {
	root := tree(t, map[string]string{"sumdb/sum.example/supported": "", "sumdb/sum.example/latest": "head"})
	c := newChain(t, fetch.Config{List: fileURL(root) + ",off"})
	data, err := c.SumDB("sum.example", "", true)(t.Context(), "latest", 100)
	wantData(t, data, err, []byte("head"))
}
