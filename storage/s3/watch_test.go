package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// answering returns the metric assay_bucket_answers.
func answering(t *testing.T, db *s3.DB) float64 {
	t.Helper()
	return testutil.ToFloat64(db.Metrics()[1])
}

// A store that is away costs one request at a time, whatever is asked of it, and is used again as soon as it answers.
func TestAwayCostsLittle(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]s3test.Fault{
		"busy":  {Before: http.StatusServiceUnavailable, Code: "SlowDown"},
		"error": {Before: http.StatusInternalServerError, Code: "InternalError"},
		"cut":   {After: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t)
			db := open(t, options(server))
			create(t, db, "key", []byte("content"))
			server.Fail(func(s3test.Request) s3test.Fault { return fault })
			for answering(t, db) == 1 {
				if _, err := db.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrAway) {
					t.Fatalf("Stat = %v, want ErrAway", err)
				}
			}
			before := server.Requests()
			const asked = 30
			for i := range asked {
				err := db.Create(t.Context(), storage.Info{Key: "new"}, strings.NewReader(""))
				if i%2 == 0 {
					_, err = db.Open(t.Context(), "key")
				}
				if !errors.Is(err, storage.ErrAway) || errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("%v, want ErrAway", err)
				}
			}
			if n := server.Requests() - before; n > 2*asked { // each is a trial, and a lost PUT is looked for
				t.Errorf("%d requests for %d operations, one after the other", n, asked)
			}
			server.Fail(nil)
			if got, err := read(t, db, "key"); err != nil || string(got) != "content" {
				t.Errorf("when it is back: %q, %v", got, err)
			}
			if answering(t, db) != 1 {
				t.Error("the metric says that it is away")
			}
			create(t, db, "new", nil)
		})
	}
}

// silentServer is a server that answers nothing while it is silent.
func silentServer(t *testing.T) (url string, requests *atomic.Int64, end func()) {
	requests, silent := new(atomic.Int64), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		select {
		case <-silent:
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusNotFound)
			w.Write([]byte("<Error><Code>NoSuchKey</Code></Error>"))
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, requests, sync.OnceFunc(func() { close(silent) })
}

// A store that does not answer at all has a few requests, and then one at a time: of many readers one waits, and all
// others have their error at once.
func TestSilentStore(t *testing.T) {
	t.Parallel()
	url, requests, end := silentServer(t)
	defer end()
	db := open(t, s3.Options{Bucket: "bucket", Endpoint: url, PathStyle: true})
	db.Silence(50 * time.Millisecond)
	_, err := db.Stat(t.Context(), "key")
	if !errors.Is(err, storage.ErrAway) {
		t.Fatalf("Stat = %v, want ErrAway", err)
	}
	if n := requests.Load(); n > 3 {
		t.Errorf("%d requests before it counts as away, want at most 3", n)
	}
	db.Silence(time.Hour) // the trial waits until the server answers
	before := requests.Load()
	trial := make(chan error)
	go func() {
		_, err := db.Stat(t.Context(), "key")
		trial <- err
	}()
	for requests.Load() == before {
		time.Sleep(time.Millisecond)
	}
	for range 100 {
		if _, err := db.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrAway) {
			t.Fatalf("Stat beside the trial = %v, want ErrAway", err)
		}
	}
	if n := requests.Load() - before; n != 1 {
		t.Errorf("%d requests, want the trial alone", n)
	}
	end()
	if err := <-trial; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the trial = %v, want the answer", err)
	}
	if _, err := db.Stat(t.Context(), "key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat after it = %v, want the answer", err)
	}
}

// Clients that leave say nothing about the store, and a trial whose client leaves is over.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	url, requests, end := silentServer(t)
	defer end()
	db := open(t, s3.Options{Bucket: "bucket", Endpoint: url, PathStyle: true})
	for range 60 {
		ctx, cancel := context.WithCancel(t.Context())
		before := requests.Load()
		done := make(chan error)
		go func() {
			_, err := db.Stat(ctx, "key")
			done <- err
		}()
		for requests.Load() == before {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("Stat = %v, want context.Canceled", err)
		}
	}
	if answering(t, db) != 1 {
		t.Error("it counts as away because clients have left")
	}
}

