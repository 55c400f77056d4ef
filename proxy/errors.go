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
	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/privacy"
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
		status: http.StatusServiceUnavailable, retryAfter: content.StrayTime, noStore: true,
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
	}

	errNoDatabase = &failure{
		status: http.StatusForbidden,
		what:   "cannot verify: toolchains need a checksum database, and it is off",
		next:   "start the proxy with a checksum database: --sumdb sum.golang.org",
	}

	errNotUnified = &failure{
		status: http.StatusForbidden, noStore: true,
		what: "this proxy does not serve its private checksum log as a checksum database",
		next: "start the proxy with --unified, or set GOSUMDB to another database and GONOSUMDB to the private patterns",
	}

	// errClient says that a client did not take what was written.
	errClient = errors.New("the client does not read the response")
)

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

// explain is the table that turns an error into what the client is told. The
// order matters: what is a security matter comes first, so that nothing which
// also wraps an absence can make it a 404.
func explain(req request.Request, err error) failure {
	var (
		known     *failure
		malformed *request.Error
		mismatch  *content.MismatchError
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
	}
	if rule := ruled(req, err); rule != nil {
		return *rule
	}
	switch {
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
			why:  text.Line(err.Error()),
			next: "do not use the zip of that upstream; contact this proxy's administrator"}
	case errors.As(err, &changed):
		return explainChanged(changed)
	case isExhausted(err): // wherever one was needed
		return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, noStore: true,
			what: "busy: the proxy has no free file descriptors",
			why:  "stored objects are still served",
			next: "try again in a few seconds; the administrator can raise the limit: ulimit -n, LimitNOFILE"}
	case repo != nil && !content.IsAbsence(err):
		if f, ok := explainVCS(repo); ok {
			return f
		}
	}
	switch {
	case errors.Is(err, gate.ErrNoVCS):
		return failure{status: http.StatusNotFound, noStore: true,
			what: "not found: " + req.Path(), why: text.Line(err.Error()), next: "start the proxy with --vcs git", err: fs.ErrNotExist}
	case errors.Is(err, content.ErrOwnLog) && errors.Is(err, sumdb.ErrFrozen):
		return failure{status: http.StatusServiceUnavailable, noStore: true,
			what: "the private checksum log is read-only: restored from an old copy, or damaged",
			why:  "pinned versions are still served; an administrator must act",
			next: "contact this proxy's administrator: run assay log check"}
	case errors.Is(err, content.ErrOwnLog) && errors.Is(err, sumdb.ErrBeyond):
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
	case errors.Is(err, content.ErrUnlisted):
		return failure{status: http.StatusForbidden, noStore: true,
			what: "cannot verify: the checksum database has no record of this version",
			why:  text.Line(err.Error()),
			next: "if the module is private, add it to the proxy's --private patterns; if the version is new, try again in a minute"}
	case errors.Is(err, sumdb.ErrInvalid):
		return failure{status: http.StatusBadGateway,
			what: "cannot verify: invalid data for the checksum database",
			why:  text.Line(err.Error()), next: "try again; if it persists, contact this proxy's administrator"}
	case errors.Is(err, sumdb.ErrBeyond):
		return failure{status: http.StatusNotFound,
			what: "not found: " + text.Line(err.Error()),
			next: "update this mirror, or remove $(go env GOPATH)/pkg/sumdb/" + req.Database + "/latest"}
	case errors.Is(err, memory.ErrFull):
		return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
			what: "busy: this proxy has no memory for " + req.Path(), why: text.Line(err.Error()),
			next: "try again in a few seconds; if it persists, contact this proxy's administrator: --memory-budget may be too small"}
	case errors.Is(err, fetch.ErrTooLarge):
		return failure{status: http.StatusBadGateway,
			what: "too large: " + req.Path(), why: text.Line(err.Error()),
			next: "the limits are the go command's own: zip 500 MiB, go.mod 16 MiB"}
	case errors.Is(err, content.ErrGarbage):
		return failure{status: http.StatusBadGateway,
			what: "invalid response from an upstream for " + req.Path(), why: text.Line(err.Error()),
			next: "try again; if it persists, contact that upstream's administrator"}
	case errors.Is(err, content.ErrTimeout):
		return failure{status: http.StatusGatewayTimeout, retryAfter: 10 * time.Second,
			what: "timeout: " + req.Path() + " is still being fetched",
			next: "try again in a few seconds; the proxy continues to fetch it"}
	case upstream != nil && upstream.Status == http.StatusTooManyRequests:
		return failure{status: http.StatusServiceUnavailable, retryAfter: max(upstream.RetryAfter, 5*time.Second),
			what: "an upstream limits the rate of requests: " + upstream.Source, why: text.Line(upstream.Detail),
			next: "try again later"}
	case upstream != nil && errors.Is(upstream, fetch.ErrRefused):
		return failure{status: http.StatusForbidden, noStore: true,
			what: "an upstream refuses " + text.Line(upstream.Path), why: cmp.Or(upstream.Words, upstream.Source+" gives no reason"),
			next: "contact that upstream's administrator"}
	case upstream != nil && (upstream.Status == http.StatusUnauthorized || upstream.Status == http.StatusProxyAuthRequired):
		return failure{status: http.StatusBadGateway,
			what: "an upstream rejected this proxy's credentials: " + upstream.Source, why: text.Line(upstream.Detail),
			next: "contact this proxy's administrator: correct the credentials in --upstream"}
	case errors.Is(err, context.DeadlineExceeded):
		f := failure{status: http.StatusGatewayTimeout, retryAfter: 5 * time.Second,
			what: "timeout: an upstream did not answer for " + req.Path(), why: text.Line(err.Error()),
			next: "try again; if it persists, check the upstream or choose another with --upstream"}
		if upstream != nil {
			f.retryAfter = max(f.retryAfter, upstream.RetryAfter)
		}
		return f
	case errors.Is(err, fetch.ErrUnavailable):
		f := failure{status: http.StatusBadGateway,
			what: "an upstream failed for " + req.Path(), why: text.Line(err.Error()),
			next: "try again; if it persists, check the upstream or choose another with --upstream"}
		if upstream != nil {
			f.retryAfter = upstream.RetryAfter
		}
		return f
	case content.IsAbsence(err):
		f := failure{status: http.StatusNotFound, what: "not found: " + req.Path()}
		if upstream != nil {
			f.why = text.Line(upstream.Source + ": " + upstream.Detail)
		} else if repo != nil {
			f.noStore = true // a push is enough
			detail := cmp.Or(repo.Detail, strings.TrimSuffix(repo.Err.Error(), ": "+fs.ErrNotExist.Error()))
			f.why = text.Line(strings.TrimPrefix(repo.Host+": "+detail, ": "))
		} else if req.Database != "" {
			// The mirror says how old it is.
			f.why = text.Line(strings.TrimSuffix(err.Error(), ": "+fs.ErrNotExist.Error()))
		}
		return f
	case content.IsFull(err):
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

