package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

func collect(t *testing.T, db *s3.DB) s3.Collected {
	t.Helper()
	done, err := db.Collect(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func expect(t *testing.T, db *s3.DB, key string, want []byte) {
	t.Helper()
	if got, err := read(t, db, key); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v, want %d", key, len(got), err, len(want))
	}
}

const large = 300 << 10

// denied refuses the requests with an Op for keys that begin with prefix.
func denied(op, prefix string) func(s3test.Request) s3test.Fault {
	return func(r s3test.Request) s3test.Fault {
		if r.Op == op && strings.HasPrefix(r.Key, prefix) {
			return s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	}
}

// What was deleted, and what a writer left that died before its record, is collected; all else stays.
func TestCollect(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	kept, moved := storagetest.Content(1, large), storagetest.Content(2, large)
	create(t, db, "kept", kept)
	create(t, db, "small", []byte("small"))
	create(t, db, "upstream/moved", moved)
	create(t, db, "deleted", storagetest.Content(3, large))
	if err := db.Move(t.Context(), "upstream/moved", "proved/moved", "proof"); err != nil {
		t.Fatal(err)
	}
	server.Fail(denied("PUT", "store/o/"))
	if err := db.Create(t.Context(), storage.Info{Key: "died", Size: large}, bytes.NewReader(make([]byte, large))); err == nil {
		t.Fatal("Create succeeded")
	}
	server.Fail(nil)
	if err := db.Delete(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	if n := len(server.Keys("store/c/")); n != 4 {
		t.Fatalf("%d contents, want 4", n)
	}
	for i, want := range []s3.Collected{
		{Records: 3, Contents: 4},            // the generation of the contents ends
		{Records: 3, Contents: 4, Marked: 2}, // nothing refers to two of them
		{Records: 3, Contents: 4, Deleted: 2},
		{Records: 3, Contents: 2},
	} {
		if got := collect(t, db); got != want {
			t.Errorf("collection %d: %+v, want %+v", i, got, want)
		}
	}
	expect(t, db, "kept", kept)
	expect(t, db, "proved/moved", moved)
	expect(t, db, "small", []byte("small"))
	create(t, db, "deleted", kept)
	expect(t, db, "deleted", kept)
}

func TestCollectWaits(t *testing.T) {
	t.Parallel()
	db := open(t, options(s3test.Start(t)))
	collect(t, db)
	if _, err := db.Collect(t.Context(), time.Hour); err == nil || !strings.Contains(err.Error(), "which is less than 1h0m0s") {
		t.Errorf("Collect = %v, want that it is too early", err)
	}
}

// An object that is open when its key is deleted is read on after one more collection.
func TestCollectWhileOpen(t *testing.T) {
	t.Parallel()
	db := open(t, options(s3test.Start(t)))
	content := storagetest.Content(1, 3<<20)
	create(t, db, "key", content)
	collect(t, db)
	collect(t, db)
	o, err := db.Open(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := db.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	if done := collect(t, db); done.Marked != 1 {
		t.Errorf("%+v, want one marked", done)
	}
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A writer that stalls between its content and its record keeps the object if one collection began
// meanwhile, and takes it back if two did. No object without a content is ever acknowledged.
func TestStalledWriter(t *testing.T) {
	t.Parallel()
	for collections := range 5 {
		server := s3test.Start(t)
		writer, collector := open(t, options(server)), open(t, options(server))
		content := storagetest.Content(1, large)
		d, err := writer.Draft(t.Context(), large)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := d.Write(content); err != nil {
			t.Fatal(err)
		}
		collected := make(chan struct{})
		first := true
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.Op == "PUT" && strings.HasPrefix(r.Key, "store/o/") && first {
				first = false
				return s3test.Fault{Hold: collected} // the server goes on with other requests
			}
			return s3test.Fault{}
		})
		committed := make(chan error)
		go func() { committed <- d.Commit(t.Context(), storage.Info{Key: "key", Size: large}) }()
		for len(server.Keys("store/c/")) == 0 {
			time.Sleep(time.Millisecond)
		}
		for range collections {
			collect(t, collector)
		}
		close(collected)
		if err := <-committed; err != nil {
			t.Errorf("after %d collections: %v", collections, err)
		}
		expect(t, writer, "key", content)
		server.Fail(nil)
		for range 3 {
			collect(t, collector)
		}
		expect(t, writer, "key", content)
	}
}

// A creator that is told that a key is taken finds the object there afterwards, although its writer stalls
// through several collections before it looks whether its content was collected.
func TestLoserFindsTheObject(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	writer, other := open(t, options(server)), open(t, options(server))
	content := storagetest.Content(1, large)
	written, stalled := false, false
	arrived, collected := make(chan struct{}), make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		written = written || r.Op == "PUT" && r.Key == "store/o/key"
		if written && !stalled && r.Op == "GET" && r.Key == "store/g/generations" {
			stalled = true
			close(arrived)
			return s3test.Fault{Hold: collected} // the server goes on with other requests
		}
		return s3test.Fault{}
	})
	created := make(chan error)
	go func() {
		created <- writer.Create(t.Context(), storage.Info{Key: "key", Size: large}, bytes.NewReader(content))
	}()
	<-arrived
	err := other.Create(t.Context(), storage.Info{Key: "key", Size: large}, bytes.NewReader(storagetest.Content(2, large)))
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a taken key = %v, want fs.ErrExist", err)
	}
	for range 4 {
		collect(t, other)
	}
	close(collected)
	if err := <-created; err != nil {
		t.Errorf("the stalled writer: %v", err)
	}
	for range 3 {
		expect(t, other, "key", content)
		collect(t, other)
	}
}

