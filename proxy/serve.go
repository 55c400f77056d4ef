package proxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// progressTime is how long a client may take for one write, a quarter of a
// megabyte at most, before it is taken for gone.
const progressTime = time.Minute

// largeAnswer is the size above which an answer moves the write time-out on with each write.
const largeAnswer = 256 << 10

// answer is a response and what is known about it. There is one for each
// request.
type answer struct {
	http.ResponseWriter
	r       *http.Request
	client  client
	ask     content.Ask     // what was asked for; its kind is NumKinds before that is known
	origin  *content.Origin // of its module; nil: not known
	result  result
	started bool // the status is sent, an error can only break off
}

func (a *answer) attrs(err error) []slog.Attr {
	return []slog.Attr{
		slog.String("request", a.client.Request()), slog.String("path", a.r.URL.Path),
		slog.String("remote", a.client.remote()), slog.Any("err", err),
	}
}

// serveImmutable answers with an object that never changes: from the store, or
// by filling it.
func (a *answer) serveImmutable() error {
	got, err := a.origin.Object(a.r.Context(), &a.ask, a.r.Method == http.MethodGet)
	a.result = result(got.Result)
	if err != nil {
		return err
	}
	if got.Arriving != nil {
		defer got.Arriving.Close()
		return a.stream(got.Arriving)
	}
	return a.serveObject(got.Object)
}

// streamBuffer is what each client has while it follows a zip that arrives.
const streamBuffer = 16 << 10

// stream answers with a zip while it arrives. The last part waits for the proof:
// if it fails, the answer breaks off. A Range is not looked at, which HTTP
// allows (RFC 9110, section 14.2). Once the zip is proved the rest comes from the store:
// a slow client must not hold on to disk space.
func (a *answer) stream(zip *content.Arriving) error {
	a.setImmutable(nil) // the hash of all bytes is not known yet
	if err := a.client.Keep(streamBuffer); err != nil {
		return err
	}
	a.Header().Set("Content-Length", strconv.FormatInt(zip.Size(), 10))
	a.started = true
	a.WriteHeader(http.StatusOK)
	var (
		ctx    = a.r.Context()
		out    = newPatientWriter(a.ResponseWriter)
		buffer = make([]byte, streamBuffer)
		sent   int64
	)
	for {
		part, err := zip.Next(ctx, sent)
		if err != nil {
			return err
		}
		if part == nil {
			break
		}
		n, err := io.CopyBuffer(out, part, buffer)
		if sent += n; err != nil {
			return err
		}
		_ = out.controller.Flush() // what is there must not wait for what is not
	}
	if err := zip.Proof(ctx); err != nil {
		return err
	}
	object, arrived := zip.Rest(ctx, sent)
	if object != nil {
		defer object.Close()
		return a.writeRest(object, out)
	}
	_, err := io.CopyBuffer(out, arrived, buffer)
	return err
}

// writeRest writes an object from where it stands.
func (a *answer) writeRest(object storage.Object, out io.Writer) error {
	watched := &watchedObject{Object: object}
	_, err := watched.WriteTo(out)
	if watched.err == nil {
		return clientError(err)
	}
	if errors.Is(watched.err, storage.ErrDamaged) {
		a.origin.Drop(a.r.Context(), object.Info().Key, watched.err)
	}
	return watched.err
}

// setImmutable sets the headers of an object that never changes. A strong entity tag
// must differ where the bytes do (RFC 9110, section 8.8.1), so it is their SHA-256 and
// not the h1 hash: honest zips of one h1 may be compressed differently.
func (a *answer) setImmutable(etag []string) {
	h := a.Header()
	h["Content-Type"] = contentTypes[a.ask.Req.Kind]
	h["Cache-Control"] = a.origin.Caching.Object
	h["Accept-Ranges"] = acceptRanges
	h["Cache-Status"] = cacheStatus[a.result]
	if etag != nil {
		h["Etag"] = etag
	}
}

// Header values that are the same for every answer; nobody changes them.
var (
	acceptRanges = []string{"bytes"}
	contentTypes = [request.NumKinds][]string{
		request.List:           {"text/plain; charset=utf-8"},
		request.Latest:         {"application/json"},
		request.Info:           {"application/json"},
		request.Mod:            {"text/plain; charset=utf-8"},
		request.Zip:            {"application/zip"},
		request.SumDBSupported: {"text/plain; charset=utf-8"},
		request.SumDBLatest:    {"text/plain; charset=utf-8"},
		request.SumDBLookup:    {"text/plain; charset=utf-8"},
		request.SumDBTile:      {"application/octet-stream"},
	}
	cacheStatus = [numberOfResults][]string{ // RFC 9211
		resultHit:       {"assay; hit"},
		resultStale:     {"assay; hit; detail=stale"},
		resultMiss:      {"assay; fwd=miss; stored"},
		resultCoalesced: {"assay; fwd=miss; collapsed"},
	}
)

