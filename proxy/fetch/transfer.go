package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Bounds on resuming.
const (
	// maxFruitless is how many attempts in a row may bring next to nothing, which is
	// less than worthwhile bytes that are not the rest.
	maxFruitless = 5
	worthwhile   = 8 << 10

	// maxResumes bounds what an upstream that sends a little each time can
	// make of that.
	maxResumes = 100

	// maxResumePause bounds what a Retry-After can make a transfer wait whose
	// reader waits already.
	maxResumePause = 10 * time.Second
)

// stream is one answer whose body is being read.
type stream struct {
	ctx    context.Context // of the request, which ends with the body, as net/http has it
	cancel context.CancelCauseFunc
	u      *upstream
	resp   answer
	idle   *time.Timer
	budget time.Duration
	count  func(n int)
}

func newStream(ctx context.Context, cancel context.CancelCauseFunc, resp answer, u *upstream) *stream {
	idle := time.AfterFunc(u.client.budget.IdleBody, func() { cancel(errIdle) })
	idle.Stop()
	bytes := u.client.metrics.bytes.WithLabelValues(u.label)
	return &stream{ctx, cancel, u, resp, idle, u.client.budget.IdleBody, func(n int) { bytes.Add(float64(n)) }}
}

func (s *stream) size() int64 { return s.resp.ContentLength }

// Read reads a part of the body. The idle time runs only while it waits for the
// upstream, not while our reader is busy with something else.
func (s *stream) Read(p []byte) (int, error) {
	s.idle.Reset(s.budget)
	n, err := s.resp.Body.Read(p)
	s.idle.Stop()
	s.count(n)
	if err != nil && err != io.EOF && s.resp.away {
		err = s.u.away(s.ctx, s.resp.Request.URL.Host, err)
	}
	return n, err
}

func (s *stream) close() {
	s.idle.Stop()
	s.cancel(nil) // first: Close may wait for a connection that is dead
	_ = s.resp.Body.Close()
}

// transfer is the body of an object: a stream, and when it breaks, another one
// that begins where it broke.
type transfer struct {
	ctx    context.Context // of all streams; it ends with the body
	cancel context.CancelCauseFunc
	u      *upstream
	path   string
	limit  int64

	mu        sync.Mutex // held while reading; guards what follows
	stream    *stream    // nil if it broke
	size      int64      // of the whole object, -1 if not known
	validator validator
	got       int64                       // bytes delivered
	fruitless int                         // attempts to resume since the last worthwhile one
	resumedAt int64                       // got when the last one began
	resumes   int                         // attempts to resume
	pauses    *backoff.ExponentialBackOff // between them
	last      *failure                    // why the stream broke
	err       error                       // what every further Read returns
}

func newTransfer(ctx context.Context, cancel context.CancelCauseFunc, u *upstream, path string, limit int64, s *stream) *transfer {
	return &transfer{
		ctx: ctx, cancel: cancel, u: u, path: path, limit: limit,
		stream: s, size: s.size(), validator: validatorOf(s.resp.Header), pauses: newPauses(),
	}
}