// ruled returns what a client is told of an error that is a decision of this proxy, nil if
// it is none.
func ruled(req request.Request, err error) *failure {
	var (
		private *content.NotFetchedError
		leak    *content.LeakError
		slow    *content.SlowError
		old     *content.OldAbsenceError
		full    *bindings.LimitError
		repo    *vcs.Error
	)
	switch {
	case errors.As(err, &private):
		return &failure{
			status: http.StatusNotFound, noStore: true,
			what: "not found: " + private.Module + " is private here (pattern " + private.Pattern + ")",
			why:  "fetching private modules is disabled (--vcs off), and their names are never sent to an upstream",
			next: privacy.ClientAdvice("GOPRIVATE", private.Pattern, private.Module),
		}
	case errors.As(err, &leak):
		return &failure{
			status: http.StatusForbidden, noStore: true,
			what: leak.Module + " is private here (pattern " + leak.Pattern + ")",
			why:  "its name is never sent to a checksum database; configure your go command not to look it up",
			next: privacy.ClientAdvice("GONOSUMDB", leak.Pattern, leak.Module),
		}
	case errors.As(err, &slow):
		return &failure{
			status: http.StatusGatewayTimeout, retryAfter: 30 * time.Second,
			what: "given up: " + slow.Key + " arrives too slowly",
			why:  fmt.Sprintf("%d of %d bytes in %v; the whole zip would take longer than %v", slow.Got, slow.Size, slow.Took, slow.Limit),
			next: "try again; if it persists, check the upstream or choose another with --upstream",
		}
	case errors.As(err, &old):
		return &failure{
			status: http.StatusNotFound, noStore: true,
			what: "not found: " + old.Key,
			why: fmt.Sprintf("%s said so %s ago\nit is unreachable now, so this may be out of date",
				text.Clip(old.Upstreams, 200), old.Age.Round(time.Second)),
			next: "if it has been published since, try again when the upstream is back",
		}
	case errors.As(err, &full) && errors.As(err, &repo):
		return &failure{status: http.StatusForbidden, noStore: true,
			what: "too many module paths: " + repo.Module + " is refused",
			why:  "the proxy records a limited number for each repository and host; known ones are still served",
			next: "contact this proxy's administrator: a page with wildcard paths may lead to the repository"}
	case errors.Is(err, content.ErrOffline):
		return &failure{status: http.StatusNotFound, what: "not found: " + text.Clip(req.Path(), 200),
			why: "it is not stored here, and this proxy has no upstream (--upstream off)"}
	}
	for _, row := range rules() {
		if errors.Is(err, row.err) {
			return row.failure
		}
	}
	return nil
}

