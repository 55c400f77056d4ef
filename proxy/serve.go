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

	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// progressTime limits one write of at most 256 KiB to a client.
const progressTime = time.Minute

// largeResponse is the size above which each write of a response extends the write timeout.
const largeResponse = 256 << 10

// response is a response with its state. Each request has one.
type response struct {
	http.ResponseWriter
	r       *http.Request
	client  client
	ask     content.Ask     // the request; its kind is NumKinds until the path is parsed
	origin  *content.Origin // of its module; nil until it is known
	result  result
	started bool // the status is sent; an error can only abort the response
}

func (resp *response) attrs(err error) []slog.Attr {
	return []slog.Attr{
		slog.String("request", resp.client.Request()), slog.String("path", resp.r.URL.Path),
		slog.String("remote", resp.client.remote()), slog.Any("err", err),
	}
}

// trace says in the span of the request, if it has one, how it was answered.
func (resp *response) trace() {
	ctx := resp.r.Context()
	if resp.result == resultStale {
		spans.Note(ctx, spans.ServedStale)
	}
	spans.Answered(ctx, resp)
}

// Route implements spans.Answer.
func (resp *response) Route() string { return resp.ask.Req.Kind.Route() }

// Result implements spans.Answer.
func (resp *response) Result() string { return resp.result.String() }

// PublicModule implements spans.Answer.
func (resp *response) PublicModule() string {
	if resp.origin == nil || resp.ask.Req.Module == "" {
		return ""
	}
	return resp.origin.Outward(resp.ask.Req.Module)
}

// serveImmutable answers with an object that never changes: from the store, or by a fill.
func (resp *response) serveImmutable() error {
	got, err := resp.origin.Object(resp.r.Context(), &resp.ask, resp.r.Method == http.MethodGet)
	resp.result = result(got.Result)
	if err != nil {
		return err
	}
	if got.Arriving != nil {
		defer got.Arriving.Close()
		return resp.stream(got.Arriving)
	}
	return resp.serveObject(got.Object)
}

// streamBuffer is the size of a client's buffer while it follows an arriving zip.
const streamBuffer = 16 << 10

// stream answers with a zip while it arrives. The last part waits for the proof: if it
// fails, the response is aborted. stream ignores a Range, which HTTP allows (RFC 9110,
// section 14.2). Once the zip is proved the rest comes from the store: a slow client must
// not keep disk space in use.
func (resp *response) stream(zip *content.Arriving) error {
	resp.setImmutable(nil) // the hash of all bytes is not known yet
	if err := resp.client.Keep(streamBuffer); err != nil {
		return err
	}
	resp.Header().Set("Content-Length", strconv.FormatInt(zip.Size(), 10))
	resp.started = true
	resp.WriteHeader(http.StatusOK)
	var (
		ctx    = resp.r.Context()
		out    = newPatientWriter(resp.ResponseWriter)
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
		_ = out.controller.Flush() // so that the client gets these bytes before the next ones arrive
	}
	if err := zip.Proof(ctx); err != nil {
		return err
	}
	object, arrived := zip.Rest(ctx, sent)
	if object != nil {
		defer object.Close()
		return resp.writeRest(object, out)
	}
	_, err := io.CopyBuffer(out, arrived, buffer)
	return err
}

// writeRest writes the rest of an object from its current offset.
func (resp *response) writeRest(object storage.Object, out io.Writer) error {
	watched := &watchedObject{Object: object}
	_, err := watched.WriteTo(out)
	if watched.err == nil {
		return clientError(err)
	}
	if errors.Is(watched.err, storage.ErrDamaged) {
		resp.origin.Drop(resp.r.Context(), object.Info(), watched.err)
	}
	return watched.err
}

// setImmutable sets the headers of an object that never changes. A strong entity tag must
// differ when the bytes differ (RFC 9110, section 8.8.1), so it is their SHA-256 and not
// the h1 hash: correct zips with one h1 may be compressed differently.
func (resp *response) setImmutable(etag []string) {
	h := resp.Header()
	h["Content-Type"] = contentTypes[resp.ask.Req.Kind]
	h["Cache-Control"] = resp.origin.Caching.Object
	h["Accept-Ranges"] = acceptRanges
	h["Cache-Status"] = cacheStatus[resp.result]
	if etag != nil {
		h["Etag"] = etag
	}
}

// Header values that all responses share; they are never modified.
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

// tagged is an object with a known entity tag.
type tagged interface{ Tag() []string }

// serveHot answers with an object in memory, whose headers are ready.
func (resp *response) serveHot(o *content.HotObject) error {
	h := resp.Header()
	h["Content-Type"] = contentTypes[o.Req.Kind]
	h["Cache-Control"] = o.Caching
	if o.Caching == nil {
		h["Cache-Control"] = resp.origin.Caching.Object
	}
	h["Accept-Ranges"] = acceptRanges
	h["Etag"] = o.ETag
	if o.Req.Kind != request.SumDBTile {
		h["Cache-Status"] = cacheStatus[resultHit]
	}
	if conditional(resp.r.Header) || resp.r.Method == http.MethodHead {
		return resp.serveContent(resp.ResponseWriter, bytes.NewReader(o.Content))
	}
	h["Content-Length"] = o.Length
	resp.started = true
	_, err := resp.Write(o.Content)
	return clientError(err)
}

