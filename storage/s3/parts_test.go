package s3_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// inParts is the size of a content that is sent in two parts.
const inParts = 17 << 20

// smallPart is the size of the parts of inSmallParts, and inTwo that of a content that is sent in two of them: the race
// detector follows each byte.
const smallPart, inTwo = 1 << 20, smallPart + 12345

// inSmallParts is open for a store that sends large contents in small parts.
func inSmallParts(t *testing.T, server *s3test.Server) *s3.DB {
	t.Helper()
	db := open(t, options(server))
	db.PartSize(smallPart)
	return db
}

// A store that acknowledges an upload in parts and has lost some of it is found out before a record names the content:
// nothing is acknowledged, and the object can be created when the store keeps what it gets.
func TestTornParts(t *testing.T) {
	t.Parallel()
	content := storagetest.Content(1, inTwo)
	for name, c := range map[string]struct {
		op    string
		n     int
		fault s3test.Fault
	}{
		"the other part is lost":             {"PART", 2, s3test.Fault{Forgotten: true}},
		"a part is torn":                     {"PART", 1, s3test.Fault{Torn: 100}},
		"all but one byte":                   {"COMPLETE", 1, s3test.Fault{Torn: inTwo - 1}},
		"nothing":                            {"COMPLETE", 1, s3test.Fault{Forgotten: true}},
		"a beginning, and the answer is 412": {"COMPLETE", 0, s3test.Fault{Torn: smallPart, After: http.StatusPreconditionFailed}},
	} {
		server := s3test.Start(t)
		db := inSmallParts(t, server)
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.Op == c.op && (r.N == c.n || c.n == 0) {
				return c.fault
			}
			return s3test.Fault{}
		})
		info := storage.Info{Key: "key", Size: inTwo}
		if err := db.Create(t.Context(), info, bytes.NewReader(content)); !errors.Is(err, storage.ErrAway) || errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: Create = %v, want an error of the store", name, err)
		}
		if keys := server.Keys("store/o/"); len(keys) > 0 || server.Uploads() > 0 {
			t.Errorf("%s: the bucket has the records %q and %d uploads", name, keys, server.Uploads())
		}
		server.Fail(nil)
		create(t, db, "key", content)
		expect(t, db, "key", content)
	}
}

// A content that loses its end, a part or the order of its parts after it was acknowledged is damaged where it is: what
// comes before is right, and no wrong byte is returned.
func TestTornLater(t *testing.T) {
	t.Parallel()
	const part = 16 << 20
	content := storagetest.Content(1, inParts)
	for name, change := range map[string]func([]byte) []byte{
		"the first part is lost": func(b []byte) []byte { return b[part:] },
		"the other part is lost": func(b []byte) []byte { return b[:part] },
		"the order":              func(b []byte) []byte { return append(bytes.Clone(b[part:]), b[:part]...) },
		"a part twice":           func(b []byte) []byte { return append(b[:part:part], b[:inParts-part]...) },
	} {
		server := s3test.Start(t)
		db := open(t, options(server))
		create(t, db, "key", content)
		server.Change(server.Keys("store/c/")[0], change)
		o, err := db.Open(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := o.WriteTo(&got); !errors.Is(err, storage.ErrDamaged) || !bytes.HasPrefix(content, got.Bytes()) {
			t.Errorf("%s: %d bytes, %v, want a beginning of the content and ErrDamaged", name, got.Len(), err)
		}
		o.Close()
	}
}

// The end of an upload in parts has its condition. After a 409 nothing was done, so the parts are sent again; after a
// 412 the content is there, because a server in between has sent the request twice; and if it is not, nothing is
// acknowledged.
func TestConditionOfComplete(t *testing.T) {
	t.Parallel()
	content := storagetest.Content(1, inTwo)
	conflict := s3test.Fault{Before: http.StatusConflict, Code: "ConditionalRequestConflict"}
	refused := s3test.Fault{Before: http.StatusPreconditionFailed, Code: "PreconditionFailed"}
	repeated := s3test.Fault{After: http.StatusPreconditionFailed, Code: "PreconditionFailed"}
	for name, c := range map[string]struct {
		faults  []s3test.Fault // of each COMPLETE, the last one also of those after it
		uploads int
		fails   bool
	}{
		"409":        {[]s3test.Fault{conflict, {}}, 2, false},
		"412 once":   {[]s3test.Fault{refused, {}}, 2, false},
		"sent twice": {[]s3test.Fault{repeated}, 1, false},
		"409 always": {[]s3test.Fault{conflict}, 5, true},
		"412 always": {[]s3test.Fault{refused}, 5, true},
	} {
		server := s3test.Start(t)
		db := inSmallParts(t, server)
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.Op != "COMPLETE" {
				return s3test.Fault{}
			}
			if r.Header.Get("If-None-Match") != "*" || !strings.HasPrefix(r.Key, "store/c/") {
				t.Errorf("%s: COMPLETE of %s with the condition %q, want *", name, r.Key, r.Header.Get("If-None-Match"))
			}
			return c.faults[min(r.N, len(c.faults))-1]
		})
		err := db.Create(t.Context(), storage.Info{Key: "key", Size: inTwo}, bytes.NewReader(content))
		if (err != nil) != c.fails || errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: Create = %v; it is to fail: %v", name, err, c.fails)
		}
		if n := server.Requests("BEGIN"); n != c.uploads || server.Uploads() > 0 {
			t.Errorf("%s: %d uploads, %d of them not ended; want %d", name, n, server.Uploads(), c.uploads)
		}
		if c.fails {
			if keys := server.Keys(""); len(keys) > 0 {
				t.Errorf("%s: the bucket has %q", name, keys)
			}
			server.Fail(nil)
			create(t, db, "key", content)
		}
		expect(t, db, "key", content)
	}
}
