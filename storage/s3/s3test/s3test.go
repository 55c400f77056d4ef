// Package s3test is an S3 server in memory that can lie and fail, for tests of storage/s3. It has the
// requests that the engine sends, checks no signatures, and is no proof of what a real server does.
package s3test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is a server with one bucket, named bucket.
type Server struct {
	URL  string
	Name string // what it calls itself; set before the first request

	mu      sync.Mutex
	objects map[string]object
	uploads map[string]*upload
	last    int // number of the last upload
	seen    map[string]int
	fault   func(Request) Fault
}

// object is a value with its ETag, which takes longer to compute than all else here.
type object struct {
	value []byte
	etag  string
	time  time.Time // of its last change
}

func newObject(value []byte) object { return object{value, etag(value), time.Now()} }

type upload struct {
	key   string
	parts map[int][]byte
}

// Request is what a fault may depend on. Op is one of GET, HEAD, PUT, DELETE, LIST, BEGIN, PART,
// COMPLETE, ABORT, UPLOADS and RULES.
type Request struct {
	Op  string
	Key string
	N   int // of the requests with this Op, from 1

	Conditional bool // If-None-Match or If-Match is set

	Host   string
	Header http.Header
}

// Fault is what goes wrong with a request. The zero value is nothing.
type Fault struct {
	Before int             // this status, and nothing is done
	Code   string          // of S3 in the body of that response
	After  int             // it is done, and then this status; with -1 the connection is cut
	Wait   time.Duration   // before anything else
	Hold   <-chan struct{} // before anything else, until it is closed

	Unconditional bool // conditions are ignored
	Inverted      bool // If-None-Match: * asks for an object that is there
	Forgotten     bool // a PUT, PART, COMPLETE or DELETE is acknowledged and not done
	Hidden        bool // a GET, HEAD or LIST does not see it
	Corrupt       bool // a bit of the response is wrong, unless it is an error
	Cut           int  // so many bytes of the response, then the connection is cut
	NoRange       bool // a GET has the whole value

	Torn     int    // a PUT, PART or COMPLETE stores so many bytes, and acknowledges all
	Unlisted string // a LIST omits the keys that begin with it

	Instead string // another body, with status 200 and an ETag, and nothing is done
}

// unlisted reports whether a list omits a key.
func (f Fault) unlisted(key string) bool {
	return f.Unlisted != "" && strings.HasPrefix(key, f.Unlisted)
}

// stored returns what is stored of a value.
func (f Fault) stored(value []byte) []byte {
	if f.Torn > 0 {
		return value[:min(f.Torn, len(value))]
	}
	return value
}

// Start starts a server, which ends with the test.
func Start(t testing.TB) *Server { return start(t, httptest.NewServer) }

// StartTLS starts a server with https, and a certificate of the authority ca for example.com and for names below it.
func StartTLS(t testing.TB) (s *Server, ca *x509.Certificate) {
	s = start(t, func(h http.Handler) *httptest.Server {
		server := httptest.NewTLSServer(h)
		ca = server.Certificate()
		return server
	})
	return s, ca
}