// A collection has several records under way: the server answers for one only when another is asked for.
func TestCollectReadsSeveralRecords(t *testing.T) {
	t.Parallel()
	inner := s3test.Start(t)
	filler := open(t, options(inner))
	const records = 40
	for i := range records {
		create(t, filler, fmt.Sprint("key", i), []byte("content"))
	}
	var mu sync.Mutex
	running, most := 0, 0
	two := make(chan struct{})
	pair := sync.OnceFunc(func() { close(two) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/bucket/store/o/") {
			mu.Lock()
			running++
			most = max(most, running)
			if running > 1 {
				pair()
			}
			mu.Unlock()
			select {
			case <-two:
			case <-time.After(10 * time.Second): // they come one at a time
				pair()
			}
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				running--
			}()
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	o := options(inner)
	o.Endpoint = server.URL
	done, err := open(t, o).Collect(t.Context(), 0)
	if err != nil || done.Records != records {
		t.Errorf("Collect = %+v, %v, want %d records", done, err, records)
	}
	if most < 2 || most > 16 {
		t.Errorf("%d records at a time, want between 2 and 16", most)
	}
}

// Uploads in parts that a writer left are ended, and those of a writer that goes on are not.
func TestCollectUploads(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "COMPLETE" || r.Op == "ABORT" {
			return s3test.Fault{Before: http.StatusForbidden}
		}
		return s3test.Fault{}
	})
	if err := db.Create(t.Context(), storage.Info{Key: "key", Size: 17 << 20}, bytes.NewReader(make([]byte, 17<<20))); err == nil {
		t.Fatal("Create succeeded")
	}
	server.Fail(nil)
	for i, left := range []int{1, 0} {
		if collect(t, db); server.Uploads() != left {
			t.Errorf("%d uploads after collection %d, want %d", server.Uploads(), i, left)
		}
	}
}

// What a damaged record refers to is not known, so nothing is deleted.
func TestCollectDamaged(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "key", storagetest.Content(1, large))
	collect(t, db)
	server.Change("store/o/key", func(b []byte) []byte { return b[:10] })
	if _, err := db.Collect(t.Context(), 0); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("Collect = %v, want ErrDamaged", err)
	}
	if n := len(server.Keys("store/c/")); n != 1 {
		t.Errorf("%d contents, want 1", n)
	}
}

