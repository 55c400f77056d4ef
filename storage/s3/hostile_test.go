package s3_test

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
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// answers makes all requests with one of the Ops have an answer that is not one of an object store.
func answers(fault s3test.Fault, ops string) func(s3test.Request) s3test.Fault {
	return func(r s3test.Request) s3test.Fault {
		if strings.Contains(ops, r.Op) {
			return fault
		}
		return s3test.Fault{}
	}
}

// A server that answers in the place of the store says neither that something is absent nor that it is
// damaged: callers would delete it.
func TestOtherServer(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]s3test.Fault{
		"404 of a proxy": {Before: http.StatusNotFound},
		"403":            {Before: http.StatusForbidden},
		"a redirect":     {Before: http.StatusMovedPermanently},
		"a teapot":       {Before: http.StatusTeapot},
	} {
		server := s3test.Start(t)
		db := open(t, options(server))
		create(t, db, "key", storagetest.Content(1, large))
		o, err := db.Open(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if err := db.SetState(t.Context(), "state", []byte("value")); err != nil {
			t.Fatal(err)
		}
		server.Fail(answers(fault, "GET HEAD PUT DELETE LIST"))
		_, readErr := io.ReadAll(o)
		_, statErr := db.Stat(t.Context(), "key")
		_, stateErr := db.State(t.Context(), "state")
		var listErr, keysErr error
		for _, listErr = range db.List(t.Context(), "") {
		}
		for _, keysErr = range db.Keys(t.Context(), "") {
		}
		_, collectErr := db.Collect(t.Context(), 0)
		for method, err := range map[string]error{
			"Read": readErr, "Stat": statErr, "State": stateErr, "List": listErr, "Keys": keysErr, "Collect": collectErr,
			"Create":      db.Create(t.Context(), storage.Info{Key: "new"}, strings.NewReader("")),
			"Delete":      db.Delete(t.Context(), "key"),
			"Move":        db.Move(t.Context(), "key", "to", ""),
			"SetState":    db.SetState(t.Context(), "state", nil),
			"SwapState":   db.SwapState(t.Context(), "new", nil, []byte("v")),
			"DeleteState": db.DeleteState(t.Context(), "state"),
		} {
			if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, storage.ErrDamaged) || errors.Is(err, storage.ErrConflict) {
				t.Errorf("%s: %s = %v, want an error that decides nothing", name, method, err)
			}
		}
	}
}

// What is not a list is not an empty list.
func TestNoList(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"a page":         "<html><body>Welcome</body></html>",
		"text":           "ok",
		"another list":   "<ListAllMyBucketsResult></ListAllMyBucketsResult>",
		"another bucket": "<ListBucketResult><Name>other</Name><IsTruncated>false</IsTruncated></ListBucketResult>",
		"no end":         "<ListBucketResult><Name>bucket</Name></ListBucketResult>",
		"no next":        "<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated></ListBucketResult>",
		"the same for ever": "<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>" +
			"<Contents><Key>store/o/a</Key></Contents></ListBucketResult>",
		"empty for ever": "<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken></ListBucketResult>",
		"no order": "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>" +
			"<Contents><Key>store/o/b</Key></Contents><Contents><Key>store/o/a</Key></Contents></ListBucketResult>",
		"other keys": "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>other/o/b</Key></Contents></ListBucketResult>",
		"6 MB":       "<ListBucketResult><Name>" + strings.Repeat("long", 6<<18) + "</Name></ListBucketResult>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t)
			db := open(t, options(server))
			create(t, db, "key", storagetest.Content(1, large))
			server.Fail(answers(s3test.Fault{Instead: body}, "LIST"))
			var err error
			for _, err = range db.Keys(t.Context(), "") {
			}
			if err == nil {
				t.Error("Keys ended without an error")
			}
			if _, err := db.Collect(t.Context(), 0); err == nil {
				t.Error("Collect ended without an error")
			}
			server.Fail(nil)
			expect(t, db, "key", storagetest.Content(1, large))
		})
	}
}