// serveObject answers with a stored object, and closes it.
func (resp *response) serveObject(object storage.Object) error {
	defer object.Close()
	info := object.Info()
	if hot, ok := object.(tagged); ok {
		resp.setImmutable(hot.Tag())
	} else {
		resp.setImmutable([]string{content.ETag(object.SHA256())})
	}
	watched := &watchedObject{Object: object}
	if conditional(resp.r.Header) || resp.r.Method == http.MethodHead {
		if err := resp.serveContent(resp.body(info.Size), watched); err != nil && watched.err == nil {
			return err
		}
	} else {
		resp.Header()["Content-Length"] = []string{strconv.FormatInt(info.Size, 10)}
		resp.started = true
		if _, err := watched.WriteTo(resp.body(info.Size)); err != nil && watched.err == nil {
			return clientError(err)
		}
	}
	if watched.err == nil {
		return nil
	}
	if errors.Is(watched.err, storage.ErrDamaged) {
		resp.origin.Drop(resp.r.Context(), info, watched.err)
	}
	resp.started = true
	return watched.err
}

// serveContent answers a conditional request, or one for a range. http.ServeContent returns no error of writing: a
// client that has disconnected would count as one that got all.
func (resp *response) serveContent(to http.ResponseWriter, from io.ReadSeeker) error {
	out := &watchedResponse{ResponseWriter: to}
	http.ServeContent(out, oneRange(resp.r), "", time.Time{}, from)
	if out.err != nil {
		resp.started = true
	}
	return clientError(out.err)
}

// watchedResponse remembers an error of writing.
type watchedResponse struct {
	http.ResponseWriter
	err error
}

func (w *watchedResponse) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.err = err
	return n, err
}

// oneRange returns r, without its ranges if they are several, which HTTP allows:
// http.ServeContent would make the parts in a goroutine of its own, which may still read
// from the object after the response has ended and the object is closed.
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

// watchedObject remembers an error of reading: http.ServeContent and io.Copy do not
// distinguish it from one of writing.
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

// serveMutable answers for objects that may change: lists, latest versions, branches.
func (resp *response) serveMutable() error {
	m, how, err := resp.origin.Answer(resp.r.Context(), &resp.ask)
	resp.result = result(how)
	if err != nil {
		return err
	}
	h := resp.Header()
	h["Content-Type"] = contentTypes[resp.ask.Req.Kind]
	if age, known := resp.origin.Age(m); known && age >= time.Second {
		h["Age"] = []string{strconv.Itoa(int(age / time.Second))}
	}
	h["Cache-Status"] = cacheStatus[resp.result]
	h["Cache-Control"] = resp.origin.Caching.Answer
	return resp.writeBytes(m.Text(), m.Tag)
}

// writeSumDB answers with a response of a checksum database.
func (resp *response) writeSumDB(cacheControl string, body []byte) error {
	h := resp.Header()
	if h["Content-Type"] == nil {
		h["Content-Type"] = contentTypes[request.SumDBLookup]
	}
	h["Cache-Control"] = []string{cacheControl}
	return resp.writeBytes(body, nil)
}

// writeBytes answers with body. Its entity tag is its hash; etag is the header with it, or nil.
func (resp *response) writeBytes(body []byte, etag []string) error {
	if err := resp.client.Keep(len(body)); err != nil {
		return err
	}
	if etag == nil {
		etag = []string{content.ETag(sha256.Sum256(body))}
	}
	h := resp.Header()
	h["Etag"] = etag
	h["Accept-Ranges"] = acceptRanges // http.ServeContent sets it in some responses only
	http.ServeContent(resp.ResponseWriter, oneRange(resp.r), "", time.Time{}, bytes.NewReader(body))
	return nil
}

// body returns the writer for a response of size bytes: the server's own write timeout is
// enough for a small one; a large one extends it with each write.
func (resp *response) body(size int64) http.ResponseWriter {
	if size <= largeResponse {
		return resp.ResponseWriter
	}
	return newPatientWriter(resp.ResponseWriter)
}

// patientWriter gives each write its own timeout, so that a large transfer may take long,
// but a client that does not read is disconnected.
type patientWriter struct {
	http.ResponseWriter
	controller *http.ResponseController
}

func newPatientWriter(w http.ResponseWriter) *patientWriter {
	return &patientWriter{w, http.NewResponseController(w)}
}

func (w *patientWriter) Write(p []byte) (int, error) {
	// A writer without deadlines, as in a test's recorder, has none to extend.
	_ = w.controller.SetWriteDeadline(time.Now().Add(progressTime))
	n, err := w.ResponseWriter.Write(p)
	return n, clientError(err)
}
