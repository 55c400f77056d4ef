package tiered_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// sizes are of a content in its record, of one that stays in memory, and of one that is written to the local
// disk while it arrives.
var sizes = []int{1000, 3 << 20, tiered.MaxBuffer + 12345}

// away makes a server answer nothing.
func away(server *s3test.Server) {
	server.Fail(func(s3test.Request) s3test.Fault {
		return s3test.Fault{Before: http.StatusServiceUnavailable, Code: "SlowDown"}
	})
}

// What one replica has written, another reads from the bucket once; then each reads without a request, also
// while the bucket is away.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t)
			first := open(t, tiered.Options{Local: local(t), Remote: bucket(t, server)})
			second := open(t, tiered.Options{Local: local(t), Remote: bucket(t, server)})
			content := storagetest.Content(1, size)
			create(t, first, "key", content)
			expect(t, first, "key", content)
			expect(t, second, "key", content)
			first.Settle(t)
			second.Settle(t)

			server.Fail(nil) // counts from here on
			expect(t, first, "key", content)
			expect(t, second, "key", content)
			if n := server.Requests(); n > 0 {
				t.Errorf("%d requests for what both have", n)
			}
			away(server)
			expect(t, first, "key", content)
			expect(t, second, "key", content)
			if info, err := second.Stat(t.Context(), "key"); err != nil || info.Size != int64(size) {
				t.Errorf("Stat = %v, %v", info, err)
			}
			if n := server.Requests(); n > 0 {
				t.Errorf("%d requests to a bucket that is away", n)
			}
			if _, err := second.Open(t.Context(), "other"); err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) {
				t.Errorf("Open of what is only in the bucket = %v, want an error that is no absence", err)
			}
			server.Fail(nil)
			if _, err := second.Open(t.Context(), "other"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open after that = %v, want fs.ErrNotExist", err)
			}
		})
	}
}

// The first read needs one request for a small object, and one more for each MiB of a large one; readers at
// the same time share them.
func TestSharedFill(t *testing.T) {
	t.Parallel()
	for size, most := range map[int]int{1000: 1, 3 << 20: 4, tiered.MaxBuffer + 12345: 18} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t)
			content := storagetest.Content(1, size)
			create(t, bucket(t, server), "key", content)
			s := open(t, tiered.Options{Local: local(t), Remote: bucket(t, server)})
			s.Patience(time.Hour)
			begin := make(chan struct{})
			server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{} })
			var objects []storage.Object
			for range 8 { // before the first of them reads
				o, err := s.Open(t.Context(), "key")
				if err != nil {
					t.Fatal(err)
				}
				objects = append(objects, o)
			}
			var all sync.WaitGroup
			for i, o := range objects {
				all.Go(func() {
					defer o.Close()
					<-begin
					var got bytes.Buffer
					var err error
					if i%2 == 0 {
						_, err = o.WriteTo(&got)
					} else {
						_, err = io.Copy(&got, struct{ io.Reader }{o})
					}
					if err != nil || !bytes.Equal(got.Bytes(), content) {
						t.Errorf("%d bytes, %v", got.Len(), err)
					}
				})
			}
			close(begin)
			all.Wait()
			s.Settle(t)
			if n := server.Requests(); n > most {
				t.Errorf("%d requests, want at most %d", n, most)
			}
		})
	}
}

// What is damaged on the local disk is read from the bucket, also if it is found in the middle, and is
// stored locally again.
func TestDamagedLocal(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 3 << 20} {
		for _, whole := range []bool{true, false} {
			t.Run(fmt.Sprint(size, whole), func(t *testing.T) {
				t.Parallel()
				server := s3test.Start(t)
				flaky := &damaged{Store: local(t)}
				s := open(t, tiered.Options{Local: flaky, Remote: bucket(t, server)})
				content := storagetest.Content(1, size)
				create(t, s, "key", content)
				s.Settle(t)
				flaky.after = size / 2
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
					t.Errorf("%d bytes, %v, want all from the bucket", got.Len(), err)
				}
				o.Close()
				if _, err := flaky.Store.Stat(t.Context(), "key"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Stat of the damaged copy = %v, want fs.ErrNotExist", err)
				}
				flaky.after = 0
				expect(t, s, "key", content)
				s.Settle(t)
				server.Fail(nil)
				expect(t, s, "key", content)
				if n := server.Requests(); n > 0 {
					t.Errorf("%d requests for what is stored locally again", n)
				}
			})
		}
	}
}

// damaged is a store whose objects are damaged after some bytes, unless that is 0.
type damaged struct {
	storage.Store
	after int
}

func (d *damaged) Open(ctx context.Context, key string) (storage.Object, error) {
	o, err := d.Store.Open(ctx, key)
	if err != nil || d.after == 0 {
		return o, err
	}
	return &damagedObject{o, d.after}, nil
}