// tagged is an object whose entity tag is known already.
type tagged interface{ ETag() []string }

// serveObject answers with a stored object, and closes it.
func (a *answer) serveObject(object storage.Object) error {
	defer object.Close()
	info := object.Info()
	if hot, ok := object.(tagged); ok {
		a.setImmutable(hot.ETag())
	} else {
		a.setImmutable([]string{content.ETag(object.SHA256())})
	}
	watched := &watchedObject{Object: object}
	if conditional(a.r.Header) || a.r.Method == http.MethodHead {
		http.ServeContent(a.body(info.Size), oneRange(a.r), "", time.Time{}, watched)
	} else {
		a.Header()["Content-Length"] = []string{strconv.FormatInt(info.Size, 10)}
		a.started = true
		if _, err := watched.WriteTo(a.body(info.Size)); err != nil && watched.err == nil {
			return clientError(err)
		}
	}
	if watched.err == nil {
		return nil
	}
	if errors.Is(watched.err, storage.ErrDamaged) {
		a.origin.Drop(a.r.Context(), info.Key, watched.err)
	}
	a.started = true
	return watched.err
}

// oneRange returns r, without its ranges if they are several, which HTTP allows:
// http.ServeContent would make the parts in a goroutine that nobody watches over, and
// that may still read from the object when the answer is over and it is closed.
func oneRange(r *http.Request) *http.Request {
	if !strings.Contains(r.Header.Get("Range"), ",") {
		return r
	}
	whole := r.Clone(r.Context())
	whole.Header.Del("Range")
	return whole
}

// conditional reports whether a request wants more than the whole object.
func conditional(h http.Header) bool {
	return h["Range"] != nil || h["If-None-Match"] != nil || h["If-Match"] != nil || h["If-Range"] != nil ||
		h["If-Modified-Since"] != nil || h["If-Unmodified-Since"] != nil
}

// watchedObject remembers an error of reading, which http.ServeContent and
// io.Copy do not tell from one of writing.
type watchedObject struct {
	storage.Object
	err error
}

func (o *watchedObject) Read(p []byte) (int, error) {
	n, err := o.Object.Read(p)
	if err != nil && err != io.EOF {
		o.err = err
	}
	return n, err
}

func (o *watchedObject) WriteTo(w io.Writer) (int64, error) {
	out := &watchedWriter{w: w}
	n, err := o.Object.WriteTo(out)
	if err != nil && out.err == nil {
		o.err = err
	}
	return n, err
}

// watchedWriter remembers an error of writing.
type watchedWriter struct {
	w   io.Writer
	err error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

// serveMutable answers with what may change: lists, latest versions, branches.
func (a *answer) serveMutable() error {
	m, how, err := a.origin.Answer(a.r.Context(), &a.ask)
	a.result = result(how)
	if err != nil {
		return err
	}
	h := a.Header()
	h["Content-Type"] = contentTypes[a.ask.Req.Kind]
	if age, known := a.origin.Age(m); known && age >= time.Second {
		h["Age"] = []string{strconv.Itoa(int(age / time.Second))}
	}
	h["Cache-Status"] = cacheStatus[a.result]
	h["Cache-Control"] = a.origin.Caching.Answer
	return a.writeBytes(m.Body)
}

// writeSumDB answers with what a checksum database says.
func (a *answer) writeSumDB(cacheControl string, body []byte) error {
	h := a.Header()
	if h["Content-Type"] == nil {
		h["Content-Type"] = contentTypes[request.SumDBLookup]
	}
	h["Cache-Control"] = []string{cacheControl}
	return a.writeBytes(body)
}

// writeBytes answers with body, whose hash is its ETag.
func (a *answer) writeBytes(body []byte) error {
	if err := a.client.Keep(len(body)); err != nil {
		return err
	}
	a.Header()["Etag"] = []string{content.ETag(sha256.Sum256(body))}
	http.ServeContent(a.ResponseWriter, oneRange(a.r), "", time.Time{}, bytes.NewReader(body))
	return nil
}

// body returns the writer for an answer of size bytes: the server's own write
// time-out is enough for a small one, a large one moves it on with each write.
func (a *answer) body(size int64) http.ResponseWriter {
	if size <= largeAnswer {
		return a.ResponseWriter
	}
	return newPatientWriter(a.ResponseWriter)
}

// patientWriter gives each write its own time, so that a large transfer may take
// long and a client that does not read may not.
type patientWriter struct {
	http.ResponseWriter
	controller *http.ResponseController
}

func newPatientWriter(w http.ResponseWriter) *patientWriter {
	return &patientWriter{w, http.NewResponseController(w)}
}

func (w *patientWriter) Write(p []byte) (int, error) {
	// Where there are no deadlines, as in a test's recorder, there is nothing
	// to move.
	_ = w.controller.SetWriteDeadline(time.Now().Add(progressTime))
	n, err := w.ResponseWriter.Write(p)
	return n, clientError(err)
}