// A list omits keys that another program wrote below the prefix, and has all others.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "a", []byte("a"))
	create(t, db, "z", []byte("z"))
	server.Change("store/o/", func([]byte) []byte { return []byte{} }) // a folder, as consoles make them
	server.Change("store/o/empty", func([]byte) []byte { return []byte{} })
	server.Change("store/o/a//b", func([]byte) []byte { return []byte("text") })
	server.Change("store/c/readme", func([]byte) []byte { return []byte("text") })
	var keys []string
	for info, err := range db.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	if fmt.Sprint(keys) != "[a z]" {
		t.Errorf("List yields %q, want a and z", keys)
	}
	if _, err := db.Stat(t.Context(), "empty"); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("Stat of an empty value = %v, want ErrDamaged", err)
	}
	if err := db.Delete(t.Context(), "empty"); err != nil {
		t.Errorf("an empty value cannot be deleted: %v", err)
	}
}

// Files that are missing on this machine are not objects that are missing in the bucket.
func TestLocalErrors(t *testing.T) {
	t.Parallel()
	o := options(s3test.Start(t))
	o.Spool = t.TempDir() + "/absent"
	db := open(t, o)
	err := db.Create(t.Context(), storage.Info{Key: "key", Size: large}, bytes.NewReader(make([]byte, large)))
	if err == nil || errors.Is(err, fs.ErrNotExist) || !errors.Is(err, storage.ErrNoLarge) {
		t.Errorf("Create without a spool = %v, want ErrNoLarge", err)
	}
}

// A server between us and the store may send a PUT twice: the answer to the second one is 412.
func TestRepeatedPut(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	repeated := func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && r.Conditional {
			return s3test.Fault{After: http.StatusPreconditionFailed, Code: "PreconditionFailed"}
		}
		return s3test.Fault{}
	}
	server.Fail(repeated)
	content := storagetest.Content(1, large)
	create(t, db, "key", content)
	for _, value := range []string{"first", "second", "third"} {
		old := map[string][]byte{"first": nil, "second": []byte("first"), "third": []byte("second")}[value]
		if err := db.SwapState(t.Context(), "state", old, []byte(value)); err != nil {
			t.Errorf("SwapState to %s: %v", value, err)
		}
	}
	server.Fail(nil)
	for range 3 {
		collect(t, db)
	}
	expect(t, db, "key", content)
}

// The answer to a swap gets lost, and others set the state before the writer can look.
func TestLostSwap(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db, other := open(t, options(server)), open(t, options(server))
	if err := db.SetState(t.Context(), "state", []byte("0")); err != nil {
		t.Fatal(err)
	}
	lost := false
	arrived, set := make(chan struct{}), make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		switch {
		case r.Op == "PUT" && !lost:
			lost = true
			return s3test.Fault{After: http.StatusBadGateway}
		case r.Op == "GET" && lost && r.N == 2:
			close(arrived)
			return s3test.Fault{Hold: set}
		}
		return s3test.Fault{}
	})
	swapped := make(chan error)
	go func() { swapped <- db.SwapState(t.Context(), "state", []byte("0"), []byte("1")) }()
	<-arrived
	for i := range 5 {
		if err := other.SetState(t.Context(), "state", []byte(fmt.Sprint("other", i))); err != nil {
			t.Error(err)
		}
	}
	close(set)
	if err := <-swapped; err != nil {
		t.Errorf("SwapState = %v, want nil: it was done", err)
	}
}

// The answer to a deletion gets lost, and another creates the object anew: that one stays.
func TestLostDelete(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "key", []byte("old"))
	other := open(t, options(server))
	arrived, created := make(chan struct{}), make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		switch {
		case r.Op == "DELETE" && r.N == 1:
			return s3test.Fault{After: http.StatusInternalServerError}
		case r.Op == "DELETE" && r.N == 2:
			close(arrived)
			return s3test.Fault{Hold: created}
		}
		return s3test.Fault{}
	})
	deleted := make(chan error)
	go func() { deleted <- db.Delete(t.Context(), "key") }()
	<-arrived
	create(t, other, "key", []byte("new"))
	close(created)
	if err := <-deleted; err != nil {
		t.Errorf("Delete: %v", err)
	}
	expect(t, db, "key", []byte("new"))
}