type damagedObject struct {
	storage.Object
	left int
}

func (o *damagedObject) Read(p []byte) (int, error) {
	if o.left == 0 {
		return 0, storage.ErrDamaged
	}
	n, err := o.Object.Read(p[:min(len(p), o.left)])
	o.left -= n
	return n, err
}

func (o *damagedObject) WriteTo(w io.Writer) (int64, error) {
	n, err := io.CopyN(w, o.Object, int64(o.left))
	if o.left = 0; err == nil {
		err = storage.ErrDamaged
	}
	return n, err
}

// What is damaged in the bucket is ErrDamaged, and is not stored.
func TestDamagedBucket(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 3 << 20} {
		server := s3test.Start(t)
		create(t, bucket(t, server), "key", storagetest.Content(1, size))
		for _, key := range append(server.Keys("store/c/"), server.Keys("store/o/")...)[:1] {
			server.Change(key, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		}
		kept := local(t)
		s := open(t, tiered.Options{Local: kept, Remote: bucket(t, server)})
		if got, err := read(t, s, "key"); !errors.Is(err, storage.ErrDamaged) {
			t.Errorf("%d bytes, %v, want ErrDamaged", len(got), err)
		}
		s.Settle(t)
		if _, err := kept.Stat(t.Context(), "key"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat of the local copy = %v, want none", err)
		}
	}
}

// What another replica has replaced or deleted is read from the bucket after Forget.
func TestForget(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 3 << 20} {
		server := s3test.Start(t)
		kept := local(t)
		first := open(t, tiered.Options{Local: kept, Remote: bucket(t, server)})
		second := bucket(t, server)
		before, after := storagetest.Content(1, size), storagetest.Content(2, size)
		create(t, second, "a/key", before)
		create(t, second, "a/other", before)
		expect(t, first, "a/key", before)
		expect(t, first, "a/other", before)
		first.Settle(t)
		if err := second.Replace(t.Context(), storage.Info{Key: "a/key", Size: int64(size)}, bytes.NewReader(after)); err != nil {
			t.Fatal(err)
		}
		if err := second.Delete(t.Context(), "a/other"); err != nil {
			t.Fatal(err)
		}
		if err := first.Forget(t.Context(), "a/key"); err != nil {
			t.Fatal(err)
		}
		expect(t, first, "a/key", after)
		if err := first.ForgetAll(t.Context(), "a/"); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Open(t.Context(), "a/other"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open = %v, want fs.ErrNotExist", err)
		}
		expect(t, first, "a/key", after)
		if err := first.Forget(t.Context(), "a/absent"); err != nil {
			t.Errorf("Forget of what is not there = %v", err)
		}
	}
}

// gate lets a test stop a store between two steps.
type gate struct {
	storage.Store
	opened  chan struct{} // Open has read from the bucket; nil: no stop
	proceed chan struct{}
}

func (g *gate) Open(ctx context.Context, key string) (storage.Object, error) {
	o, err := g.Store.Open(ctx, key)
	if g.opened != nil {
		close(g.opened)
		<-g.proceed
	}
	return o, err
}

// A fill that has read the old object when Forget comes does not leave it behind, and no later reader gets
// it.
func TestForgetBesideFill(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		server := s3test.Start(t)
		db := bucket(t, server)
		before, after := storagetest.Content(1, size), storagetest.Content(2, size)
		create(t, db, "key", before)
		stopped := &gate{Store: db, opened: make(chan struct{}), proceed: make(chan struct{})}
		kept := local(t)
		s := open(t, tiered.Options{Local: kept, Remote: stopped})
		old := make(chan error, 1)
		go func() {
			got, err := read(t, s, "key")
			if err == nil && !bytes.Equal(got, before) {
				err = errors.New("other bytes")
			}
			old <- err
		}()
		<-stopped.opened
		stopped.opened = nil
		if err := db.Replace(t.Context(), storage.Info{Key: "key", Size: int64(size)}, bytes.NewReader(after)); err != nil {
			t.Fatal(err)
		}
		if err := s.Forget(t.Context(), "key"); err != nil {
			t.Fatal(err)
		}
		expect(t, s, "key", after)
		close(stopped.proceed)
		if err := <-old; err != nil {
			t.Errorf("the reader that came before: %v", err)
		}
		s.Settle(t)
		expect(t, kept, "key", after)
		expect(t, s, "key", after)
	}
}

