package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

// upstream is one proxy, or one checksum database, over HTTP.
type upstream struct {
	base          *url.URL // without credentials
	label         string   // in metrics
	authorization string   // the value of the header, "" for none
	secrets       *strings.Replacer
	client        *client
	breaker       *breaker
	failures      failures
	probe         *probe
}

func newUpstream(base *url.URL, label string, c *client) *upstream {
	bare := *base
	bare.User = nil
	u := &upstream{base: &bare, label: label, client: c}
	var token string
	if base.User != nil {
		password, _ := base.User.Password()
		token = base64.StdEncoding.EncodeToString([]byte(base.User.Username() + ":" + password))
		u.authorization = "Basic " + token
	}
	u.secrets = maskOf(append(secretsOf(base), token))
	u.breaker = newBreaker(u)
	u.probe = newProbe(u, c.database)
	return u
}

// secretsOf returns what of base must not be told: its password, its user name where
// that is a token, its query and the values in it.
func secretsOf(base *url.URL) []string {
	secrets := []string{base.RawQuery}
	for key, values := range base.Query() {
		for _, value := range values {
			secrets = append(secrets, cmp.Or(value, key))
		}
	}
	password, _ := base.User.Password()
	if password == "" || password == "x-oauth-basic" {
		return append(secrets, base.User.Username())
	}
	return append(secrets, password)
}

// maskOf returns what replaces secrets, however they are escaped.
func maskOf(secrets []string) *strings.Replacer {
	var pairs []string
	for _, s := range secrets {
		if len(s) > 3 { // a shorter one would garble innocent words
			pairs = append(pairs, s, "xxxxx", url.QueryEscape(s), "xxxxx", url.PathEscape(s), "xxxxx")
		}
	}
	return strings.NewReplacer(pairs...)
}

// String returns the URL without credentials and query.
func (u *upstream) String() string { return redactURL(u.base) }

// url returns the URL of the object at path.
func (u *upstream) url(path string) *url.URL {
	target := *u.base
	target.Path = strings.TrimSuffix(u.base.Path, "/") + "/" + path
	target.RawPath = strings.TrimSuffix(u.base.EscapedPath(), "/") + "/" + escape(path)
	return &target
}

// failure is why one attempt came to nothing, and what follows from it.
type failure struct {
	*Error
	outcome string // for the metrics
	retry   bool   // another attempt may do better
	once    bool   // but not more than one
	blame   bool   // the upstream may not be well, and is asked whether it is
	lost    bool   // there was no answer: connection, TLS or time-out
}

// fail returns a failure that says nothing about the object and may pass.
func (u *upstream) fail(path, outcome string, err error) *failure {
	return &failure{
		Error:   &Error{Source: u.String(), Path: path, Err: err},
		outcome: outcome, retry: true, blame: true,
	}
}

// final returns f as one that another attempt would not change.
func (f *failure) final() *failure {
	f.retry = false
	return f
}

// Causes for which we cancel a request ourselves.
var (
	errSlow   = errors.New("no answer in time")
	errIdle   = errors.New("no byte in time")
	errClosed = fmt.Errorf("the body is closed: %w", fs.ErrClosed)
)

// broken returns what err, an error of the transport, means. ctx is that of the
// request, whose cause tells our own impatience from the caller's.
func (u *upstream) broken(ctx context.Context, path string, err error) *failure {
	var (
		network net.Error
		away    *awayError
	)
	cause := context.Cause(ctx)
	switch {
	case cause == errSlow, cause == errIdle:
		return u.timeout(path, cause.Error())
	case cause != nil:
		f := u.fail(path, outcomeCanceled, cause).final()
		f.blame = false
		return f
	case isExhausted(err):
		f := u.fail(path, outcomeUnavailable, fmt.Errorf("%w: %w", ErrUnavailable, syscall.EMFILE))
		f.blame = false
		return f
	case !errors.As(err, &away) && errors.As(err, &network) && network.Timeout():
		return u.timeout(path, u.clean(err.Error()))
	}
	f := u.fail(path, outcomeUnavailable, fmt.Errorf("%w: %s", ErrUnavailable, u.clean(err.Error())))
	f.lost, f.blame = !errors.Is(err, errRedirect), !isOurs(err)
	f.late = errors.As(err, &network) && network.Timeout()
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
	)
	if errors.Is(err, errRedirect) || errors.As(err, &certificate) || errors.As(err, &authority) {
		return f.final()
	}
	return f
}

