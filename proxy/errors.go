package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/assay-proxy/assay/defect"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// failure is an error that knows what the client is told. What a client may do
// next follows from the status alone: 404 and 410 let the go command try the next
// proxy of a comma list, or the origin; everything else stops it.
type failure struct {
	status     int
	what       string // happened
	why        string // if more is known
	next       string // what the reader can do
	retryAfter time.Duration
	noStore    bool // not even for a moment
	err        error
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.what + ": " + f.err.Error()
	}
	return f.what
}

func (f *failure) Unwrap() error { return f.err }

// Errors that this package decides on.
var (
	errLoop = &failure{
		status: http.StatusLoopDetected,
		what:   "loop detected: this proxy received its own request",
		why:    "an upstream of this proxy forwards requests back to it",
		next:   "remove the proxy's own address from its --upstream list",
	}
	errBusy = &failure{
		status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
		what: "busy: too many objects are being fetched",
		next: "try again in a few seconds; stored objects are still served",
	}
	errClientBusy = &failure{
		status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
		what: "busy: this user or address has too many requests for objects that are not stored",
		why:  "the proxy limits concurrent fetches and divides them fairly among clients",
		next: "try again in a few seconds, with fewer concurrent requests",
	}
	errYielded = &failure{
		status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
		what: "busy: this slow fetch was stopped to make room for others",
		next: "try again in a few seconds; if it persists, check the upstream or choose another with --upstream",
	}
	errStrays = &failure{
		status: http.StatusServiceUnavailable, retryAfter: strayTime, noStore: true,
		what: "too many requests for tiles beyond the end of the checksum database",
		why:  "tiles that this mirror holds or can prove are still served",
		next: "try again in a minute; if it persists, remove the file latest below $(go env GOPATH)/pkg/sumdb",
	}
	// errReloaded says that a request was decided on by settings that are no
	// longer in force.
	errReloaded = &failure{
		status: http.StatusServiceUnavailable, retryAfter: time.Second, noStore: true,
		what: "the proxy's settings changed during this request",
		next: "try again",
	}
	errNotHeld = &failure{
		status: http.StatusNotFound,
		what:   "not found: temporarily unavailable",
		why:    "it is not stored here, and the request forbids fetching it",
		err:    fs.ErrNotExist,
	}

	errNotUnified = &failure{
		status: http.StatusForbidden, noStore: true,
		what: "this proxy does not serve its private checksum log as a checksum database",
		next: "start the proxy with --unified, or set GOSUMDB to another database and GONOSUMDB to the private patterns",
	}

	// errAnswer says that a client has waited long enough; what it waits for
	// goes on.
	errAnswer = errors.New("still in progress")

	// errUnlisted says that the checksum database does not know a version
	// that an upstream has.
	errUnlisted = errors.New("not in the checksum database")

	// errOwnLog says that it is our own log that is in trouble.
	errOwnLog = errors.New("private checksum log")

	// errClient says that a client did not take what was written.
	errClient = errors.New("the client does not read the response")

	// errGarbage says that an invalid response from the upstream than was asked.
	errGarbage = errors.New("invalid response from the upstream")
)

// isFull reports whether there is no room on a disk.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// isExhausted reports whether this process, or this machine, has no file descriptor left.
func isExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// clientError makes err, of writing to a client, an errClient; nil stays nil.
func clientError(err error) error {
	if err == nil || errors.Is(err, errClient) {
		return err
	}
	return fmt.Errorf("%w: %w", errClient, err)
}

// errDefect is a panic in work that clients share, which is in the log.
var errDefect = errors.New("internal error")

// guard does work that clients share and returns its error. If it panics, here or in
// what it waits for, the log gets the stack, whether anybody still waits or not, and
// who waits gets errDefect.
func (s *Server) guard(key string, do func() error) error {
	err := defect.Catch(do)
	var d *defect.Error
	if !errors.As(err, &d) {
		return err
	}
	s.metrics.panics.Inc()
	s.log.Error("panic", "key", key, "panic", fmt.Sprint(d.Value), "stack", string(d.Stack))
	return fmt.Errorf("%w: panic: %v", errDefect, d.Value)
}

// mismatchError is content that is not what the checksum database says.
type mismatchError struct {
	Module, Version string
	File            string // go.mod or zip
	Got, Want       string // h1 hashes
	Source          string // the upstream
	Database        string
}