// rules are the decisions of which the client is always told the same.
func rules() []rule {
	return []rule{
		{places.ErrClientFull, errClientBusy},
		{places.ErrFull, errBusy},
		{places.ErrLate, errBusy},
		{places.ErrYielded, errYielded},
		{places.ErrLeft, errYielded},
		{content.ErrStrays, errStrays},
		{content.ErrNotHeld, errNotHeld},
		{content.ErrNoDatabase, errNoDatabase},
		{gate.ErrReloaded, errReloaded},
	}
}

type rule struct {
	err     error
	failure *failure
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
		why:  fmt.Sprintf("first %s from %s\nnow   %s from %s", have, text.Clip(e.Have.Source(), 140), got, text.Clip(e.Got.Source(), 140)),
		next: "do not use it; release a new version, or ask this proxy's administrator, who has the evidence"}
}

// explainVCS is the part of the table for repositories. Who reads it may read the
// module.
func explainVCS(e *vcs.Error) (failure, bool) {
	what, detail := text.Line(e.Module), text.Line(e.Detail)
	switch {
	case errors.Is(e, vcs.ErrCredential):
		return failure{status: http.StatusForbidden, noStore: true,
			what: e.Host + " denies this proxy access to " + what, why: text.Line(e.Err.Error()),
			next: "contact this proxy's administrator: add a credential with --credentials or --netrc"}, true
	case errors.Is(e, vcs.ErrForbidden):
		return failure{status: http.StatusForbidden, noStore: true,
			what: "not allowed: " + what, why: text.Line(strings.Replace(e.Err.Error(), vcs.ErrForbidden.Error()+": ", "", 1)),
			next: "contact the owner of the module, or this proxy's administrator"}, true
	case errors.Is(e, vcs.ErrBusy):
		return failure{status: http.StatusServiceUnavailable, noStore: true, retryAfter: 10 * time.Second,
			what: "busy: too many fetches are queued for " + e.Host,
			next: "try again in a few seconds; if it persists, check that host"}, true
	case errors.Is(e, vcs.ErrTools):
		return failure{status: http.StatusBadGateway, noStore: true,
			what: "this proxy cannot fetch " + what, why: text.Line(e.Err.Error()),
			next: "contact this proxy's administrator: it needs git, a recent go command, and memory to run them"}, true
	case errors.Is(e, vcs.ErrTooLarge):
		return failure{status: http.StatusBadGateway, noStore: true,
			what: "too large: " + what, why: text.Line(e.Err.Error()),
			next: "contact this proxy's administrator: --vcs-cache limits the size of all repositories"}, true
	case errors.Is(e, context.DeadlineExceeded):
		return failure{status: http.StatusGatewayTimeout, retryAfter: 10 * time.Second,
			what: "timeout: " + e.Host + " did not finish for " + what, why: detail,
			next: "try again; if it persists, check that host, or raise --vcs-timeout"}, true
	case errors.Is(e, vcs.ErrUnavailable):
		return failure{status: http.StatusBadGateway, retryAfter: 5 * time.Second,
			what: e.Host + " failed for " + what, why: text.Line(e.Err.Error()),
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
			s.log.LogAttrs(a.r.Context(), levelOf(err), "response aborted", a.attrs(err)...)
		}
		s.metrics.count(a.ask.Req.Kind, resultAborted)
		panic(http.ErrAbortHandler)
	}
	if gone {
		a.result = resultGone
		a.WriteHeader(statusClientGone)
		return
	}
	f := explain(a.ask.Req, s.hide(a, err))
	f.noStore = f.noStore || a.origin != nil && !a.origin.Caching.Errors // a push is enough, and nobody else is to have it
	if f.status >= 500 && f.status != http.StatusLoopDetected || f.status == http.StatusForbidden {
		s.log.LogAttrs(a.r.Context(), levelOf(err), "request refused", a.attrs(err)...)
	}
	var old *content.OldAbsenceError
	if errors.As(err, &old) {
		a.result = resultStale
		a.Header()["Cache-Status"] = cacheStatus[resultStale]
	}
	if a.result == resultUnknown {
		a.result = resultOf(f.status)
	}
	f.write(a)
}

