package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/storage"
)

// A request for several ranges gets the whole object, which HTTP allows (RFC 9110,
// section 14.2).
func TestSeveralRanges(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 1<<20)
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range []string{path, "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/list"} {
		whole := f.get(path)
		for _, header := range []string{"bytes=0-3,5-7", "bytes=5-7,-2"} {
			if a := f.get(path, "Range", header); a.status != http.StatusOK || !bytes.Equal(a.body, whole.body) || a.header.Get("Content-Type") != whole.header.Get("Content-Type") {
				t.Errorf("GET %s, Range: %s: %d, %d bytes, %v", path, header, a.status, len(a.body), a.header)
			}
		}
	}
}

// After a response has ended, in whatever way, no goroutine reads from the object.
func TestNoReaderIsLeft(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := big(world, 1<<20)
	reading := &readingStore{}
	o := verified()
	o.config = func(c *proxy.Config) { reading.Store, c.Content.Store = c.Content.Store, reading }
	f := start(t, world, world.URL("ok"), o)
	f.want(path)
	for _, header := range []string{"", "bytes=5-", "bytes=0-300000,300001-600000"} {
		r := httptest.NewRequest(http.MethodGet, "/"+path, nil)
		if header != "" {
			r.Header.Set("Range", header)
		}
		func() {
			defer func() { _ = recover() }() // the response is aborted
			f.server.ServeHTTP(brokenWriter{httptest.NewRecorder()}, r)
		}()
	}
	time.Sleep(50 * time.Millisecond)
	if n := reading.late.Load(); n != 0 {
		t.Errorf("%d times somebody was reading when the object was closed, or read after that", n)
	}
}

// brokenWriter is a client that leaves.
type brokenWriter struct{ *httptest.ResponseRecorder }

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("connection reset") }

// readingStore counts reads of closed objects.
type readingStore struct {
	storage.Store
	late atomic.Int32
}

func (s *readingStore) Open(ctx context.Context, key string) (storage.Object, error) {
	object, err := s.Store.Open(ctx, key)
	if err == nil {
		object = &readObject{Object: object, store: s}
	}
	return object, err
}

type readObject struct {
	storage.Object
	store           *readingStore
	reading, closed atomic.Bool
}

func (o *readObject) Read(p []byte) (int, error) {
	o.reading.Store(true)
	defer o.reading.Store(false)
	if o.closed.Load() {
		o.store.late.Add(1)
	}
	time.Sleep(10 * time.Millisecond)
	return o.Object.Read(p)
}

func (o *readObject) Close() error {
	o.closed.Store(true)
	if o.reading.Load() {
		o.store.late.Add(1)
	}
	return o.Object.Close()
}