// A server between us and the store may send a DELETE twice too. A move never loses the object.
func TestRepeatedDelete(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusPreconditionFailed} {
		server := s3test.Start(t)
		db := open(t, options(server))
		create(t, db, "from", []byte("content"))
		server.Fail(answers(s3test.Fault{After: status, Code: "NoSuchKey"}, "DELETE"))
		if err := db.Move(t.Context(), "from", "to", "proof"); err != nil {
			t.Errorf("%d: Move: %v", status, err)
		}
		server.Fail(nil)
		expect(t, db, "to", []byte("content"))
		if keys := server.Keys("store/o/"); len(keys) != 1 {
			t.Errorf("%d: the bucket has %q, want one record", status, keys)
		}
	}
}

// One wrong bit on the way, once, is read again, and is no damage.
func TestOneWrongBit(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	small, content := storagetest.Content(1, 100<<10), storagetest.Content(2, large)
	create(t, db, "small", small)
	create(t, db, "large", content)
	if err := db.SetState(t.Context(), "state", small); err != nil {
		t.Fatal(err)
	}
	once := func() {
		corrupt := true
		server.Fail(func(r s3test.Request) s3test.Fault {
			f := s3test.Fault{Corrupt: corrupt && r.Op == "GET"}
			corrupt = corrupt && !f.Corrupt
			return f
		})
	}
	once()
	expect(t, db, "small", small)
	once()
	expect(t, db, "large", content)
	once()
	if value, err := db.State(t.Context(), "state"); err != nil || !bytes.Equal(value, small) {
		t.Errorf("State = %d bytes, %v", len(value), err)
	}
	once()
	if err := db.Move(t.Context(), "small", "moved", "proof"); err != nil {
		t.Error(err)
	}
	expect(t, db, "moved", small)
}

// Each write of a record or of a content has a condition, so one that arrives late changes nothing.
func TestEveryWriteHasACondition(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	server.Fail(func(r s3test.Request) s3test.Fault {
		collected := r.Op == "DELETE" && strings.HasPrefix(r.Key, "store/c/") // nothing refers to it, and it never changes
		if !r.Conditional && (r.Op == "PUT" || r.Op == "DELETE" || r.Op == "COMPLETE") && !collected {
			return s3test.Fault{Before: http.StatusTeapot}
		}
		return s3test.Fault{}
	})
	for _, size := range []int{10, large, inParts} {
		content := storagetest.Content(1, size)
		create(t, db, "key", content)
		for range 2 {
			if err := db.Replace(t.Context(), storage.Info{Key: "key", Size: int64(size)}, bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
			if err := db.SetState(t.Context(), "state", content[:10]); err != nil {
				t.Error(err)
			}
		}
		if err := db.Move(t.Context(), "key", "to", "proof"); err != nil {
			t.Error(err)
		}
		if err := db.Delete(t.Context(), "to"); err != nil {
			t.Error(err)
		}
		if err := db.DeleteState(t.Context(), "state"); err != nil {
			t.Error(err)
		}
		collect(t, db)
	}
}

// A deletion that was not done is done again, also if the state has changed meanwhile; and a state that
// is deleted while it is set is set.
func TestStateDeletedBeside(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db, other := open(t, options(server)), open(t, options(server))
	if err := db.SetState(t.Context(), "state", []byte("1")); err != nil {
		t.Fatal(err)
	}
	arrived, swapped := make(chan struct{}), make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		switch {
		case r.Op == "DELETE" && r.N == 1:
			return s3test.Fault{Before: http.StatusServiceUnavailable}
		case r.Op == "DELETE" && r.N == 2:
			close(arrived)
			return s3test.Fault{Hold: swapped}
		}
		return s3test.Fault{}
	})
	deleted := make(chan error)
	go func() { deleted <- db.DeleteState(t.Context(), "state") }()
	<-arrived
	if err := other.SwapState(t.Context(), "state", []byte("1"), []byte("2")); err != nil {
		t.Error(err)
	}
	close(swapped)
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	if value, err := db.State(t.Context(), "state"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("State = %q, %v, want fs.ErrNotExist", value, err)
	}

	server.Fail(nil)
	if err := db.SetState(t.Context(), "state", []byte("1")); err != nil {
		t.Fatal(err)
	}
	arrived = make(chan struct{})
	removed := make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && r.N == 1 {
			close(arrived)
			return s3test.Fault{Hold: removed}
		}
		return s3test.Fault{}
	})
	set := make(chan error)
	go func() { set <- db.SetState(t.Context(), "state", []byte("3")) }()
	<-arrived
	if err := other.DeleteState(t.Context(), "state"); err != nil {
		t.Error(err)
	}
	close(removed)
	if err := <-set; err != nil {
		t.Error(err)
	}
	if value, err := db.State(t.Context(), "state"); err != nil || string(value) != "3" {
		t.Errorf("State = %q, %v, want 3", value, err)
	}
}

