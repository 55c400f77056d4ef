package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
)

// transfer is the body of an object: a stream, and when it breaks, another one that continues
// there.
type transfer struct {
	ctx    context.Context // of all streams; it ends with the body
	cancel context.CancelCauseFunc
	u      *upstream
	path   string
	limit  int64

	mu       sync.Mutex // held while reading; guards the fields below
	stream   *stream    // nil if it broke
	object   identity
	got      int64 // bytes delivered
	attempts resumption
	last     *failure // why the stream broke
	err      error    // the result of every further Read
}

// identity is the known properties of the object that a transfer delivers.
type identity struct {
	size      int64 // -1 if not known
	validator validator
}

func newTransfer(ctx context.Context, cancel context.CancelCauseFunc, u *upstream, path string, limit int64, s *stream) *transfer {
	return &transfer{
		ctx: ctx, cancel: cancel, u: u, path: path, limit: limit,
		stream: s, object: identity{s.size(), validatorOf(s.resp.Header)}, attempts: resumption{pauses: newPauses(u.client.budget.Pause)},
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

// took counts n bytes read, and returns how many of them belong to the object.
func (t *transfer) took(n int) int {
	if n == 0 {
		return 0
	}
	t.got += int64(n)
	t.attempts.progressed(t.got)
	excess := int64(0)
	switch {
	case t.got > t.limit:
		excess = t.got - t.limit
		t.end(t.u.at.tooLarge(t.path, t.limit).Error)
	case t.object.size >= 0 && t.got > t.object.size:
		excess = t.got - t.object.size
		t.end(t.fail("the body is longer than announced").Error)
	}
	return n - int(min(excess, int64(n)))
}

// ended decides whether the end of the stream is the end of the object, or a break.
func (t *transfer) ended(err error) {
	if t.got == t.object.size || t.object.size < 0 && err == io.EOF {
		t.end(io.EOF)
		return
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	t.last = t.u.at.broken(t.stream.ctx, t.path, err)
	t.u.client.metrics.broken.WithLabelValues(t.u.at.label).Inc()
	t.stream.close()
	t.stream = nil
	switch {
	case t.last.outcome == outcomeCanceled:
		t.end(t.last.Error)
	case t.object.size < 0 && !t.object.validator.strong():
		// The rest could be that of another object.
		t.end(t.last.Error)
	}
}

// end makes err the result of every further Read and releases everything.
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
	return t.u.at.fail(t.path, outcomeUnavailable, fmt.Errorf("%w: %s", ErrUnavailable, what)).final()
}

// resume tries once, after a pause, to continue. After it there is a stream, or an error,
// or neither, if another attempt is allowed.
func (t *transfer) resume() {
	if t.attempts.exhausted() {
		t.end(t.last.Error)
		return
	}
	pause := t.attempts.begin(t.got, t.last.RetryAfter)
	t.u.distrust(t.last)
	if !sleep(t.ctx, pause) {
		t.end(t.u.at.broken(t.ctx, t.path, t.ctx.Err()).Error)
		return
	}
	s, f := t.reopen()
	if f == nil {
		t.stream = s
		return
	}
	if notfound.Is(f.Err) {
		// The object existed a moment ago, so this is a failure, not absence.
		f.Err, f.retry = fmt.Errorf("%w: the object disappeared during the transfer", ErrUnavailable), true
	}
	t.last = f
	if !f.retry {
		t.end(f.Error)
	}
}

// reopen requests the rest and returns a stream that is at its beginning.
func (t *transfer) reopen() (*stream, *failure) {
	header := http.Header{headerRange: {"bytes=" + strconv.FormatInt(t.got, 10) + "-"}}
	if v := t.object.validator.ifRange(); v != "" {
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

// acceptPart checks that a 206 is the rest of the same object.
func (t *transfer) acceptPart(s *stream) *failure {
	r, err := parseContentRange(s.resp.Header.Get("Content-Range"))
	switch {
	case err != nil:
		return t.fail(err.Error())
	case r.first != t.got:
		return t.fail(fmt.Sprintf("requested the range from byte %d, got the range from byte %d", t.got, r.first))
	case s.size() >= 0 && s.size() != r.last-r.first+1:
		return t.fail("the length of the part differs from its Content-Range")
	case t.object.size >= 0 && r.total >= 0 && r.total != t.object.size, t.object.size >= 0 && r.last >= t.object.size, !t.object.validator.same(validatorOf(s.resp.Header)):
		return t.changed()
	case t.object.size < 0 && r.total < 0:
		return t.fail("a partial response without the total length") // nothing would show where the object ends
	case t.object.size < 0 && r.total > t.limit:
		return t.u.at.tooLarge(t.path, t.limit)
	}
	if t.object.size < 0 {
		t.object.size = r.total
	}
	return nil
}

// acceptWhole checks that a 200 is the same object, and skips the bytes that were delivered. A
// server sends a 200 if it does not support ranges or considers ours outdated.
func (t *transfer) acceptWhole(s *stream) *failure {
	v := validatorOf(s.resp.Header)
	sure := t.object.validator.strong() && t.object.validator == v
	if !t.object.validator.same(v) || s.size() != t.object.size && !(sure && (s.size() < 0 || t.object.size < 0)) || t.object.size < 0 && !sure {
		return t.changed()
	}
	if t.object.size < 0 {
		t.object.size = s.size()
	}
	if _, err := io.CopyN(io.Discard, s, t.got); err != nil {
		return t.u.at.broken(s.ctx, t.path, err)
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