func (e *mismatchError) Error() string {
	return fmt.Sprintf("checksum mismatch: %s of %s@%s from %s is %s, %s says %s",
		e.File, e.Module, e.Version, e.Source, e.Got, e.Database, e.Want)
}

// explain is the table that turns an error into what the client is told. The
// order matters: what is a security matter comes first, so that nothing which
// also wraps an absence can make it a 404.
func explain(req request.Request, err error) failure {
	var (
		known     *failure
		malformed *request.Error
		mismatch  *mismatchError
		changed   *pinlog.ConflictError
		upstream  *fetch.Error
		repo      *vcs.Error
		panicked  *defect.Error
	)
	errors.As(err, &upstream)
	errors.As(err, &repo)
	switch {
	case errors.As(err, &panicked): // wherever it passed
		return internal()
	case errors.As(err, &known):
		return *known
	case errors.As(err, &malformed):
		return failure{status: http.StatusNotFound, what: "not found: " + malformed.Error(),
			next: "see https://go.dev/ref/mod#goproxy-protocol"}
	case errors.As(err, &mismatch):
		return failure{status: http.StatusForbidden, noStore: true,
			what: fmt.Sprintf("checksum mismatch: %s of %s@%s", mismatch.File, mismatch.Module, mismatch.Version),
			why:  fmt.Sprintf("%s has %s\n%s says %s", mismatch.Source, mismatch.Got, mismatch.Database, mismatch.Want),
			next: "do not use it; contact this proxy's administrator, who has the evidence"}
	case errors.Is(err, modzip.ErrShape):
		return failure{status: http.StatusForbidden, noStore: true,
			what: fmt.Sprintf("cannot verify: the zip of %s@%s has bytes that are not covered by its hash", req.Module, req.Version),
			why:  oneLine(err.Error()),
			next: "do not use the zip of that upstream; contact this proxy's administrator"}
	case errors.As(err, &changed):
		return explainChanged(changed)
	case isExhausted(err): // wherever one was needed
		return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, noStore: true,
			what: "busy: the proxy has no free file descriptors",
			why:  "stored objects are still served",
			next: "try again in a few seconds; the administrator can raise the limit: ulimit -n, LimitNOFILE"}
	case repo != nil && !errors.Is(err, fs.ErrNotExist):
		if f, ok := explainVCS(repo); ok {
			return f
		}
	}
	switch {
	case errors.Is(err, errNoVCS):
		return failure{status: http.StatusNotFound, noStore: true,
			what: "not found: " + req.Path(), why: oneLine(err.Error()), next: "start the proxy with --vcs git", err: fs.ErrNotExist}
	case errors.Is(err, errOwnLog) && errors.Is(err, sumdb.ErrFrozen):
		return failure{status: http.StatusServiceUnavailable, noStore: true,
			what: "the private checksum log is read-only: restored from an old copy, or damaged",
			why:  "pinned versions are still served; an administrator must act",
			next: "contact this proxy's administrator: run assay log check"}
	case errors.Is(err, errOwnLog) && errors.Is(err, sumdb.ErrBeyond):
		// What the client has seen proves what is lost, and decides how to go on.
		return failure{status: http.StatusServiceUnavailable, noStore: true,
			what: "the private checksum log ends before the requested entry: restored from an old copy, or damaged",
			why:  "keep $(go env GOPATH)/pkg/sumdb/" + req.Database + "/latest: it is the newest tree head that you have",
			next: "send that file to this proxy's administrator: assay log check --head compares it"}
	case errors.Is(err, sumdb.ErrFrozen):
		return failure{status: http.StatusServiceUnavailable, noStore: true,
			what: "the checksum database signed two histories (a fork): nothing new is accepted",
			why:  "what was verified before is still served; an administrator must act",
			next: "contact this proxy's administrator: see the evidence directory"}
	case errors.Is(err, errUnlisted):
		return failure{status: http.StatusForbidden, noStore: true,
			what: "cannot verify: the checksum database has no record of this version",
			why:  oneLine(err.Error()),
			next: "if the module is private, add it to the proxy's --private patterns; if the version is new, try again in a minute"}
	case errors.Is(err, sumdb.ErrInvalid):
		return failure{status: http.StatusBadGateway,
			what: "cannot verify: invalid data for the checksum database",
			why:  oneLine(err.Error()), next: "try again; if it persists, contact this proxy's administrator"}
	case errors.Is(err, sumdb.ErrBeyond):
		return failure{status: http.StatusNotFound,
			what: "not found: " + oneLine(err.Error()),
			next: "update this mirror, or remove $(go env GOPATH)/pkg/sumdb/" + req.Database + "/latest"}
	case errors.Is(err, memory.ErrFull):
		return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
			what: "busy: this proxy has no memory for " + req.Path(), why: oneLine(err.Error()),
			next: "try again in a few seconds; if it persists, contact this proxy's administrator: --memory-budget may be too small"}
	case errors.Is(err, fetch.ErrTooLarge):
		return failure{status: http.StatusBadGateway,
			what: "too large: " + req.Path(), why: oneLine(err.Error()),
			next: "the limits are the go command's own: zip 500 MiB, go.mod 16 MiB"}
	case errors.Is(err, errGarbage):
		return failure{status: http.StatusBadGateway,
			what: "invalid response from an upstream for " + req.Path(), why: oneLine(err.Error()),
			next: "try again; if it persists, contact that upstream's administrator"}
	case errors.Is(err, errAnswer):
		return failure{status: http.StatusGatewayTimeout, retryAfter: 10 * time.Second,
			what: "timeout: " + req.Path() + " is still being fetched",
			next: "try again in a few seconds; the proxy continues to fetch it"}
	case upstream != nil && upstream.Status == http.StatusTooManyRequests:
		return failure{status: http.StatusServiceUnavailable, retryAfter: max(upstream.RetryAfter, 5*time.Second),
			what: "an upstream limits the rate of requests: " + upstream.Source, why: oneLine(upstream.Detail),
			next: "try again later"}
	case upstream != nil && errors.Is(upstream, fetch.ErrRefused):
		return failure{status: http.StatusForbidden, noStore: true,
			what: "an upstream refuses " + oneLine(upstream.Path), why: cmp.Or(upstream.Words, upstream.Source+" gives no reason"),
			next: "contact that upstream's administrator"}
	case upstream != nil && (upstream.Status == http.StatusUnauthorized || upstream.Status == http.StatusProxyAuthRequired):
		return failure{status: http.StatusBadGateway,
			what: "an upstream rejected this proxy's credentials: " + upstream.Source, why: oneLine(upstream.Detail),
			next: "contact this proxy's administrator: correct the credentials in --upstream"}
	case errors.Is(err, context.DeadlineExceeded):
		f := failure{status: http.StatusGatewayTimeout, retryAfter: 5 * time.Second,
			what: "timeout: an upstream did not answer for " + req.Path(), why: oneLine(err.Error()),
			next: "try again; if it persists, check the upstream or choose another with --upstream"}
		if upstream != nil {
			f.retryAfter = max(f.retryAfter, upstream.RetryAfter)
		}
		return f
	case errors.Is(err, fetch.ErrUnavailable):
		f := failure{status: http.StatusBadGateway,
			what: "an upstream failed for " + req.Path(), why: oneLine(err.Error()),
			next: "try again; if it persists, check the upstream or choose another with --upstream"}
		if upstream != nil {
			f.retryAfter = upstream.RetryAfter
		}
		return f
	case errors.Is(err, fs.ErrNotExist):
		f := failure{status: http.StatusNotFound, what: "not found: " + req.Path()}
		if upstream != nil {
			f.why = oneLine(upstream.Source + ": " + upstream.Detail)
		} else if repo != nil {
			f.noStore = true // a push is enough
			detail := cmp.Or(repo.Detail, strings.TrimSuffix(repo.Err.Error(), ": "+fs.ErrNotExist.Error()))
			f.why = oneLine(strings.TrimPrefix(repo.Host+": "+detail, ": "))
		} else if req.Database != "" {
			// The mirror says how old it is.
			f.why = oneLine(strings.TrimSuffix(err.Error(), ": "+fs.ErrNotExist.Error()))
		}
		return f
	case isFull(err):
		return failure{status: http.StatusServiceUnavailable, retryAfter: 30 * time.Second,
			what: "the proxy's disk is full: it cannot store new objects",
			why:  "stored objects are still served",
			next: "contact this proxy's administrator: free space in the data directory"}
	case errors.Is(err, context.Canceled):
		return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
			what: "the proxy is shutting down", next: "try again in a few seconds"}
	}
	return internal()
}

