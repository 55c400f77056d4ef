package tiered_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// TestMain gives all stores credentials of their own, and hides those of the user that runs the tests.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "testaccess", "AWS_SECRET_ACCESS_KEY": "testsecret123", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "", "AWS_SESSION_TOKEN": "",
	} {
		os.Setenv(name, value)
	}
	os.Exit(m.Run())
}

// bucket opens a store in the bucket of a server.
func bucket(t testing.TB, server *s3test.Server) storage.Store {
	t.Helper()
	db, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Prefix: "store", Endpoint: server.URL, PathStyle: true, Spool: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// local opens an empty local store.
func local(t testing.TB) storage.Store {
	t.Helper()
	db, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// quiet discards the log.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// open opens a store of two others and closes it with the test, unless the test did.
func open(t testing.TB, o tiered.Options) *tiered.Store {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	o.Source = "bucket"
	s := tiered.New(t.Context(), o)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	storagetest.Test(t, func(t *testing.T) storage.Store {
		return open(t, tiered.Options{Local: local(t), Remote: bucket(t, s3test.Start(t))})
	})
}

// The contract holds with little memory, where contents take other ways.
func TestContractInLittleMemory(t *testing.T) {
	t.Parallel()
	storagetest.Test(t, func(t *testing.T) storage.Store {
		return open(t, tiered.Options{Local: local(t), Remote: local(t), Memory: memory.New(1 << 20)})
	})
}

// full is a local store in which nothing can be written or deleted.
type full struct{ storage.Store }

var errDisk = errors.New("input/output error")

func (full) Create(context.Context, storage.Info, io.Reader) error  { return errDisk }
func (full) Replace(context.Context, storage.Info, io.Reader) error { return errDisk }
func (full) Draft(context.Context, int64) (storage.Draft, error)    { return nil, storage.ErrNoLarge }
func (full) Delete(context.Context, string) error                   { return errDisk }
func (full) SetState(context.Context, string, []byte) error         { return storage.ErrUnwritable }

// A local disk that takes nothing is not seen by callers.
func TestContractOnFullDisk(t *testing.T) {
	t.Parallel()
	storagetest.Brief(t, func(t *testing.T) storage.Store {
		return open(t, tiered.Options{Local: full{local(t)}, Remote: local(t)})
	})
}

// evicting is a local store that deletes objects when it is used, and refuses some.
type evicting struct {
	storage.Store

	mu   sync.Mutex
	keys []string
	rng  *rand.Rand
}

func newEvicting(s storage.Store) *evicting {
	return &evicting{Store: s, rng: rand.New(rand.NewPCG(1, 2))}
}

// evict deletes one of the objects that were stored, and reports whether the next one is to be refused.
func (e *evicting) evict(key string) (refuse bool) {
	e.mu.Lock()
	victim := ""
	if len(e.keys) > 0 && e.rng.IntN(8) == 0 {
		at := e.rng.IntN(len(e.keys))
		victim, e.keys[at] = e.keys[at], e.keys[len(e.keys)-1]
		e.keys = e.keys[:len(e.keys)-1]
	}
	if key != "" {
		e.keys = append(e.keys, key)
	}
	refuse = e.rng.IntN(8) == 0
	e.mu.Unlock()
	if victim != "" {
		_ = e.Store.Delete(context.Background(), victim)
	}
	return refuse
}

func (e *evicting) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	if e.evict(info.Key) {
		return storage.ErrNoLarge
	}
	return e.Store.Create(ctx, info, r)
}

func (e *evicting) Open(ctx context.Context, key string) (storage.Object, error) {
	e.evict("")
	return e.Store.Open(ctx, key)
}

func (e *evicting) Stat(ctx context.Context, key string) (storage.Info, error) {
	e.evict("")
	return e.Store.Stat(ctx, key)
}

func TestContractWithEvictions(t *testing.T) {
	t.Parallel()
	storagetest.Brief(t, func(t *testing.T) storage.Store {
		return open(t, tiered.Options{Local: newEvicting(local(t)), Remote: local(t)})
	})
}

func create(t testing.TB, s storage.Store, key string, content []byte) {
	t.Helper()
	if err := s.Create(t.Context(), storage.Info{Key: key, Size: int64(len(content))}, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, s storage.Store, key string) ([]byte, error) {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(o)
}

func expect(t testing.TB, s storage.Store, key string, content []byte) {
	t.Helper()
	if got, err := read(t, s, key); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%s: %d bytes, %v, want the %d that were written", key, len(got), err, len(content))
	}
}