// What refuses connections, and what is no object store, is away too; what an object store says of a key is not.
func TestErrAway(t *testing.T) {
	t.Parallel()
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("<html>please log in</html>"))
	}))
	defer portal.Close()
	for _, url := range []string{"http://127.0.0.1:1", portal.URL} {
		db := open(t, s3.Options{Bucket: "bucket", Endpoint: url, PathStyle: true})
		if _, err := db.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrAway) || errors.Is(err, storage.ErrDamaged) {
			t.Errorf("Stat at %s = %v, want ErrAway", url, err)
		}
		var listErr error
		for _, listErr = range db.Keys(t.Context(), "") {
		}
		if !errors.Is(listErr, storage.ErrAway) {
			t.Errorf("Keys at %s = %v, want ErrAway", url, listErr)
		}
	}
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "key", bytes.Repeat([]byte("x"), 1000))
	for _, err := range []error{
		db.Delete(t.Context(), "absent"),
		db.Create(t.Context(), storage.Info{Key: "key"}, strings.NewReader("")),
		db.SwapState(t.Context(), "state", []byte("a"), []byte("b")),
	} {
		if err == nil || errors.Is(err, storage.ErrAway) {
			t.Errorf("%v, want another error than ErrAway", err)
		}
	}
}

// Requests are counted by what they do and how they end.
func TestRequestMetrics(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	registry := prometheus.NewRegistry()
	registry.MustRegister(db.Metrics()...)
	create(t, db, "key", []byte("content"))
	if _, err := read(t, db, "key"); err != nil {
		t.Fatal(err)
	}
	_ = db.Create(t.Context(), storage.Info{Key: "key"}, strings.NewReader(""))
	_ = db.Delete(t.Context(), "absent")
	for range db.Keys(t.Context(), "") {
	}
	want := `
# HELP assay_bucket_requests_total Requests to the bucket, by operation (get, head, put, delete, list, upload) and result: ok, absent (there is no such key), condition (it does not hold), refused (another error of the request), busy (429 or 5xx), unreachable, silent (no answer in time), ended (the client left), unsent (the store did not answer the last ones).
# TYPE assay_bucket_requests_total counter
assay_bucket_requests_total{operation="get",result="absent"} 2
assay_bucket_requests_total{operation="get",result="busy"} 0
assay_bucket_requests_total{operation="get",result="ok"} 2
assay_bucket_requests_total{operation="get",result="refused"} 0
assay_bucket_requests_total{operation="get",result="silent"} 0
assay_bucket_requests_total{operation="get",result="unreachable"} 0
assay_bucket_requests_total{operation="get",result="unsent"} 0
assay_bucket_requests_total{operation="list",result="ok"} 1
assay_bucket_requests_total{operation="put",result="ok"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "assay_bucket_requests_total"); err != nil {
		t.Error(err)
	}
}

// Each request that is sent is timed under its operation, also one that fails, and failures are at 0 before the first.
func TestAnswerTimes(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	times := db.Metrics()[2]
	zeros := testutil.CollectAndCount(db.Metrics()[0])
	create(t, db, "key", []byte("content"))
	server.Fail(func(s3test.Request) s3test.Fault {
		return s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}
	})
	if _, err := db.Stat(t.Context(), "key"); err == nil {
		t.Error("a store that refuses: no error")
	}
	if n := testutil.CollectAndCount(times); n != 2 {
		t.Errorf("%d operations are timed, want get and put", n)
	}
	if n := testutil.CollectAndCount(db.Metrics()[0]); zeros < 8 || n < zeros {
		t.Errorf("%d series of requests, %d at first", n, zeros)
	}
}

// Callers that wait for less time than a silent store has say nothing about it: it may be slow.
func TestCallersWithLittleTime(t *testing.T) {
	t.Parallel()
	url, _, end := silentServer(t)
	defer end()
	db := open(t, s3.Options{Bucket: "bucket", Endpoint: url, PathStyle: true})
	for range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := db.Stat(ctx, "key")
		cancel()
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("Stat = %v, want an error that is no absence", err)
		}
	}
	if answering(t, db) != 1 {
		t.Error("it counts as away because callers have waited for a moment")
	}
}