// Replicas that write, delete and collect at the same time lose nothing that was acknowledged.
func TestCollectStress(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	var writers, collectors sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		db := open(t, options(server))
		collectors.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := db.Collect(t.Context(), 0); err != nil && !errors.Is(err, storage.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	kept := make([]map[string][]byte, 4)
	for w := range kept {
		kept[w] = map[string][]byte{}
		db := open(t, options(server))
		writers.Go(func() {
			for i := range 30 {
				key, content := fmt.Sprintf("%d/%d", w, i), storagetest.Content(uint64(w*100+i), large)
				err := db.Create(t.Context(), storage.Info{Key: key, Size: large}, bytes.NewReader(content))
				switch {
				case err != nil && !strings.Contains(err.Error(), "try again"):
					t.Error(err)
				case err == nil && i%3 == 0:
					if err := db.Delete(t.Context(), key); err != nil {
						t.Error(err)
					}
				case err == nil:
					kept[w][key] = content
				}
			}
		})
	}
	writers.Wait()
	close(done)
	collectors.Wait()
	db := open(t, options(server))
	for range 3 {
		collect(t, db)
	}
	n := 0
	for _, all := range kept {
		for key, content := range all {
			expect(t, db, key, content)
			n++
		}
	}
	if contents := len(server.Keys("store/c/")); contents != n || n == 0 {
		t.Errorf("%d contents of %d objects", contents, n)
	}
}

// A collection that stalls while another begins deletes nothing: others rely on a later look than its own.
func TestStalledCollector(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db, other := open(t, options(server)), open(t, options(server))
	create(t, db, "key", storagetest.Content(1, large))
	if err := db.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	collect(t, db)
	if done := collect(t, db); done.Marked != 1 {
		t.Fatalf("%+v, want one marked", done)
	}
	arrived, collected := make(chan struct{}), make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "LIST" && r.N == 2 {
			close(arrived)
			return s3test.Fault{Hold: collected}
		}
		return s3test.Fault{}
	})
	stalled := make(chan error)
	go func() {
		_, err := db.Collect(t.Context(), 0)
		stalled <- err
	}()
	<-arrived
	if done := collect(t, other); done.Deleted != 1 {
		t.Errorf("%+v, want one deleted", done)
	}
	close(collected)
	if err := <-stalled; !errors.Is(err, storage.ErrConflict) {
		t.Errorf("the stalled collection = %v, want ErrConflict", err)
	}
}

// A content that a collection has missed and marked is not moved, so that the next one sees it.
func TestMoveOfMarked(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	content := storagetest.Content(1, large)
	create(t, db, "from", content)
	collect(t, db)
	server.Fail(func(r s3test.Request) s3test.Fault { return s3test.Fault{Hidden: r.Op == "LIST" && r.N == 2} })
	if done := collect(t, db); done.Marked != 1 {
		t.Fatalf("%+v, want one marked", done)
	}
	server.Fail(nil)
	if err := db.Move(t.Context(), "from", "to", "proof"); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("Move = %v, want an error", err)
	}
	collect(t, db)
	expect(t, db, "from", content)
	if err := db.Move(t.Context(), "from", "to", "proof"); err != nil {
		t.Error(err)
	}
	for range 3 {
		collect(t, db)
	}
	expect(t, db, "to", content)
}

// A replacement that stalls until its content may be collected leaves the old object.
func TestStalledReplacement(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db, other := open(t, options(server)), open(t, options(server))
	content := storagetest.Content(1, large)
	create(t, db, "key", content)
	collected := make(chan struct{})
	arrived := make(chan struct{}, 100)
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && strings.HasPrefix(r.Key, "store/c/") {
			arrived <- struct{}{}
			return s3test.Fault{Hold: collected}
		}
		return s3test.Fault{}
	})
	replaced := make(chan error)
	go func() {
		replaced <- db.Replace(t.Context(), storage.Info{Key: "key", Size: large}, bytes.NewReader(storagetest.Content(2, large)))
	}()
	<-arrived
	collect(t, other)
	collect(t, other)
	close(collected)
	if err := <-replaced; err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("Replace = %v, want an error", err)
	}
	for range 3 {
		collect(t, other)
	}
	expect(t, db, "key", content)
}

// Without the right to list uploads all else is collected.
func TestCollectWithoutUploads(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.Fail(denied("UPLOADS", ""))
	db := open(t, options(server))
	create(t, db, "key", storagetest.Content(1, large))
	if err := db.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		collect(t, db)
	}
	if keys := server.Keys("store/c/"); len(keys) > 0 {
		t.Errorf("%q are left", keys)
	}
	if keys := server.Keys("store/g/"); len(keys) != 1 {
		t.Errorf("%q are left, want the generations", keys)
	}
}