// hide returns err, or what a client is told that may not know it, which is noted.
func (s *Server) hide(a *answer, err error) error {
	if a.origin != nil {
		err = a.origin.Veil(&a.ask, err)
	}
	var leak *content.LeakError
	if errors.As(err, &leak) {
		s.log.Warn("a client looked up a private module in the checksum database", "module", leak.Module, "pattern", leak.Pattern, "client", a.client.remote())
		a.client.noteLeak(PublicDatabase, leak.Module)
	}
	if !errors.Is(err, content.ErrHidden) {
		return err
	}
	if a.ask.Req.Module != "" {
		a.client.noteUnread(a.ask.Req.Module)
	}
	return hidden(a.ask.Path)
}

// hidden is the answer for what a client may not read. It must not depend on
// anything but the path.
func hidden(path string) error {
	return &failure{
		status: http.StatusNotFound, noStore: true,
		what: "not found: " + text.Clip(path, 200),
		next: "if it is private, check the credentials that the go command sends: go help goauth",
		err:  content.ErrHidden,
	}
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
	body := f.body(h.Get("X-Request-Id"))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	a.WriteHeader(f.status)
	if a.r.Method != http.MethodHead {
		_, _ = a.Write([]byte(body)) // the client is gone: nobody to tell
	}
}

// The go command shows at most 8 lines and 648 bytes of an error's text, up to
// the first empty line, and nothing at all if a rune of it cannot be printed
// (cmd/go/internal/web, formatDetail).
const (
	maxErrorLines = 8
	maxErrorBytes = 640
)

// body returns what the client reads. The last line is the request id; of the
// others what happened and why are cut before what to do next is.
func (f failure) body(requestID string) string {
	last := ""
	if requestID != "" {
		last = "request id: " + requestID + "\n"
	}
	var b strings.Builder
	lines := 0
	write := func(several string, reserved int) {
		for part := range strings.SplitSeq(several, "\n") {
			part = strings.TrimSpace(printable(part))
			room := maxErrorBytes - len(last) - b.Len() - 1 - reserved
			if part == "" || room <= 0 || lines == maxErrorLines-1 {
				continue
			}
			b.WriteString(text.Clip(part, room))
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

// levelOf returns the level at which an error is logged: an error for what needs
// a person, a warning for what passes.
func levelOf(err error) slog.Level {
	var (
		mismatch *content.MismatchError
		changed  *pinlog.ConflictError
		panicked *defect.Error
	)
	switch {
	case errors.As(err, &panicked), errors.As(err, &mismatch), errors.As(err, &changed), errors.Is(err, sumdb.ErrFrozen), errors.Is(err, storage.ErrDamaged), content.IsFull(err):
		return slog.LevelError
	case errors.Is(err, errClient):
		return slog.LevelInfo
	case errors.Is(err, fetch.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, sumdb.ErrInvalid),
		errors.Is(err, vcs.ErrUnavailable), errors.Is(err, vcs.ErrCredential), errors.Is(err, vcs.ErrForbidden),
		errors.Is(err, vcs.ErrBusy), errors.Is(err, vcs.ErrTools), errors.Is(err, vcs.ErrTooLarge),
		errors.Is(err, modzip.ErrShape), errors.Is(err, content.ErrUnlisted), errors.Is(err, content.ErrGarbage), errors.Is(err, content.ErrTimeout), errors.Is(err, fetch.ErrTooLarge):
		return slog.LevelWarn
	}
	var known *failure
	if errors.As(err, &known) || ruled(request.Request{}, err) != nil || errors.Is(err, fetch.ErrRefused) {
		return slog.LevelInfo // a rule
	}
	return slog.LevelError
}

func (a *answer) attrs(err error) []slog.Attr {
	return []slog.Attr{
		slog.String("request", a.client.Request()), slog.String("path", a.r.URL.Path),
		slog.String("remote", a.client.remote()), slog.Any("err", err),
	}
}