// isExhausted reports whether err is that this process, or this machine, has no file
// descriptor left. The resolver has it in its text only.
func isExhausted(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) && (strings.Contains(dns.Err, syscall.EMFILE.Error()) || strings.Contains(dns.Err, syscall.ENFILE.Error())) {
		return true
	}
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func (u *upstream) timeout(path, what string) *failure {
	f := u.fail(path, outcomeTimeout, fmt.Errorf("%w: %w: %s", ErrUnavailable, context.DeadlineExceeded, what))
	f.lost, f.late = true, true
	return f
}

// clean returns text as one printable line without our credentials.
func (u *upstream) clean(text string) string { return printable(u.secrets.Replace(text)) }

// words returns the first lines of text that have words in them, without our
// credentials, each with the host before it: so none can pass for one of ours.
func (u *upstream) words(text string) string {
	var lines []string
	room := maxWords
	for line := range strings.Lines(u.secrets.Replace(text)) {
		line = clip(u.secrets.Replace(onePrintableLine(line)), room)
		if line == "" {
			continue
		}
		lines = append(lines, u.base.Host+": "+line)
		if room -= len(line); len(lines) == maxLines || room < minWords {
			break
		}
	}
	return strings.Join(lines, "\n")
}

// Request headers of the second and later requests of a transfer.
const (
	headerRange   = "Range"
	headerIfRange = "If-Range"
)

// open sends one request, follows redirects and returns the answer if its status
// is 200, or 206 where a range is asked for. It must be there by the deadline;
// ctx bounds the body too. A body that is declared longer than limit is a failure.
func (u *upstream) open(ctx context.Context, path string, limit int64, deadline time.Time, ranges http.Header) (*stream, *failure) {
	begin := time.Now()
	if err := u.client.permit(path); err != nil {
		f := u.fail(path, outcomeCanceled, fmt.Errorf("%w: %w", ErrUnavailable, err)).final()
		f.blame = false
		return nil, f
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(time.Until(deadline), func() { cancel(errSlow) })
	s, f := u.send(ctx, cancel, path, limit, ranges)
	if !timer.Stop() && f == nil {
		s.close()
		f = u.timeout(path, errSlow.Error())
	}
	outcome := outcomeOK
	if f != nil {
		cancel(nil)
		outcome = f.outcome
		u.client.log.Debug("upstream request failed", "source", u.label, "path", path, "dur_ms", float64(time.Since(begin).Microseconds())/1000, "err", f.Error)
	} else if ranges != nil {
		outcome = outcomeResumed
	}
	u.client.metrics.count(u.label, outcome, begin)
	if f != nil {
		if 0 < f.Status && f.Status < http.StatusInternalServerError {
			u.probe.noteLife(time.Since(begin))
		}
		return nil, f
	}
	u.probe.noteLife(time.Since(begin))
	return s, nil
}

func (u *upstream) send(ctx context.Context, cancel context.CancelCauseFunc, path string, limit int64, ranges http.Header) (*stream, *failure) {
	header := u.client.header.Clone()
	for name, value := range ranges {
		header[name] = value
	}
	resp, err := u.roundTrip(ctx, u.url(path), header)
	if err != nil {
		return nil, u.broken(ctx, path, err)
	}
	if resp.StatusCode != http.StatusOK && (resp.StatusCode != http.StatusPartialContent || ranges == nil) {
		return nil, u.refused(resp, cancel, path)
	}
	if err := unusable(resp.Response); err != nil {
		_ = resp.Body.Close()
		return nil, u.fail(path, outcomeUnavailable, fmt.Errorf("%w: %w", ErrUnavailable, err)).final()
	}
	if resp.ContentLength > limit {
		_ = resp.Body.Close()
		return nil, u.tooLarge(path, limit)
	}
	return newStream(ctx, cancel, resp, u), nil
}

// unusable returns why the body of resp could not be relied upon.
func unusable(resp *http.Response) error {
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fmt.Errorf("the response has the encoding %q, which was not requested", printable(encoding))
	}
	// Such a body ends where the connection ends. TLS says whether that was
	// meant; TCP does not, and half a list would pass for a whole one.
	if resp.ContentLength < 0 && resp.ProtoMajor == 1 && len(resp.TransferEncoding) == 0 && resp.TLS == nil {
		return errors.New("the response has neither a length nor an end marker, so it cannot be known to be complete")
	}
	return nil
}