// internal is what a client is told of what only the log explains.
func internal() failure {
	return failure{status: http.StatusInternalServerError, what: "internal error",
		next: "contact this proxy's administrator with the request id; the log has the details"}
}

// explainChanged says that a private version is not what it was. Both contents have
// their line, with where they came from.
func explainChanged(e *pinlog.ConflictError) failure {
	file, have, got := "zip", e.Have.Zip, e.Got.Zip
	if have == got {
		file, have, got = "go.mod", e.Have.Mod, e.Got.Mod
	}
	return failure{status: http.StatusForbidden, noStore: true,
		what: fmt.Sprintf("changed: the %s of %s differs from the one pinned on %s", file, e.Have.Module, e.Have.Time.UTC().Format(time.DateOnly)),
		why:  fmt.Sprintf("first %s from %s\nnow   %s from %s", have, clip(e.Have.Source(), 140), got, clip(e.Got.Source(), 140)),
		next: "do not use it; release a new version, or ask this proxy's administrator, who has the evidence"}
}

// explainVCS is the part of the table for repositories. Who reads it may read the
// module.
func explainVCS(e *vcs.Error) (failure, bool) {
	what, detail := oneLine(e.Module), oneLine(e.Detail)
	switch {
	case errors.Is(e, vcs.ErrCredential):
		return failure{status: http.StatusForbidden, noStore: true,
			what: e.Host + " denies this proxy access to " + what, why: oneLine(e.Err.Error()),
			next: "contact this proxy's administrator: add a credential with --credentials or --netrc"}, true
	case errors.Is(e, vcs.ErrForbidden):
		return failure{status: http.StatusForbidden, noStore: true,
			what: "not allowed: " + what, why: oneLine(strings.Replace(e.Err.Error(), vcs.ErrForbidden.Error()+": ", "", 1)),
			next: "contact the owner of the module, or this proxy's administrator"}, true
	case errors.Is(e, vcs.ErrBusy):
		return failure{status: http.StatusServiceUnavailable, noStore: true, retryAfter: 10 * time.Second,
			what: "busy: too many fetches are queued for " + e.Host,
			next: "try again in a few seconds; if it persists, check that host"}, true
	case errors.Is(e, vcs.ErrTools):
		return failure{status: http.StatusBadGateway, noStore: true,
			what: "this proxy cannot fetch " + what, why: oneLine(e.Err.Error()),
			next: "contact this proxy's administrator: it needs git, a recent go command, and memory to run them"}, true
	case errors.Is(e, vcs.ErrTooLarge):
		return failure{status: http.StatusBadGateway, noStore: true,
			what: "too large: " + what, why: oneLine(e.Err.Error()),
			next: "contact this proxy's administrator: --vcs-cache limits the size of all repositories"}, true
	case errors.Is(e, context.DeadlineExceeded):
		return failure{status: http.StatusGatewayTimeout, retryAfter: 10 * time.Second,
			what: "timeout: " + e.Host + " did not finish for " + what, why: detail,
			next: "try again; if it persists, check that host, or raise --vcs-timeout"}, true
	case errors.Is(e, vcs.ErrUnavailable):
		return failure{status: http.StatusBadGateway, retryAfter: 5 * time.Second,
			what: e.Host + " failed for " + what, why: oneLine(e.Err.Error()),
			next: "try again; if it persists, check that host"}, true
	}
	return failure{}, false
}