// After Doubt, and in a store that belongs to another bucket or to none, each object is compared with the
// bucket once, also after a restart; then it is trusted again.
func TestDoubt(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := bucket(t, server)
	dir := t.TempDir()
	start := func(source string) *tiered.Store {
		kept, err := bolt.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tiered.New(t.Context(), tiered.Options{Local: kept, Remote: bucket(t, server), Source: source, Logger: quiet()})
	}
	same, changed := storagetest.Content(1, 3<<20), storagetest.Content(2, 1000)
	for _, key := range []string{"same", "changed", "gone"} {
		create(t, db, key, same)
	}
	s := start("one")
	readAll := func() {
		for _, key := range []string{"same", "changed", "gone"} {
			expect(t, s, key, same)
		}
		s.Settle(t)
	}
	readAll()
	if err := db.Replace(t.Context(), storage.Info{Key: "changed", Size: 1000}, bytes.NewReader(changed)); err != nil {
		t.Fatal(err)
	}
	if err := db.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	readAll() // it was not told
	if err := s.Doubt(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectNew := func(requests int) {
		t.Helper()
		server.Fail(nil)
		expect(t, s, "same", same)
		expect(t, s, "changed", changed)
		s.Settle(t)
		if n := server.Requests(); n != requests {
			t.Errorf("%d requests, want %d", n, requests)
		}
	}
	restart := func(source string) {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = start(source)
	}
	restart("one")
	expectNew(2)
	expectNew(0)
	restart("one")
	expectNew(0)
	if _, err := s.Open(t.Context(), "gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v, want fs.ErrNotExist", err)
	}
	away(server)
	expect(t, s, "same", same)
	server.Fail(nil)
	restart("two")
	away(server)
	if _, err := s.Open(t.Context(), "same"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of what may have changed while the bucket is away = %v, want an error", err)
	}
	expectNew(2)
	expectNew(0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A replica that is killed between the bucket and its disk leaves no old object behind: the local copy is
// deleted first.
func TestKilledBeforeLocalWrite(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	kept := local(t)
	s := open(t, tiered.Options{Local: kept, Remote: bucket(t, server)})
	ctx := t.Context()
	for _, size := range []int{1000, 3 << 20} {
		for name, change := range map[string]func(key string) error{
			"replace": func(key string) error {
				return s.Replace(ctx, storage.Info{Key: key, Size: 3}, strings.NewReader("new"))
			},
			"move":   func(key string) error { return s.Move(ctx, key, key+"-moved", "proof") },
			"delete": func(key string) error { return s.Delete(ctx, key) },
		} {
			key := fmt.Sprint(name, size)
			create(t, s, key, storagetest.Content(1, size))
			s.Settle(t)
			if _, err := kept.Stat(ctx, key); err != nil {
				t.Fatalf("there is no local copy: %v", err)
			}
			server.Fail(func(r s3test.Request) s3test.Fault {
				if r.Op == "PUT" || r.Op == "DELETE" {
					if _, err := kept.Stat(ctx, key); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s: the bucket changes while there is a local copy: %v", key, err)
					}
				}
				return s3test.Fault{}
			})
			if err := change(key); err != nil {
				t.Errorf("%s: %v", key, err)
			}
			server.Fail(nil)
		}
	}
}

// Readers that stop in the middle leave nothing under way; what is cut off is not stored.
func TestReadersThatStop(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	content := storagetest.Content(1, 24<<20)
	create(t, bucket(t, server), "key", content)
	kept := local(t)
	budget := memory.New(20 << 20)
	s := open(t, tiered.Options{Local: kept, Remote: bucket(t, server), Memory: budget})
	for i := range 20 {
		o, err := s.Open(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(o, make([]byte, i*100_000)); err != nil {
			t.Fatal(err)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.Settle(t)
	if n := budget.Used(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
	if info, err := kept.Stat(t.Context(), "key"); err == nil && info.Size != int64(len(content)) {
		t.Errorf("a part of %d bytes is stored", info.Size)
	}
	expect(t, s, "key", content)
	s.Settle(t)
	expect(t, kept, "key", content)
}

// A transfer that breaks off is an error for its readers, and is not stored; the next one succeeds.
func TestBrokenTransfer(t *testing.T) {
	t.Parallel()
	for _, size := range sizes[1:] {
		server := s3test.Start(t)
		content := storagetest.Content(1, size)
		create(t, bucket(t, server), "key", content)
		kept := local(t)
		s := open(t, tiered.Options{Local: kept, Remote: bucket(t, server)})
		o, err := s.Open(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.N > 2 {
				return s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}
			}
			return s3test.Fault{}
		})
		if n, err := io.Copy(io.Discard, o); err == nil || n >= int64(size) {
			t.Errorf("%d bytes, %v, want an error", n, err)
		}
		o.Close()
		s.Settle(t)
		if _, err := kept.Stat(t.Context(), "key"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat of the local copy = %v, want none", err)
		}
		server.Fail(nil)
		expect(t, s, "key", content)
	}
}
