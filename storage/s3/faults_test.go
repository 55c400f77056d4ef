package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// troubled returns the faults of a store that is busy, and whose answers get lost, for some of the
// requests of every kind; but at most three times in a row for the same one, which has five attempts.
func troubled() func(s3test.Request) s3test.Fault {
	row := map[string]int{}
	return func(r s3test.Request) s3test.Fault {
		f := trouble(r)
		request := r.Op + r.Key
		if f == (s3test.Fault{}) || row[request] == 3 {
			delete(row, request)
			return s3test.Fault{}
		}
		row[request]++
		return f
	}
}

func trouble(r s3test.Request) s3test.Fault {
	switch {
	case r.Op == "ABORT":
		return s3test.Fault{}
	case r.N%17 == 3:
		return s3test.Fault{Before: http.StatusServiceUnavailable, Code: "SlowDown"}
	case r.N%19 == 5:
		return s3test.Fault{After: -1}
	case r.N%23 == 7:
		return s3test.Fault{After: http.StatusInternalServerError, Code: "InternalError"}
	case r.N%29 == 2 && (r.Op == "GET" || r.Op == "LIST"):
		return s3test.Fault{Cut: 100}
	case r.N%13 == 4 && r.Op == "PUT" && r.Conditional:
		return s3test.Fault{Before: http.StatusConflict, Code: "ConditionalRequestConflict"}
	}
	return s3test.Fault{}
}

// The whole contract holds on a store in trouble: no write is lost or done twice, and no caller sees
// what passes. TestVersitygw has it without trouble.
func TestContractInTrouble(t *testing.T) {
	t.Parallel()
	storagetest.Test(t, func(t *testing.T) storage.Store {
		server := s3test.Start(t)
		server.Fail(troubled())
		o := options(server)
		o.Spool = t.TempDir()
		t.Cleanup(func() { expectEmpty(t, o.Spool) })
		return open(t, o)
	})
}

func create(t *testing.T, s storage.Store, key string, content []byte) {
	t.Helper()
	if err := s.Create(t.Context(), storage.Info{Key: key, Size: int64(len(content))}, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s storage.Store, key string) ([]byte, error) {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(o)
}

// sizes are of a content in its record, of one in one piece, and of one in several parts of inSmallParts.
var sizes = []int{1000, 600 << 10, inTwo}

// What is wrong in the bucket is found, wherever it is, and is damage.
func TestDamage(t *testing.T) {
	t.Parallel()
	flip := func(at func(n int) int) func([]byte) []byte {
		return func(b []byte) []byte {
			b[at(len(b))] ^= 1
			return b
		}
	}
	for name, c := range map[string]struct {
		prefix string // of the key in the bucket
		size   int
		change func([]byte) []byte
	}{
		"first line":       {"store/o/", 1000, flip(func(int) int { return 7 })},
		"JSON":             {"store/o/", 1000, flip(func(int) int { return 60 })},
		"content":          {"store/o/", 1000, flip(func(n int) int { return n - 1 })},
		"short record":     {"store/o/", 1000, func(b []byte) []byte { return b[:20] }},
		"short content":    {"store/o/", 1000, func(b []byte) []byte { return b[:len(b)-1] }},
		"more content":     {"store/o/", 1000, func(b []byte) []byte { return append(b, 0) }},
		"nothing":          {"store/o/", 1000, func(b []byte) []byte { return []byte{} }},
		"large: content":   {"store/c/", 3 << 20, flip(func(n int) int { return n / 2 })},
		"large: end":       {"store/c/", 3 << 20, func(b []byte) []byte { return b[:len(b)-1] }},
		"large: gone":      {"store/c/", 3 << 20, func(b []byte) []byte { return nil }},
		"large: no record": {"store/o/", 3 << 20, flip(func(n int) int { return n / 2 })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t)
			db := open(t, options(server))
			content := storagetest.Content(1, c.size)
			create(t, db, "key", content)
			server.Change(server.Keys(c.prefix)[0], c.change)
			if got, err := read(t, db, "key"); !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("reading = %d bytes, %v, want ErrDamaged", len(got), err)
			}
			if err := db.Delete(t.Context(), "key"); err != nil {
				t.Errorf("a damaged object cannot be deleted: %v", err)
			}
			create(t, db, "key", content)
			if got, err := read(t, db, "key"); err != nil || !bytes.Equal(got, content) {
				t.Errorf("after it was created again: %d bytes, %v", len(got), err)
			}
		})
	}
}

// A store that returns the record of another key is found out.
func TestWrongRecord(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "a", []byte("a"))
	create(t, db, "b", []byte("b"))
	var other []byte
	server.Change("store/o/b", func(b []byte) []byte { other = b; return b })
	server.Change("store/o/a", func([]byte) []byte { return other })
	if got, err := read(t, db, "a"); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("reading = %q, %v, want ErrDamaged", got, err)
	}
	for info, err := range db.List(t.Context(), "") {
		if err != nil || info.Key != "b" {
			t.Errorf("List yields %v, %v, want b alone", info, err)
		}
	}
}

func TestNewer(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "a", []byte("a"))
	server.Change("store/o/a", func(b []byte) []byte { return bytes.Replace(b, []byte("assay 1 "), []byte("assay 2 "), 1) })
	if _, err := read(t, db, "a"); !errors.Is(err, storage.ErrNewer) {
		t.Errorf("reading = %v, want ErrNewer", err)
	}
}

