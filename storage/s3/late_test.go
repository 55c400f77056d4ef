package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// keys returns what Keys yields.
func keys(t *testing.T, db *s3.DB, prefix string) (all []string) {
	t.Helper()
	for key, err := range db.Keys(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, key)
	}
	return all
}

// A store whose lists have a new object only later loses nothing: a list has all others, the object is read and is not
// created again, and a collection that misses its record deletes nothing, because the one after it sees the record. A
// content that is in a list only later is collected later.
func TestLateLists(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db, other := open(t, options(server)), open(t, options(server))
	content := storagetest.Content(1, large)
	create(t, db, "mod/@v/v1.0.0.zip", content)
	collect(t, db)
	create(t, db, "mod/@v/v1.1.0.zip", content)
	unlisted := ""
	server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Unlisted: unlisted} })

	unlisted = "store/o/mod/@v/v1.1.0.zip"
	if got := keys(t, other, "mod/"); !slices.Equal(got, []string{"mod/@v/v1.0.0.zip"}) {
		t.Errorf("Keys yields %q, want the object that is in the list", got)
	}
	expect(t, other, "mod/@v/v1.1.0.zip", content)
	if err := other.Create(t.Context(), storage.Info{Key: "mod/@v/v1.1.0.zip"}, strings.NewReader("")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create = %v, want fs.ErrExist", err)
	}
	collect(t, db) // its content is in the current generation
	if done := collect(t, db); done.Marked != 1 {
		t.Fatalf("%+v, want the content of the record that is not listed marked", done)
	}
	unlisted = ""
	if got := keys(t, other, "mod/"); !slices.Equal(got, []string{"mod/@v/v1.0.0.zip", "mod/@v/v1.1.0.zip"}) {
		t.Errorf("Keys yields %q, want both objects", got)
	}
	for range 3 {
		if done := collect(t, db); done.Deleted > 0 {
			t.Errorf("%+v, want nothing deleted", done)
		}
	}
	expect(t, db, "mod/@v/v1.0.0.zip", content)
	expect(t, db, "mod/@v/v1.1.0.zip", content)

	if err := db.Delete(t.Context(), "mod/@v/v1.1.0.zip"); err != nil {
		t.Fatal(err)
	}
	unlisted = "store/c/"
	for range 3 {
		if done := collect(t, db); done.Deleted+done.Marked > 0 {
			t.Errorf("%+v, want nothing deleted", done)
		}
	}
	unlisted = ""
	collect(t, db)
	if done := collect(t, db); done.Deleted != 1 {
		t.Errorf("%+v, want the content of the deleted object gone", done)
	}
	expect(t, db, "mod/@v/v1.0.0.zip", content)
}

// late makes the first PUT of a key be done, although its answer is another one; and the next reads of that key do not
// see it yet.
func late(key string, fault s3test.Fault, hidden int) func(s3test.Request) s3test.Fault {
	put := false
	return func(r s3test.Request) s3test.Fault {
		switch {
		case r.Key != key:
			return s3test.Fault{}
		case r.Op == "PUT" && !put:
			put = true
			return fault
		case put && (r.Op == "GET" || r.Op == "HEAD") && hidden > 0:
			hidden--
			return s3test.Fault{Hidden: true}
		}
		return s3test.Fault{}
	}
}

// A write whose answer gets lost, on a store where it appears late and then arrives, is done once: its writer is told so,
// or that it is not known, and never that another has done it.
func TestAppearsLate(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]s3test.Fault{
		"503 after it was done":   {After: http.StatusServiceUnavailable, Code: "SlowDown"},
		"503 before it was done":  {Before: http.StatusServiceUnavailable, Code: "SlowDown"},
		"no answer":               {After: -1},
		"412, as it was repeated": {After: http.StatusPreconditionFailed, Code: "PreconditionFailed"},
	} {
		for _, hidden := range []int{0, 1, 3} {
			for _, size := range []int{1000, large} {
				server := s3test.Start(t)
				db := open(t, options(server))
				content := storagetest.Content(1, size)
				server.Fail(late("store/o/key", lost, hidden))
				if err := db.Create(t.Context(), storage.Info{Key: "key", Size: int64(size)}, bytes.NewReader(content)); err != nil {
					t.Errorf("%s, hidden for %d reads: Create of %d bytes = %v", name, hidden, size, err)
				}
				server.Fail(nil)
				if err := db.Create(t.Context(), storage.Info{Key: "key"}, strings.NewReader("")); !errors.Is(err, fs.ErrExist) {
					t.Errorf("%s, hidden for %d reads: second Create = %v, want fs.ErrExist", name, hidden, err)
				}
				for range 3 {
					collect(t, db)
				}
				expect(t, db, "key", content)
			}
			if lost.After == http.StatusPreconditionFailed && hidden > 0 {
				continue // 412, and then no state: another has changed it and deleted it, as far as can be known
			}
			swapLate(t, fmt.Sprintf("%s, hidden for %d reads", name, hidden), lost, hidden)
		}
	}
}

// swapLate creates a state, and changes it twice.
func swapLate(t *testing.T, name string, lost s3test.Fault, hidden int) {
	server := s3test.Start(t)
	db := open(t, options(server))
	for i, old := range [][]byte{nil, []byte("0"), []byte("1")} {
		server.Fail(late("store/s/state", lost, hidden))
		next := fmt.Append(nil, i)
		err := db.SwapState(t.Context(), "state", old, next)
		if err != nil && (errors.Is(err, storage.ErrConflict) || !strings.Contains(err.Error(), "is not known")) {
			t.Errorf("%s: SwapState from %q = %v, want nil or that it is not known", name, old, err)
		}
		server.Fail(nil)
		value, readErr := db.State(t.Context(), "state")
		if readErr != nil || err == nil && !bytes.Equal(value, next) || err != nil && !bytes.Equal(value, next) && !bytes.Equal(value, old) {
			t.Errorf("%s: after SwapState from %q = %v: %q, %v", name, old, err, value, readErr)
		}
		if err := db.SetState(t.Context(), "state", next); err != nil {
			t.Error(err)
		}
	}
}

// A server that starts while the ID of the store is not seen for a moment makes no other one.
func TestIdentityAppearsLate(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	id, err := open(t, options(server)).Identity(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	for hidden := 1; hidden < 4; hidden++ {
		reads := 0
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.Op == "GET" {
				reads++
			}
			return s3test.Fault{Hidden: r.Op == "GET" && reads <= hidden}
		})
		if got, err := open(t, options(server)).Identity(t.Context(), true); err != nil || got != id {
			t.Errorf("hidden for %d reads: Identity = %q, %v, want %q", hidden, got, err, id)
		}
	}
}