// Read implements io.Reader.
func (t *transfer) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) == 0 {
		return 0, t.err
	}
	for t.err == nil {
		if t.stream == nil {
			t.resume()
			continue
		}
		n, err := t.stream.Read(p)
		n = t.took(n)
		if err != nil && t.err == nil {
			t.ended(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, t.err
}

// took counts n bytes and returns how many of them belong to the object.
func (t *transfer) took(n int) int {
	if n == 0 {
		return 0
	}
	t.got += int64(n)
	if t.fruitless > 0 && t.got-t.resumedAt >= worthwhile {
		t.fruitless = 0
		t.pauses.Reset()
	}
	excess := int64(0)
	switch {
	case t.got > t.limit:
		excess = t.got - t.limit
		t.end(t.u.tooLarge(t.path, t.limit).Error)
	case t.size >= 0 && t.got > t.size:
		excess = t.got - t.size
		t.end(t.fail("the body is longer than announced").Error)
	}
	return n - int(min(excess, int64(n)))
}

// ended decides what the end of a stream is: that of the object, or a break.
func (t *transfer) ended(err error) {
	if t.got == t.size || t.size < 0 && err == io.EOF {
		t.end(io.EOF)
		return
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	t.last = t.u.broken(t.stream.ctx, t.path, err)
	t.u.client.metrics.broken.WithLabelValues(t.u.label).Inc()
	t.stream.close()
	t.stream = nil
	switch {
	case t.last.outcome == outcomeCanceled:
		t.end(t.last.Error)
	case t.size < 0 && !t.validator.strong():
		// The rest could be that of another object.
		t.end(t.last.Error)
	}
}

// end makes err the result of every further Read and lets go of everything.
func (t *transfer) end(err error) {
	t.err = err
	if t.stream != nil {
		t.stream.close()
		t.stream = nil
	}
	t.cancel(nil)
}

// fail returns a failure of this transfer that another attempt would not change.
func (t *transfer) fail(what string) *failure {
	return t.u.fail(t.path, outcomeUnavailable, fmt.Errorf("%w: %s", ErrUnavailable, what)).final()
}

// resume tries once to go on, after a pause. It leaves a stream, or an error, or
// neither, if it may be tried again.
func (t *transfer) resume() {
	if t.fruitless == maxFruitless || t.resumes == maxResumes {
		t.end(t.last.Error)
		return
	}
	t.fruitless++
	t.resumes++
	t.resumedAt = t.got
	t.u.distrust(t.last)
	pause := max(t.pauses.NextBackOff(), min(t.last.RetryAfter, maxResumePause))
	if !sleep(t.ctx, pause) {
		t.end(t.u.broken(t.ctx, t.path, t.ctx.Err()).Error)
		return
	}
	s, f := t.reopen()
	if f == nil {
		t.stream = s
		return
	}
	if errors.Is(f.Err, fs.ErrNotExist) {
		// It was there a moment ago: this is trouble, not absence.
		f.Err, f.retry = fmt.Errorf("%w: the object disappeared during the transfer", ErrUnavailable), true
	}
	t.last = f
	if !f.retry {
		t.end(f.Error)
	}
}

// reopen asks for what is missing and returns a stream that is at its beginning.
func (t *transfer) reopen() (*stream, *failure) {
	header := http.Header{headerRange: {"bytes=" + strconv.FormatInt(t.got, 10) + "-"}}
	if v := t.validator.ifRange(); v != "" {
		header.Set(headerIfRange, v)
	}
	b := t.u.client.budget
	s, f := t.u.open(t.ctx, t.path, t.limit, time.Now().Add(b.Connect+b.TLS+b.FirstByte), header)
	if f != nil {
		return nil, f
	}
	if s.resp.StatusCode == http.StatusPartialContent {
		f = t.acceptPart(s)
	} else {
		f = t.acceptWhole(s)
	}
	if f != nil {
		s.close()
		return nil, f
	}
	return s, nil
}

// acceptPart checks that a 206 is the rest of what we have the beginning of.
func (t *transfer) acceptPart(s *stream) *failure {
	r, err := parseContentRange(s.resp.Header.Get("Content-Range"))
	switch {
	case err != nil:
		return t.fail(err.Error())
	case r.first != t.got:
		return t.fail(fmt.Sprintf("requested the range from byte %d, got the range from byte %d", t.got, r.first))
	case s.size() >= 0 && s.size() != r.last-r.first+1:
		return t.fail("the length of the part differs from its Content-Range")
	case t.size >= 0 && r.total >= 0 && r.total != t.size, t.size >= 0 && r.last >= t.size, !t.validator.same(validatorOf(s.resp.Header)):
		return t.changed()
	case t.size < 0 && r.total < 0:
		return t.fail("a partial response without the total length") // the end of it could be any
	case t.size < 0 && r.total > t.limit:
		return t.u.tooLarge(t.path, t.limit)
	}
	if t.size < 0 {
		t.size = r.total
	}
	return nil
}

// acceptWhole checks that a 200, of a server that does not know ranges or finds
// that ours is out of date, is what we have the beginning of, and skips that.
func (t *transfer) acceptWhole(s *stream) *failure {
	v := validatorOf(s.resp.Header)
	sure := t.validator.strong() && t.validator == v
	if !t.validator.same(v) || s.size() != t.size && !(sure && (s.size() < 0 || t.size < 0)) || t.size < 0 && !sure {
		return t.changed()
	}
	if t.size < 0 {
		t.size = s.size()
	}
	if _, err := io.CopyN(io.Discard, s, t.got); err != nil {
		return t.u.broken(s.ctx, t.path, err)
	}
	return nil
}

func (t *transfer) changed() *failure {
	return t.fail("the object changed during the transfer")
}

// Close implements io.Closer. It may be called while another goroutine reads.
func (t *transfer) Close() error {
	t.cancel(errClosed)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil || t.err == io.EOF {
		t.end(errClosed)
	}
	return nil
}
