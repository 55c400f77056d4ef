package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/internal/spans"
)

// upstream is one proxy, or one checksum database, over HTTP.
type upstream struct {
	at       *endpoint
	client   *client
	breaker  *breaker
	probe    *probe
	sender   *sender
	failures *failures
	respite  respite
	clock    clock
}

func newUpstream(base *url.URL, label string, c *client) *upstream {
	u := &upstream{at: newEndpoint(base, label), client: c, failures: newFailures()}
	u.breaker = newBreaker(u.at, c, u.failures.clear)
	u.probe = u.breaker.probe
	u.sender = &sender{u.at, c, u.probe}
	return u
}

// String returns the URL without credentials and query.
func (u *upstream) String() string { return u.at.String() }

// Request headers of the second and later requests of a transfer.
const (
	headerRange   = "Range"
	headerIfRange = "If-Range"
)

// open sends one request, follows redirects and returns the response if its status is 200, or 206
// for a request with ranges. Its headers must arrive by the deadline; ctx bounds the body, too. A
// body whose declared length exceeds limit is a failure.
func (u *upstream) open(ctx context.Context, path string, limit int64, deadline time.Time, ranges http.Header) (*stream, *failure) {
	begin, failures := time.Now(), u.respite.failures()
	if module := callerOf(ctx).module; module != "" {
		if err := u.client.permit(module); err != nil {
			return nil, u.at.canceled(path, fmt.Errorf("%w: %w", ErrUnavailable, err))
		}
	}
	ctx, span := spans.Begin(ctx, spans.Upstream, u.at.label)
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(time.Until(deadline), func() { cancel(errSlow) })
	s, f := u.send(ctx, cancel, path, limit, ranges, failures)
	if !timer.Stop() && f == nil {
		s.close()
		f = u.at.timeout(path, errSlow.Error())
	}
	outcome := outcomeOK
	if f != nil {
		cancel(nil)
		outcome = f.outcome
		u.client.log.Debug("upstream request failed", "source", u.at.label, "path", path, "dur_ms", float64(time.Since(begin).Microseconds())/1000, "err", f.Error)
	} else if ranges != nil {
		outcome = outcomeResumed
	}
	u.client.metrics.count(u.at.label, outcome, begin)
	if f != nil {
		span.End(outcome, outcome != outcomeNotFound && outcome != outcomeCanceled)
		if 0 < f.Status && f.Status < http.StatusInternalServerError {
			u.probe.noteAnswer(time.Since(begin))
		}
		if notfound.Is(f.Err) {
			u.respite.answered(path)
		}
		return nil, f
	}
	u.probe.noteAnswer(time.Since(begin))
	u.respite.answered(path)
	s.span = span
	return s, nil
}

func (u *upstream) send(ctx context.Context, cancel context.CancelCauseFunc, path string, limit int64, ranges http.Header, failures int) (*stream, *failure) {
	header := u.client.header.Clone()
	for name, value := range ranges {
		header[name] = value
	}
	begin := time.Now()
	resp, err := u.sender.roundTrip(ctx, u.at.url(path), header)
	if err != nil {
		return nil, u.at.broken(ctx, path, err)
	}
	if !resp.away { // other hosts are not chosen by the administrator
		u.clock.note(resp.Header, begin)
	}
	if resp.StatusCode != http.StatusOK && (resp.StatusCode != http.StatusPartialContent || ranges == nil) {
		return nil, u.refused(resp, cancel, path, failures)
	}
	if err := unusable(resp.Response); err != nil {
		_ = resp.Body.Close()
		return nil, u.at.fail(path, outcomeUnavailable, fmt.Errorf("%w: %w", ErrUnavailable, err)).final()
	}
	if resp.ContentLength > limit {
		_ = resp.Body.Close()
		return nil, u.at.tooLarge(path, limit)
	}
	return newStream(ctx, cancel, resp, u.sender), nil
}

// unusable returns why the body of resp cannot be used.
func unusable(resp *http.Response) error {
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fmt.Errorf("the response has the encoding %q, which was not requested", printable(encoding))
	}
	// Such a body ends where the connection ends. TLS shows whether that is the end; with TCP half
	// a list would pass for a whole one.
	if resp.ContentLength < 0 && resp.ProtoMajor == 1 && len(resp.TransferEncoding) == 0 && resp.TLS == nil {
		return errors.New("the response has neither a length nor an end marker, so it cannot be known to be complete")
	}
	return nil
}

// detailBudget bounds the wait for the text of a response whose status is known.
const detailBudget = 2 * time.Second

// refused returns the failure for a status, and closes resp. It does not pass on the text of
// another host than the upstream, which may contain data that only this proxy may see.
func (u *upstream) refused(resp response, cancel context.CancelCauseFunc, path string, failures int) *failure {
	timer := time.AfterFunc(detailBudget, func() { cancel(errSlow) })
	text := ""
	if !resp.away {
		text = detailOf(resp.Response)
	}
	discard(resp.Response)
	timer.Stop()

	f := u.at.fail(path, outcomeUnavailable, ErrUnavailable)
	f.Status, f.Detail = resp.StatusCode, u.at.clean(text)
	switch status := resp.StatusCode; {
	case status == http.StatusNotFound, status == http.StatusGone:
		f.Err, f.outcome, f.retry, f.blame = notfound.Stated, outcomeNotFound, false, false
	case status == http.StatusTooManyRequests:
		f.outcome = outcomeLimited
		f.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	case status == http.StatusRequestTimeout:
	case status == http.StatusForbidden, status == http.StatusUnavailableForLegalReasons:
		// The public mirror has transient ones (tsouza/cerberus#2432). Other upstreams refuse this
		// one file, which says nothing about the rest.
		f.outcome, f.retry, f.once, f.blame = outcomeRefused, isVersioned(path), true, false
		f.Err, f.Words = ErrRefused, u.at.words(text)
		if resp.away {
			f.Words = u.at.base.Host + ": it redirects to a host that refuses"
		}
	case status == http.StatusNotImplemented, status == http.StatusLoopDetected, status == http.StatusHTTPVersionNotSupported:
		f.retry = false
	case status >= 500:
		f.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	case status >= 400:
		f.outcome, f.retry, f.blame = outcomeRefused, false, false
	default:
		f.retry = false
	}
	if d := respiteOf(f.Status, f.RetryAfter); d > 0 && u.respite.refused(path, failures, f.Status, d) {
		u.client.log.Warn("upstream asks for fewer requests: nothing is predicted", "source", u.at.label, "status", f.Status, "for_s", d.Seconds())
	}
	return f
}

// isVersioned reports whether path is a file of one version, which does not change.
func isVersioned(path string) bool {
	_, file, ok := strings.Cut(path, "/@v/")
	return ok && (strings.HasSuffix(file, ".info") || strings.HasSuffix(file, ".mod") || strings.HasSuffix(file, ".zip"))
}
