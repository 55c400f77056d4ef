package tiered_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// All parts may have one budget: what waits to be stored leaves enough of it for storing. Many readers of many large
// objects at the same time all get them, no more memory is taken than there is, and all of it is free afterwards.
func TestOneBudget(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	filler := bucket(t, server)
	const objects = 16
	for i := range objects {
		create(t, filler, fmt.Sprint("key", i), storagetest.Content(uint64(i), 1<<20))
	}
	budget := memory.New(12 << 20)
	kept, err := bolt.Open(t.TempDir(), &bolt.Options{Writers: budget})
	if err != nil {
		t.Fatal(err)
	}
	remote, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Prefix: "store", Endpoint: server.URL, PathStyle: true,
		Spool: t.TempDir(), Readers: memory.New(64 << 20), Writers: budget})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, tiered.Options{Local: kept, Remote: remote, Memory: budget})
	var all sync.WaitGroup
	for reader := range 4 * objects {
		all.Go(func() {
			i := reader % objects
			got, err := read(t, s, fmt.Sprint("key", i))
			if err != nil || !bytes.Equal(got, storagetest.Content(uint64(i), 1<<20)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if used := budget.Used(); used > budget.Size() {
				t.Errorf("%d bytes of %d are used", used, budget.Size())
			}
		})
	}
	all.Wait()
	s.Settle(t)
	for i := range objects {
		expect(t, s, fmt.Sprint("key", i), storagetest.Content(uint64(i), 1<<20))
	}
	s.Settle(t)
	if n := budget.Used(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

// hanging is a local store whose drafts take nothing until it is let go.
type hanging struct {
	storage.Store
	proceed chan struct{}
}

func (h *hanging) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := h.Store.Draft(ctx, size)
	return &hangingDraft{d, h}, err
}

type hangingDraft struct {
	storage.Draft
	h *hanging
}

func (d *hangingDraft) Write(p []byte) (int, error) {
	<-d.h.proceed
	return d.Draft.Write(p)
}

// A local disk that hangs does not keep a reader from what the bucket has.
func TestHangingDisk(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	content := storagetest.Content(1, tiered.MaxBuffer+12345)
	create(t, bucket(t, server), "key", content)
	kept := &hanging{local(t), make(chan struct{})}
	s := open(t, tiered.Options{Local: kept, Remote: bucket(t, server)})
	s.Patience(20 * time.Millisecond)
	expect(t, s, "key", content)
	close(kept.proceed)
	s.Settle(t)
}

// filling is a local store whose disk becomes full in the middle of a draft.
type filling struct{ storage.Store }

func (f filling) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := f.Store.Draft(ctx, size)
	return &fillingDraft{d, 5 << 20}, err
}

type fillingDraft struct {
	storage.Draft
	left int
}

func (d *fillingDraft) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, storage.ErrUnwritable
	}
	return d.Draft.Write(p)
}

// A disk that becomes full in the middle is not seen by readers, and is logged once.
func TestDiskBecomesFull(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	content := storagetest.Content(1, tiered.MaxBuffer+12345)
	create(t, bucket(t, server), "key", content)
	var log lockedBuffer
	s := open(t, tiered.Options{Local: filling{local(t)}, Remote: bucket(t, server), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		for _, whole := range []bool{true, false} {
			o, err := s.Open(t.Context(), "key")
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if whole {
				_, err = o.WriteTo(&got)
			} else {
				_, err = io.Copy(&got, struct{ io.Reader }{o})
			}
			if err != nil || !bytes.Equal(got.Bytes(), content) {
				t.Errorf("%d bytes, %v", got.Len(), err)
			}
			o.Close()
		}
	}
	s.Settle(t)
	if n := strings.Count(log.String(), "the local disk before the bucket fails"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
