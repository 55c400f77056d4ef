package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// progressTime is how long a client may take for one write, a quarter of a
// megabyte at most, before it is taken for gone.
const progressTime = time.Minute

// streamStep is how much of a zip is sent between two looks whether it is stored by now.
const streamStep = 256 << 10

// serveImmutable answers with an object that never changes: from the store, or
// by filling it.
func (s *Server) serveImmutable(a *answer, req request.Request) error {
	if a.unsure {
		if err := s.ascertainInTime(a, req); err != nil {
			return err
		}
	}
	object, err := s.open(a.r.Context(), a, req, a.path, a.private)
	if err == nil && object.Info().Size <= hotSize {
		object, err = s.keep(a.r.Context(), a.path, req, a.private, object)
	}
	if err == nil {
		return s.serveHit(a, req, object)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !s.reachable(a) {
		return s.notHeld(a, req)
	}
	if err := s.ascertainInTime(a, req); err != nil {
		return err
	}
	if err := s.absent.find(a.path, a.private); err != nil {
		a.result = resultNegative
		return err
	}
	return s.serveFill(a, req)
}

// serveHit answers with an object that needs no fill, and closes it.
func (s *Server) serveHit(a *answer, req request.Request, object storage.Object) error {
	defer object.Close()
	a.result = resultHit
	s.recheckOld(a, req, object.Info().Time)
	return s.serveObject(a, req, object)
}

// open opens the stored object of req, whose key is its path. What is damaged, or
// not proved by the database that is in force now, is dropped and counts as absent. With
// a, the client of a counts for a lookup that this needs; without, a fill has its place
// already.
func (s *Server) open(ctx context.Context, a *answer, req request.Request, key string, private bool) (storage.Object, error) {
	if a != nil {
		ctx = memory.WithOwner(ctx, a.site())
	}
	object, err := s.store.Open(ctx, storage.Key(key))
	if errors.Is(err, storage.ErrDamaged) {
		s.drop(ctx, key, err)
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	if private {
		if err := s.checkPinned(req, key, object); err != nil {
			_ = object.Close() // nothing was written
			if errors.Is(err, storage.ErrDamaged) {
				s.drop(ctx, key, err)
				err = fs.ErrNotExist
			}
			return nil, err
		}
		return object, nil
	}
	if log := s.config.Log; log != nil && object.Info().Proof == log.Name() {
		_ = object.Close()
		return nil, fs.ErrNotExist // from when the module was private
	}
	db := s.database()
	if req.Kind == request.Info || db == nil || object.Info().Proof == db.Name() {
		return object, nil
	}
	want, err := s.wantedBy(ctx, a, req)
	if err == nil && object.Info().Hash == want {
		return object, nil
	}
	_ = object.Close() // nothing was written
	if err != nil {
		return nil, err
	}
	s.drop(ctx, key, fmt.Errorf("it does not match the record of %s", db.Name()))
	return nil, fs.ErrNotExist
}

// wantedBy is wanted for the client of a, which waits for it; for a fill without a.
func (s *Server) wantedBy(ctx context.Context, a *answer, req request.Request) (string, error) {
	db := s.database()
	if a == nil || db == nil {
		return s.wanted(ctx, req)
	}
	ctx, cancel := s.patient(ctx)
	defer cancel()
	record, err := db.Held(ctx, req.ModuleVersion())
	if errors.Is(err, fs.ErrNotExist) {
		record, err = s.lookupIn(ctx, s.client(a), db, req)
	}
	want, err := s.hashIn(record, err, req)
	return want, answerTime(ctx, err)
}

// drop removes a stored object that must not be served.
func (s *Server) drop(ctx context.Context, key string, why error) {
	s.metrics.dropped.Inc()
	err := s.store.Delete(context.WithoutCancel(ctx), storage.Key(key))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	s.log.Error("stored object dropped; it will be fetched again", "key", key, "err", why, "delete_err", err)
}

// serveFill waits for the fill of req and answers with what it made, or while it
// is being made.
func (s *Server) serveFill(a *answer, req request.Request) error {
	ctx, cancel := context.WithTimeout(a.r.Context(), s.config.Answer)
	defer cancel()
	f, joined, err := s.joinAnew(ctx, req, a.private, s.client(a))
	if err != nil {
		return err
	}
	defer f.claim.Leave(s.client(a))
	a.result = resultMiss
	if joined {
		a.result = resultCoalesced
	}
	select {
	case <-f.done:
	case <-f.started:
		if a.r.Method == http.MethodGet && f.spool.acquire() {
			release := sync.OnceFunc(f.spool.release)
			defer release()
			// With the first byte, not before: until then there can be a
			// status and a text.
			if _, err := f.spool.wait(ctx, 0, f.done); err != nil {
				return errAnswer
			}
			if !f.ended() {
				return s.stream(a, f, release)
			}
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return errAnswer
		}
	case <-ctx.Done():
		return errAnswer
	}
	if f.err != nil {
		s.absent.note(f.key, f.err, a.private, f.begun)
		return f.err
	}
	if err := s.admit(a, req); err != nil { // where it is, is known only now
		return err
	}
	object, err := s.open(a.r.Context(), a, req, a.path, a.private)
	if errors.Is(err, fs.ErrNotExist) { // not an absence: an upstream has it
		if _, err := s.still(req.Module, a.private); err != nil {
			return err
		}
		return fmt.Errorf("%s is stored but cannot be read", f.key)
	}
	if err != nil {
		return err
	}
	defer object.Close()
	return s.serveObject(a, req, object)
}

// streamBuffer is what each client has while it follows a spool.
const streamBuffer = 16 << 10

// stream answers with a zip while it arrives. The last part waits for the proof:
// if it fails, the answer breaks off. A Range is not looked at, which HTTP
// allows (RFC 9110, section 14.2). Once the fill has ended the rest comes from the store,
// and the spool is released: a slow client must not hold on to disk space.
func (s *Server) stream(a *answer, f *fill, release func()) error {
	s.setImmutable(a, f.req, nil) // the hash of all bytes is not known yet
	if err := a.keep(streamBuffer); err != nil {
		return err
	}
	a.Header().Set("Content-Length", strconv.FormatInt(f.size, 10))
	a.started = true
	a.WriteHeader(http.StatusOK)
	var (
		ctx    = a.r.Context()
		out    = newPatientWriter(a.ResponseWriter)
		buffer = make([]byte, streamBuffer)
		sent   int64
	)
	for public := f.size - holdBack; sent < public && !f.ended(); {
		size, err := f.spool.wait(ctx, sent, f.done)
		if err != nil {
			return err
		}
		if size = min(size, public, sent+streamStep); size == sent { // ended early
			break
		}
		n, err := io.CopyBuffer(out, io.NewSectionReader(f.spool.file, sent, size-sent), buffer)
		if sent += n; err != nil {
			return err
		}
		_ = out.controller.Flush() // what is there must not wait for what is not
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.err != nil {
		return f.err
	}
	if object, err := s.rest(ctx, a, f, sent); err == nil {
		defer object.Close()
		release()
		return s.writeRest(a, object, out)
	}
	_, err := io.CopyBuffer(out, io.NewSectionReader(f.spool.file, sent, f.size-sent), buffer)
	return err
}

// rest opens the stored object of a fill that has ended, behind the bytes that are sent
// already. The error says that the spool must be used: not everything that has the same
// h1 hash has the same bytes.
func (s *Server) rest(ctx context.Context, a *answer, f *fill, sent int64) (storage.Object, error) {
	if !f.stored {
		return nil, fs.ErrNotExist
	}
	object, err := s.open(ctx, a, f.req, f.key, f.private)
	if err != nil {
		return nil, err
	}
	if _, err = object.Seek(sent, io.SeekStart); err == nil && object.Info().Size == f.size {
		return object, nil
	}
	_ = object.Close() // nothing was written
	return nil, cmp.Or(err, fs.ErrNotExist)
}

// writeRest writes an object from where it stands.
func (s *Server) writeRest(a *answer, object storage.Object, out io.Writer) error {
	watched := &watchedObject{Object: object}
	_, err := watched.WriteTo(out)
	if watched.err == nil {
		return clientError(err)
	}
	if errors.Is(watched.err, storage.ErrDamaged) {
		s.drop(a.r.Context(), object.Info().Key, watched.err)
	}
	return watched.err
}

// setImmutable sets the headers of an object that never changes. A strong entity tag
// must differ where the bytes do (RFC 9110, section 8.8.1), so it is their SHA-256 and
// not the h1 hash: honest zips of one h1 may be compressed differently.
func (s *Server) setImmutable(a *answer, req request.Request, etag []string) {
	h := a.Header()
	h["Content-Type"] = contentTypes[req.Kind]
	h["Cache-Control"] = immutable
	if a.private {
		h["Cache-Control"] = immutablePrivate
	}
	h["Accept-Ranges"] = acceptRanges
	h["Cache-Status"] = cacheStatus[a.result]
	if etag != nil {
		h["Etag"] = etag
	}
}

// Header values that are the same for every answer; nobody changes them.
var (
	immutable        = []string{"public, max-age=31536000, immutable"}
	immutablePrivate = []string{"private, max-age=31536000, immutable"}
	acceptRanges     = []string{"bytes"}
	contentTypes     = [request.NumKinds][]string{
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

// serveObject answers with a stored object.
func (s *Server) serveObject(a *answer, req request.Request, object storage.Object) error {
	info := object.Info()
	if hot, ok := object.(*hotReader); ok {
		s.setImmutable(a, req, hot.etag)
	} else {
		s.setImmutable(a, req, []string{etag(object.SHA256())})
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
		s.drop(a.r.Context(), info.Key, watched.err)
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

// body returns the writer for an answer of size bytes: the server's own write
// time-out is enough for a small one, a large one moves it on with each write.
func (a *answer) body(size int64) http.ResponseWriter {
	if size <= holdBack {
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
