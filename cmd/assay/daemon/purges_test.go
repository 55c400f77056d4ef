package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/tiered"
)

// undeletable is a store that does not delete one key.
type undeletable struct {
	storage.Store
	key string
}

func (u undeletable) Delete(ctx context.Context, key string) error {
	if key == u.key {
		return errors.New("input/output error")
	}
	return u.Store.Delete(ctx, key)
}

// What one server has purged leaves the local copies and the memory of another one, also if its disk does not delete the
// first of the copies.
func TestPurgeReachesCopies(t *testing.T) {
	bucketCredentials(t)
	server := s3test.Start(t)
	one, two := bucketStores(t, server, t.TempDir()), bucketStores(t, server, t.TempDir())
	two.tier = tiered.New(t.Context(), tiered.Options{
		Local: undeletable{two.local, "a"}, Remote: two.bucket, Source: "bucket", Logger: slog.New(slog.DiscardHandler),
	})
	two.objects = two.tier
	memory := make(chan news.Changes, 1000)
	two.followPurges(func(changes news.Changes) { memory <- changes })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { two.board.Run(ctx) })
	defer func() { cancel(); running.Wait() }()
	if changes := told(t, memory); !changes.All {
		t.Fatalf("first: %+v, want All", changes)
	}
	for _, key := range []string{"a", "b"} {
		if err := two.tier.Create(t.Context(), storage.Info{Key: key, Size: 7}, strings.NewReader("content")); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // until the copies are on the disk
		_, err := two.local.Stat(t.Context(), "b")
		if _, err2 := two.local.Stat(t.Context(), "a"); err == nil && err2 == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no local copies")
		}
	}
	items := []content.Item{{Key: "a"}, {Key: "b"}}
	for _, item := range items {
		if err := one.objects.Delete(t.Context(), item.Key); err != nil {
			t.Fatal(err)
		}
	}
	if err := content.TellPurged(t.Context(), one.board, items); err != nil {
		t.Fatal(err)
	}
	if changes := told(t, memory); !changes.All && len(changes.Subjects) != 2 {
		t.Errorf("memory is told of %+v, want both", changes)
	}
	for _, item := range items {
		if o, err := two.tier.Open(t.Context(), item.Key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of %s = %v, %v, want fs.ErrNotExist", item.Key, o, err)
		}
	}
	if _, err := two.local.Stat(t.Context(), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the local copy of b: %v, want none", err)
	}
}

// told returns the next changes of which memory is told.
func told(t *testing.T, memory <-chan news.Changes) news.Changes {
	t.Helper()
	select {
	case changes := <-memory:
		return changes
	case <-time.After(2 * time.Minute):
		t.Fatal("memory is not told")
		return news.Changes{}
	}
}