// statusClientGone is what the access log has for a client that did not wait;
// the number is nginx's.
const statusClientGone = 499

// writeError answers with err, or breaks the answer off if it has begun.
func (s *Server) writeError(a *answer, err error) {
	gone := a.r.Context().Err() != nil
	if a.started {
		if !gone {
			s.log.LogAttrs(a.r.Context(), levelOf(err), "response aborted", s.requestAttrs(a, err)...)
		}
		s.metrics.count(a.kind, resultAborted)
		panic(http.ErrAbortHandler)
	}
	if gone {
		a.result = resultGone
		a.WriteHeader(statusClientGone)
		return
	}
	req, _ := request.Parse(strings.TrimPrefix(strings.TrimPrefix(a.r.URL.Path, "/"), "cached-only/"))
	err = s.veil(a, req, err)
	f := explain(req, err)
	f.noStore = f.noStore || a.private // a push is enough, and nobody else is to have it
	if f.status >= 500 && f.status != http.StatusLoopDetected || f.status == http.StatusForbidden {
		s.log.LogAttrs(a.r.Context(), levelOf(err), "request refused", s.requestAttrs(a, err)...)
	}
	if a.result == resultUnknown {
		a.result = resultOf(f.status)
	}
	f.write(a)
}

// write answers with f.
func (f failure) write(a *answer) {
	h := a.Header()
	for _, name := range []string{"Etag", "Content-Length", "Accept-Ranges", "Age"} {
		h.Del(name)
	}
	switch {
	case f.noStore:
		h.Set("Cache-Control", "no-store")
	case f.status == http.StatusNotFound:
		h.Set("Cache-Control", "public, max-age=10")
	default:
		h.Set("Cache-Control", "no-cache")
	}
	if f.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((f.retryAfter+time.Second-1)/time.Second)))
	}
	text := f.text(h.Get("X-Request-Id"))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	a.WriteHeader(f.status)
	if a.r.Method != http.MethodHead {
		_, _ = a.Write([]byte(text)) // the client is gone: nobody to tell
	}
}