// A 416 of another server does not make a value empty, or damaged.
func TestRangeOfOtherServer(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "key", []byte("content"))
	server.Fail(answers(s3test.Fault{Before: http.StatusRequestedRangeNotSatisfiable}, "GET"))
	if _, err := db.Stat(t.Context(), "key"); err == nil || errors.Is(err, storage.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat = %v, want an error that decides nothing", err)
	}
	if err := db.Delete(t.Context(), "key"); err == nil || server.Requests("DELETE") > 0 {
		t.Errorf("Delete = %v after %d deletions, want an error", err, server.Requests("DELETE"))
	}
}

// A draft that got no memory is no shorter content.
func TestNoMemory(t *testing.T) {
	t.Parallel()
	o := options(s3test.Start(t))
	o.Writers = memory.New(300 << 10)
	db := open(t, o)
	first, err := db.Draft(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	second, err := db.Draft(ctx, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Write([]byte("second")); err == nil {
		t.Error("Write succeeded without memory")
	}
	if err := second.Commit(t.Context(), storage.Info{Key: "key"}); err == nil {
		t.Error("Commit succeeded after an error of Write")
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// A store whose ETags do not match themselves is an error, and not a load.
func TestETagsThatDoNotMatch(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	if err := db.SetState(t.Context(), "state", []byte("value")); err != nil {
		t.Fatal(err)
	}
	server.Fail(answers(s3test.Fault{Before: http.StatusPreconditionFailed}, "PUT"))
	if err := db.SwapState(t.Context(), "state", []byte("value"), []byte("new")); err == nil || errors.Is(err, storage.ErrConflict) {
		t.Errorf("SwapState = %v, want what is wrong with the store", err)
	}
	if n := server.Requests(); n > 30 {
		t.Errorf("%d requests", n)
	}
}

// Texts of errors are short, and the bodies of answers are not kept in memory.
func TestLargeError(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	server.Fail(answers(s3test.Fault{Before: http.StatusBadRequest, Code: strings.Repeat("long", 1<<20)}, "GET"))
	if _, err := db.Stat(t.Context(), "key"); err == nil || len(err.Error()) > 1000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// A request is sent five times, not five times five.
func TestAttempts(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	server.Fail(answers(s3test.Fault{Before: http.StatusServiceUnavailable}, "GET LIST"))
	if _, err := db.Stat(t.Context(), "key"); err == nil || server.Requests() != 5 {
		t.Errorf("%v after %d requests, want an error after 5", err, server.Requests())
	}
	server.Fail(answers(s3test.Fault{Before: http.StatusServiceUnavailable}, "BEGIN"))
	err := db.Create(t.Context(), storage.Info{Key: "key", Size: 17 << 20}, bytes.NewReader(make([]byte, 17<<20)))
	if n := server.Requests("BEGIN"); err == nil || n != 5 {
		t.Errorf("%v after %d attempts to begin, want an error after 5", err, n)
	}
}

// With little memory objects are read in small pieces, and it is free again after Close, also after
// that of the store.
func TestMemory(t *testing.T) {
	t.Parallel()
	content := storagetest.Content(1, 3<<20)
	o := options(s3test.Start(t))
	o.Readers, o.Large, o.Writers = memory.New(5<<18), memory.New(5<<18), memory.New(5<<18)
	db := open(t, o)
	create(t, db, "large", content)
	create(t, db, "small", content[:1000])
	for range 3 {
		opened, err := db.Open(t.Context(), "large")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(opened, make([]byte, 10)); err != nil {
			t.Error(err)
		}
		var rest bytes.Buffer
		if _, err := opened.WriteTo(&rest); err != nil || !bytes.Equal(rest.Bytes(), content[10:]) {
			t.Errorf("WriteTo after Read: %d bytes, %v", rest.Len(), err)
		}
		opened.Close()
	}
	small, err := db.Open(t.Context(), "small")
	if err != nil {
		t.Fatal(err)
	}
	draft, err := db.Draft(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft.Write(content); err != nil {
		t.Error(err)
	}
	db.Close()
	small.Close()
	draft.Close()
	if _, err := draft.Write(content); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Write after Close = %v, want fs.ErrClosed", err)
	}
	if o.Readers.Used() != 0 || o.Large.Used() != 0 || o.Writers.Used() != 0 {
		t.Errorf("%d, %d and %d bytes are still taken", o.Readers.Used(), o.Large.Used(), o.Writers.Used())
	}
}

// A client that stops reading a large object takes no memory that small ones need. A caller that reads another large
// object waits until that client goes on; a caller that opens a small one gets an error after a while without memory.
func TestMemoryOfSlowReaders(t *testing.T) {
	t.Parallel()
	const places = 4
	o := s3.Options{Readers: memory.New(256 << 10), Large: memory.New(places * 256 << 10).Limit(places * 256 << 10)}
	large := storagetest.Content(1, 3<<20)
	throughPipesWith(t, o, s3test.Start(t).ServeHTTP, func(t *testing.T, db *s3.DB) {
		create(t, db, "large", large)
		create(t, db, "small", large[:1000])
		whole := func(key string, want []byte) {
			t.Helper()
			if got, err := read(t, db, key); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", key, len(got), err)
			}
		}
		begun := func(key string) storage.Object {
			t.Helper()
			opened, err := db.Open(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(opened, make([]byte, 10)); err != nil {
				t.Error(err)
			}
			return opened
		}
		var slow []storage.Object
		for range places {
			slow = append(slow, begun("large"))
		}
		for range 3 {
			whole("small", large[:1000])
		}
		var done atomic.Bool
		var waiting sync.WaitGroup
		waiting.Go(func() {
			whole("large", large)
			done.Store(true)
		})
		time.Sleep(time.Minute)
		if done.Load() {
			t.Error("a large object was read without memory")
		}
		var rest bytes.Buffer // a reader that has begun goes on to the end, in small parts
		if _, err := slow[0].WriteTo(&rest); err != nil || !bytes.Equal(rest.Bytes(), large[10:]) {
			t.Errorf("WriteTo after Read: %d bytes, %v", rest.Len(), err)
		}
		waiting.Wait()
		for _, opened := range slow {
			opened.Close()
		}

		small, begin := begun("small"), time.Now()
		if _, err := db.Open(t.Context(), "small"); !errors.Is(err, memory.ErrFull) {
			t.Errorf("Open without memory: %v", err)
		}
		if waited := time.Since(begin); waited < 10*time.Second || waited > 30*time.Second {
			t.Errorf("Open has waited %v", waited)
		}
		small.Close()
		if o.Readers.Used() != 0 || o.Large.Used() != 0 {
			t.Errorf("%d and %d bytes are still taken", o.Readers.Used(), o.Large.Used())
		}
	})
}

var _ storage.Store = (*s3.DB)(nil)