func start(t testing.TB, listen func(http.Handler) *httptest.Server) *Server {
	s := &Server{objects: map[string]object{}, uploads: map[string]*upload{}, seen: map[string]int{}}
	server := listen(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// Fail makes f decide what goes wrong; nil ends that. f is called by one goroutine at a time.
func (s *Server) Fail(f func(Request) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
	s.seen = map[string]int{}
}

// Requests returns how many requests with one of these Ops there were since Fail; of all if none is
// named.
func (s *Server) Requests(ops ...string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for op, seen := range s.seen {
		if len(ops) == 0 || slices.Contains(ops, op) {
			n += seen
		}
	}
	return n
}

// Keys returns the keys in the bucket that begin with prefix.
func (s *Server) Keys(prefix string) (keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.objects {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Change replaces the value of a key by what change returns; nil deletes it.
func (s *Server) Change(key string, change func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value := change(bytes.Clone(s.objects[key].value)); value != nil {
		s.objects[key] = newObject(value)
	} else {
		delete(s.objects, key)
	}
}

// Age makes the keys that begin with prefix older.
func (s *Server) Age(prefix string, by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, o := range s.objects {
		if strings.HasPrefix(key, prefix) {
			o.time = o.time.Add(-by)
			s.objects[key] = o
		}
	}
}

// Uploads returns how many multipart uploads are neither complete nor aborted.
func (s *Server) Uploads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}

func etag(value []byte) string {
	sum := sha256.Sum256(value)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func op(r *http.Request, key string, query url.Values) string {
	switch {
	case r.Method == http.MethodGet && key == "" && query.Has("uploads"):
		return "UPLOADS"
	case r.Method == http.MethodGet && key == "" && query.Has("lifecycle"):
		return "RULES"
	case r.Method == http.MethodGet && key == "":
		return "LIST"
	case r.Method == http.MethodPost && query.Has("uploads"):
		return "BEGIN"
	case r.Method == http.MethodPost:
		return "COMPLETE"
	case r.Method == http.MethodPut && query.Has("partNumber"):
		return "PART"
	case r.Method == http.MethodDelete && query.Has("uploadId"):
		return "ABORT"
	}
	return r.Method
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutPrefix(r.URL.Path, "/bucket")
	if strings.HasPrefix(r.Host, "bucket.") {
		key, ok = r.URL.Path, true
	}
	if !ok {
		fail(w, http.StatusNotFound, "NoSuchBucket")
		return
	}
	key = strings.TrimPrefix(key, "/")
	query := r.URL.Query()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	req := Request{Op: op(r, key, query), Key: key, Conditional: r.Header.Get("If-None-Match")+r.Header.Get("If-Match") != "",
		Host: r.Host, Header: r.Header}
	fault := s.faultOf(req)
	time.Sleep(fault.Wait)
	if fault.Hold != nil {
		<-fault.Hold
	}
	if fault.Before != 0 {
		fail(w, fault.Before, fault.Code)
		return
	}
	if fault.Instead != "" {
		w.Header().Set("ETag", etag([]byte(fault.Instead)))
		io.WriteString(w, fault.Instead)
		return
	}
	if fault.NoRange {
		r.Header.Del("Range")
	}
	if s.Name != "" {
		w.Header().Set("Server", s.Name)
	}
	recorded := httptest.NewRecorder()
	s.mu.Lock()
	s.do(recorded, r, req, query, body, fault)
	s.mu.Unlock()
	send(w, recorded, r.Method, fault)
}

func (s *Server) faultOf(req Request) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[req.Op]++
	req.N = s.seen[req.Op]
	if s.fault == nil {
		return Fault{}
	}
	return s.fault(req)
}

func send(w http.ResponseWriter, recorded *httptest.ResponseRecorder, method string, fault Fault) {
	body := recorded.Body.Bytes()
	switch {
	case fault.After < 0:
		panic(http.ErrAbortHandler)
	case fault.After > 0:
		fail(w, fault.After, fault.Code)
		return
	case fault.Corrupt && len(body) > 0 && recorded.Code < 300:
		body[len(body)/2] ^= 4
	}
	for name, values := range recorded.Header() {
		w.Header()[name] = values
	}
	if method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(recorded.Code)
	if fault.Cut > 0 {
		w.Write(body[:min(fault.Cut, len(body))])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(body)
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>made for a test</Message></Error>", code)
}

// do does a request. The caller holds mu.
func (s *Server) do(w *httptest.ResponseRecorder, r *http.Request, req Request, query url.Values, body []byte, fault Fault) {
	stored, there := s.objects[req.Key]
	if fault.Hidden {
		there = false
	}
	switch req.Op {
	case "PUT":
		put := newObject(fault.stored(body))
		if s.permitted(w, r, req.Key, fault) && !fault.Forgotten {
			s.objects[req.Key] = put
		}
		w.Header().Set("ETag", put.etag)
	case "GET", "HEAD":
		if !there {
			fail(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		var first int
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first); n == 1 && first >= len(stored.value) {
			fail(w, http.StatusRequestedRangeNotSatisfiable, "InvalidRange") // also of an empty value, as S3 does
			return
		}
		w.Header().Set("ETag", stored.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(stored.value))
	case "DELETE":
		if s.permitted(w, r, req.Key, fault) {
			if !fault.Forgotten {
				delete(s.objects, req.Key)
			}
			w.WriteHeader(http.StatusNoContent)
		}
	case "LIST":
		s.list(w, query, fault)
	case "RULES":
		fail(w, http.StatusNotFound, "NoSuchLifecycleConfiguration")
	case "UPLOADS":
		io.WriteString(w, "<ListMultipartUploadsResult>")
		for id, u := range s.uploads {
			if strings.HasPrefix(u.key, query.Get("prefix")) {
				fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>%s</UploadId></Upload>", u.key, id)
			}
		}
		io.WriteString(w, "</ListMultipartUploadsResult>")
	case "BEGIN":
		s.last++
		id := strconv.Itoa(s.last)
		s.uploads[id] = &upload{req.Key, map[int][]byte{}}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	default:
		s.part(w, r, req, query, body, fault)
	}
}

// part does a request of an upload in parts. The caller holds mu.
func (s *Server) part(w *httptest.ResponseRecorder, r *http.Request, req Request, query url.Values, body []byte, fault Fault) {
	id := query.Get("uploadId")
	u := s.uploads[id]
	if u == nil || u.key != req.Key {
		fail(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	switch req.Op {
	case "PART":
		number, _ := strconv.Atoi(query.Get("partNumber"))
		if !fault.Forgotten {
			u.parts[number] = fault.stored(body)
		}
		w.Header().Set("ETag", etag(body))
	case "ABORT":
		delete(s.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case "COMPLETE":
		var list struct{ Part []struct{ PartNumber int } }
		if err := xml.Unmarshal(body, &list); err != nil {
			fail(w, http.StatusBadRequest, "MalformedXML")
			return
		}
		if !s.permitted(w, r, req.Key, fault) {
			return
		}
		var value []byte
		for _, part := range list.Part {
			value = append(value, u.parts[part.PartNumber]...)
		}
		whole := newObject(fault.stored(value))
		if !fault.Forgotten {
			s.objects[req.Key] = whole
		}
		delete(s.uploads, id)
		fmt.Fprintf(w, "<CompleteMultipartUploadResult><ETag>%s</ETag></CompleteMultipartUploadResult>", whole.etag)
	}
}

// permitted reports whether the conditions of a request hold, and fails it if not. The caller holds
// mu.
func (s *Server) permitted(w http.ResponseWriter, r *http.Request, key string, fault Fault) bool {
	if fault.Unconditional {
		return true
	}
	stored, there := s.objects[key]
	match := r.Header.Get("If-Match")
	switch {
	case match != "" && !there:
		fail(w, http.StatusNotFound, "NoSuchKey")
	case match != "" && match != stored.etag:
		fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
	case r.Header.Get("If-None-Match") == "*" && there != fault.Inverted:
		fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
	default:
		return true
	}
	return false
}

// pageSize is how many keys a list has, so that tests need few keys for several pages.
const pageSize = 500

// list lists keys. The caller holds mu.
func (s *Server) list(w http.ResponseWriter, query url.Values, fault Fault) {
	after := max(query.Get("continuation-token"), query.Get("start-after"))
	var keys []string
	for key := range s.objects {
		if strings.HasPrefix(key, query.Get("prefix")) && key > after && !fault.Hidden && !fault.unlisted(key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var b strings.Builder
	b.WriteString("<ListBucketResult><Name>bucket</Name><EncodingType>url</EncodingType>")
	if len(keys) > pageSize {
		keys = keys[:pageSize]
		b.WriteString("<IsTruncated>true</IsTruncated><NextContinuationToken>")
		xml.EscapeText(&b, []byte(keys[pageSize-1]))
		b.WriteString("</NextContinuationToken>")
	} else {
		b.WriteString("<IsTruncated>false</IsTruncated>")
	}
	for _, key := range keys {
		fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>%d</Size><LastModified>%s</LastModified></Contents>",
			url.QueryEscape(key), len(s.objects[key].value), s.objects[key].time.UTC().Format(time.RFC3339))
	}
	b.WriteString("</ListBucketResult>")
	io.WriteString(w, b.String())
}
