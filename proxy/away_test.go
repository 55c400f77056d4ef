package proxy_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
)

// awayStore is a store in two tiers whose bucket can be away: then it has only what was stored before, and all else
// is storage.ErrAway.
type awayStore struct {
	storage.Store
	away atomic.Bool
}

func (s *awayStore) err() error {
	if s.away.Load() {
		return fmt.Errorf("bucket %q: %w: connection refused", "secret-name", storage.ErrAway)
	}
	return nil
}

func (s *awayStore) Open(ctx context.Context, key string) (storage.Object, error) {
	o, err := s.Store.Open(ctx, key)
	if err != nil && s.away.Load() {
		return nil, s.err()
	}
	return o, err
}

func (s *awayStore) Stat(ctx context.Context, key string) (storage.Info, error) {
	info, err := s.Store.Stat(ctx, key)
	if err != nil && s.away.Load() {
		return info, s.err()
	}
	return info, err
}

func (s *awayStore) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Create(ctx, info, r)
}

func (s *awayStore) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := s.Store.Draft(ctx, size)
	return &awayDraft{d, s}, err
}

type awayDraft struct {
	storage.Draft
	s *awayStore
}

func (d *awayDraft) Commit(ctx context.Context, info storage.Info) error {
	if err := d.s.err(); err != nil {
		return err
	}
	return d.Draft.Commit(ctx, info)
}

func (s *awayStore) Apply(ctx context.Context, b storage.Batch) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Apply(ctx, b)
}

func (s *awayStore) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	if err := s.err(); err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	return s.Store.Keys(ctx, prefix)
}

func (s *awayStore) State(ctx context.Context, name string) ([]byte, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.Store.State(ctx, name)
}

func (s *awayStore) SwapState(ctx context.Context, name string, old, value []byte) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.SwapState(ctx, name, old, value)
}

// While the bucket is away, what the local tier has is served, and everything else is 503 with a time to try again,
// which no cache keeps; the text does not show where the bucket is. When it is back nothing is left of it.
func TestBucketAway(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	big(world, 2<<20)
	s := &awayStore{}
	o := verified()
	o.store = func(inner storage.Store) storage.Store {
		s.Store = inner
		return s
	}
	f := start(t, world, world.URL("ok"), o)
	held := []string{"example.com/hello/@v/v1.0.0.info", "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip"}
	for _, path := range held {
		f.want(path)
	}
	others := []string{
		"example.com/hello/@v/v1.1.0.info", "example.com/hello/@v/v1.1.0.mod", "example.com/hello/@v/v1.1.0.zip",
		"example.com/big/@v/v1.0.0.zip", "sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.1.0",
	}
	s.away.Store(true)
	for range 2 {
		for _, path := range held {
			f.want(path)
		}
		for _, path := range others {
			a := f.get(path)
			wantError(t, path, a, http.StatusServiceUnavailable, "object store of this proxy cannot be used", "try again")
			if a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("GET %s: header %v, want Retry-After and no-store", path, a.header)
			}
		}
	}
	s.away.Store(false)
	for _, path := range append(held, others[:4]...) {
		f.want(path)
	}
	if a := f.get(others[4]); a.status != http.StatusOK {
		t.Errorf("GET %s = %v", others[4], a)
	}
}