// The go command shows at most 8 lines and 648 bytes of an error's text, up to
// the first empty line, and nothing at all if a rune of it cannot be printed
// (cmd/go/internal/web, formatDetail).
const (
	maxErrorLines = 8
	maxErrorBytes = 640
)

// text returns what the client reads. The last line is the request id; of the
// others what happened and why are cut before what to do next is.
func (f failure) text(requestID string) string {
	last := ""
	if requestID != "" {
		last = "request id: " + requestID + "\n"
	}
	var b strings.Builder
	lines := 0
	write := func(text string, reserved int) {
		for part := range strings.SplitSeq(text, "\n") {
			part = strings.TrimSpace(printable(part))
			room := maxErrorBytes - len(last) - b.Len() - 1 - reserved
			if part == "" || room <= 0 || lines == maxErrorLines-1 {
				continue
			}
			b.WriteString(clip(part, room))
			b.WriteByte('\n')
			lines++
		}
	}
	reserved := min(len(f.next)+1, maxErrorBytes/2)
	write(f.what, reserved)
	write(f.why, reserved)
	write(f.next, 0)
	return b.String() + last
}

// printable replaces what the go command would not show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// clip cuts s to at most n bytes, between runes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

// oneLine makes s one line of a bounded length.
func oneLine(s string) string {
	return clip(strings.Join(strings.Fields(s), " "), 260)
}

// levelOf returns the level at which an error is logged: an error for what needs
// a person, a warning for what passes.
func levelOf(err error) slog.Level {
	var (
		mismatch *mismatchError
		changed  *pinlog.ConflictError
		panicked *defect.Error
	)
	switch {
	case errors.As(err, &panicked), errors.As(err, &mismatch), errors.As(err, &changed), errors.Is(err, sumdb.ErrFrozen), errors.Is(err, storage.ErrDamaged), isFull(err):
		return slog.LevelError
	case errors.Is(err, errClient):
		return slog.LevelInfo
	case errors.Is(err, fetch.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, sumdb.ErrInvalid),
		errors.Is(err, vcs.ErrUnavailable), errors.Is(err, vcs.ErrCredential), errors.Is(err, vcs.ErrForbidden),
		errors.Is(err, vcs.ErrBusy), errors.Is(err, vcs.ErrTools), errors.Is(err, vcs.ErrTooLarge),
		errors.Is(err, modzip.ErrShape), errors.Is(err, errUnlisted), errors.Is(err, errGarbage), errors.Is(err, errAnswer), errors.Is(err, fetch.ErrTooLarge):
		return slog.LevelWarn
	}
	var known *failure
	if errors.As(err, &known) || errors.Is(err, fetch.ErrRefused) {
		return slog.LevelInfo // a rule
	}
	return slog.LevelError
}

func (s *Server) requestAttrs(a *answer, err error) []slog.Attr {
	return []slog.Attr{
		slog.String("request", a.Header().Get("X-Request-Id")), slog.String("path", a.r.URL.Path),
		slog.String("remote", s.config.Remote(a.r)), slog.Any("err", err),
	}
}
