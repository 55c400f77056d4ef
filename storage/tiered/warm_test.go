package tiered_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// An object that is read ahead needs no request to the bucket later, if its reader agreed to its size.
func TestWarm(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	b := bucket(t, server)
	contents := map[string][]byte{"small": storagetest.Content(1, 1000), "large": storagetest.Content(2, 2<<20), "refused": storagetest.Content(3, 2<<20)}
	for key, content := range contents {
		create(t, b, key, content)
	}
	s := open(t, tiered.Options{Local: local(t), Remote: b})
	asked := map[string]int64{}
	warm := func(key string) {
		t.Helper()
		info, err := s.Warm(t.Context(), key, func(size int64) bool {
			asked[key] = size
			return key != "refused"
		})
		if size := int64(len(contents[key])); err != nil || info.Size != size || asked[key] != size {
			t.Errorf("Warm(%s) = %+v, %v, after it asked for %d bytes, want %d", key, info, err, asked[key], size)
		}
	}
	for key := range contents {
		warm(key)
	}
	if _, err := s.Warm(t.Context(), "absent", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Warm(absent) = %v, want fs.ErrNotExist", err)
	}
	s.Settle(t)
	read := server.Requests("GET")
	for _, key := range []string{"small", "large"} {
		info, err := s.Warm(t.Context(), key, func(int64) bool {
			t.Errorf("%s: Warm asks for what is local", key)
			return false
		})
		if err != nil || info.Size != int64(len(contents[key])) {
			t.Errorf("Warm(%s) = %+v, %v", key, info, err)
		}
		expect(t, s, key, contents[key])
	}
	if n := server.Requests("GET") - read; n > 0 {
		t.Errorf("there were %d requests for what was read ahead", n)
	}
	expect(t, s, "refused", contents["refused"])
	if n := server.Requests("GET") - read; n < 2 {
		t.Errorf("there were %d requests for a large content that was refused, want 2 or more", n)
	}
}

// Without memory for it nothing is read ahead, and nothing is taken for it.
func TestWarmWithoutMemory(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	b := bucket(t, server)
	content := storagetest.Content(1, 2<<20)
	create(t, b, "key", content)
	s := open(t, tiered.Options{Local: local(t), Remote: b, Memory: memory.New(3 << 20)})
	info, err := s.Warm(t.Context(), "key", func(int64) bool {
		t.Error("Warm asks for a content for which there is no memory")
		return true
	})
	if err != nil || info.Size != int64(len(content)) {
		t.Errorf("Warm = %+v, %v", info, err)
	}
	expect(t, s, "key", content)
}

// slowDisk is a local store that stores nothing before until is closed.
type slowDisk struct {
	storage.Store
	until chan struct{}
}

func (s slowDisk) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	<-s.until
	return s.Store.Create(ctx, info, r)
}

// What has arrived from the bucket and is not on the local disk yet is known without another request.
func TestStatBesideFill(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	b := bucket(t, server)
	content := storagetest.Content(1, 1000)
	create(t, b, "key", content)
	disk := slowDisk{local(t), make(chan struct{})}
	s := open(t, tiered.Options{Local: disk, Remote: b})
	expect(t, s, "key", content)
	read := server.Requests("GET")
	stat := func() {
		t.Helper()
		if info, err := s.Stat(t.Context(), "key"); err != nil || info.Size != int64(len(content)) {
			t.Errorf("Stat = %+v, %v", info, err)
		}
	}
	stat()
	close(disk.until)
	s.Settle(t)
	stat()
	if n := server.Requests("GET") - read; n > 0 {
		t.Errorf("Stat sent %d requests", n)
	}
}

// lateAnswers is a bucket whose first answer to Open comes when held is closed.
type lateAnswers struct {
	storage.Store
	held  chan struct{}
	first sync.Once
}

func (l *lateAnswers) Open(ctx context.Context, key string) (o storage.Object, err error) {
	o, err = l.Store.Open(ctx, key)
	l.first.Do(func() { <-l.held })
	return o, err
}

// A reader that comes when the object is stored finds it, although an earlier reader was told that there is none, and has
// not got that answer yet.
func TestAnswerFromBeforeTheWrite(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	b, other := bucket(t, server), bucket(t, server)
	late := &lateAnswers{Store: b, held: make(chan struct{})}
	s := open(t, tiered.Options{Local: local(t), Remote: late})
	content := storagetest.Content(1, 1000)
	var readers sync.WaitGroup
	readers.Go(func() {
		if _, err := s.Open(t.Context(), "key"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	wait := func(n int) {
		for s.Readers("key") < n {
			time.Sleep(time.Millisecond)
		}
	}
	wait(1)
	for server.Requests("GET") == 0 {
		time.Sleep(time.Millisecond)
	}
	create(t, other, "key", content)
	readers.Go(func() { expect(t, s, "key", content) })
	wait(2)
	close(late.held)
	readers.Wait()
}