// detailBudget bounds the wait for the words of an answer whose status is known.
const detailBudget = 2 * time.Second

// refused returns what a status means, and closes resp. What another host than the
// upstream says, by a redirect, is not passed on: it may be meant for us alone.
func (u *upstream) refused(resp answer, cancel context.CancelCauseFunc, path string) *failure {
	timer := time.AfterFunc(detailBudget, func() { cancel(errSlow) })
	text := ""
	if !resp.away {
		text = detailOf(resp.Response)
	}
	discard(resp.Response)
	timer.Stop()

	f := u.fail(path, outcomeUnavailable, ErrUnavailable)
	f.Status, f.Detail = resp.StatusCode, u.clean(text)
	switch status := resp.StatusCode; {
	case status == http.StatusNotFound, status == http.StatusGone:
		f.Err, f.outcome, f.retry, f.blame = fs.ErrNotExist, outcomeNotFound, false, false
	case status == http.StatusTooManyRequests:
		f.outcome = outcomeLimited
		f.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	case status == http.StatusRequestTimeout:
	case status == http.StatusForbidden, status == http.StatusUnavailableForLegalReasons:
		// The public mirror has passing ones for what it has
		// (tsouza/cerberus#2432). But others mean it: this one file shall
		// not be had. That says nothing about the rest.
		f.outcome, f.retry, f.once, f.blame = outcomeRefused, isVersioned(path), true, false
		f.Err, f.Words = ErrRefused, u.words(text)
		if resp.away {
			f.Words = u.base.Host + ": it redirects to a host that refuses"
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
	return f
}

// isVersioned reports whether path is a file of one version, which does not
// change.
func isVersioned(path string) bool {
	_, file, ok := strings.Cut(path, "/@v/")
	return ok && (strings.HasSuffix(file, ".info") || strings.HasSuffix(file, ".mod") || strings.HasSuffix(file, ".zip"))
}

// tooLarge returns the failure of an object that is larger than its limit. It is
// not the upstream's trouble, and asking again makes it no smaller.
func (u *upstream) tooLarge(path string, limit int64) *failure {
	f := u.fail(path, outcomeTooLarge, fmt.Errorf("%w: the limit is %d bytes", ErrTooLarge, limit)).final()
	f.blame = false
	return f
}

// noMemory returns the failure of an object for which we have no memory: it says
// nothing about the upstream, and is not waited for again.
func (u *upstream) noMemory(path string, err error) *failure {
	f := u.fail(path, outcomeCanceled, err).final()
	f.blame = false
	return f
}

func (u *upstream) fetch(ctx context.Context, path string, limit int64, deadline time.Time) (*Object, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	object, err := retry(ctx, u, path, deadline, func(deadline time.Time) (*Object, *failure) {
		s, f := u.open(ctx, path, limit, deadline, nil)
		if f != nil {
			return nil, f
		}
		return &Object{Body: newTransfer(ctx, cancel, u, path, limit, s), Size: s.size(), Source: u.String()}, nil
	})
	if err != nil {
		cancel(nil)
	}
	return object, err
}

func (u *upstream) readAll(ctx context.Context, path string, limit int64, deadline time.Time) ([]byte, error) {
	return retry(ctx, u, path, deadline, func(deadline time.Time) ([]byte, *failure) {
		// The body has to be there in time too, and is not resumed: what is
		// small is asked for again.
		ctx, cancel := context.WithDeadlineCause(ctx, deadline, errSlow)
		defer cancel()
		s, f := u.open(ctx, path, limit, deadline, nil)
		if f != nil {
			return nil, f
		}
		defer s.close()
		limit := min(limit, math.MaxInt64-1)
		data, err := memory.HoldOf(ctx).Read(ctx, s, s.size(), limit)
		switch {
		case errors.Is(err, memory.ErrFull):
			return nil, u.noMemory(path, err)
		case int64(len(data)) > limit:
			return nil, u.tooLarge(path, limit)
		case err != nil:
			u.client.metrics.broken.WithLabelValues(u.label).Inc()
			return nil, u.broken(s.ctx, path, err)
		}
		return data, nil
	})
}