// Bits that change on the way are not served.
func TestCorruptResponses(t *testing.T) {
	t.Parallel()
	for _, size := range sizes[:2] {
		server := s3test.Start(t)
		db := open(t, options(server))
		create(t, db, "key", storagetest.Content(1, size))
		server.Fail(func(r s3test.Request) s3test.Fault { return s3test.Fault{Corrupt: r.Op == "GET"} })
		if got, err := read(t, db, "key"); !errors.Is(err, storage.ErrDamaged) {
			t.Errorf("reading = %d bytes, %v, want ErrDamaged", len(got), err)
		}
	}
}

// The answer to each request of a write gets lost, one after the other: the write is done, once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		content := storagetest.Content(1, size)
		server := s3test.Start(t)
		db := inSmallParts(t, server)
		server.Fail(nil)
		create(t, db, "all", content)
		requests := server.Requests()
		for lost := range requests {
			seen := 0
			server.Fail(func(s3test.Request) s3test.Fault {
				if seen++; seen == lost+1 {
					return s3test.Fault{After: -1}
				}
				return s3test.Fault{}
			})
			key := fmt.Sprint("key", lost)
			create(t, db, key, content)
			if err := db.Create(t.Context(), storage.Info{Key: key}, strings.NewReader("")); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%d bytes, answer %d lost: second Create = %v, want fs.ErrExist", size, lost, err)
			}
			if got, err := read(t, db, key); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, answer %d lost: %d bytes, %v", size, lost, len(got), err)
			}
		}
		if left := server.Uploads(); left > 1 { // the engine does not learn the number of the upload whose BEGIN lost its answer
			t.Errorf("%d uploads are left", left)
		}
	}
}

// Each request of a write fails for good, one after the other: the write fails, leaves no content
// that could be known to be of no use, and can be done again.
func TestFailedWrites(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		content := storagetest.Content(1, size)
		for failing := range 12 {
			server := s3test.Start(t)
			db := inSmallParts(t, server)
			seen := 0
			server.Fail(func(s3test.Request) s3test.Fault {
				if seen++; seen == failing+1 {
					return s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}
				}
				return s3test.Fault{}
			})
			err := db.Create(t.Context(), storage.Info{Key: "key", Size: int64(size)}, bytes.NewReader(content))
			if server.Requests() <= failing {
				break // all requests have failed once
			}
			if err == nil {
				t.Errorf("%d bytes, request %d failing: Create succeeded", size, failing)
			}
			server.Fail(nil)
			if left := server.Uploads(); left > 0 {
				t.Errorf("%d bytes, request %d failing: %d uploads left", size, failing, left)
			}
			// The last request is a look at the generation, after the record was written.
			if err := db.Create(t.Context(), storage.Info{Key: "key", Size: int64(size)}, bytes.NewReader(content)); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Errorf("%d bytes, request %d failing: then %v", size, failing, err)
			}
			expect(t, db, "key", content)
		}
	}
}

// What those who lose a race leave is collected.
func TestLosersAreCollected(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	for range 3 {
		d, err := db.Draft(t.Context(), -1)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := d.Write(storagetest.Content(1, 1<<20)); err != nil {
			t.Fatal(err)
		}
		first := true
		server.Fail(func(r s3test.Request) s3test.Fault { // they do not see each other at first
			hide := first && r.Op == "GET" && r.Key == "store/o/key"
			first = first && !hide
			return s3test.Fault{Hidden: hide}
		})
		if err := d.Commit(t.Context(), storage.Info{Key: "key", Size: 1 << 20}); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	server.Fail(nil)
	if keys := server.Keys("store/c/"); len(keys) != 3 {
		t.Errorf("the bucket has %q, want three contents", keys)
	}
	for range 3 {
		collect(t, db)
	}
	if keys := server.Keys("store/c/"); len(keys) != 1 {
		t.Errorf("the bucket has %q, want the content of the winner", keys)
	}
	expect(t, db, "key", storagetest.Content(1, 1<<20))
}

// A store that is away is an error with a reason, never absence.
func TestAway(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	create(t, db, "key", []byte("content"))
	server.Fail(func(s3test.Request) s3test.Fault {
		return s3test.Fault{Before: http.StatusServiceUnavailable, Code: "SlowDown"}
	})
	_, openErr := db.Open(t.Context(), "key")
	_, stateErr := db.State(t.Context(), "state")
	var listErr error
	for _, listErr = range db.Keys(t.Context(), "") {
	}
	for name, err := range map[string]error{
		"Open": openErr, "State": stateErr, "Keys": listErr,
		"Create":    db.Create(t.Context(), storage.Info{Key: "new"}, strings.NewReader("")),
		"SwapState": db.SwapState(t.Context(), "state", nil, []byte("value")),
		"Delete":    db.Delete(t.Context(), "key"),
	} {
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "bucket") {
			t.Errorf("%s = %v, want that the bucket is away", name, err)
		}
	}
	server.Fail(nil)
	if got, err := read(t, db, "key"); err != nil || string(got) != "content" {
		t.Errorf("when it is back: %q, %v", got, err)
	}
}
