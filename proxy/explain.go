package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/internal/descriptors"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/panics"
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

// explain makes the failure that the client sees from the error of a request, by the
// table.
func explain(q *content.Ask, err error) failure {
	x := &explained{req: q.Req, path: q.Path, err: err}
	errors.As(err, &x.upstream)
	errors.As(err, &x.repo)
	for _, row := range table {
		if row.matches(x) {
			return row.say(x)
		}
	}
	return internal(x)
}

// explained is an error with the values that most texts need.
type explained struct {
	req      request.Request
	path     string // of the protocol
	err      error
	upstream *fetch.Error
	repo     *vcs.Error
}

// row says what the client sees for an error that matches.
type row struct {
	matches func(x *explained) bool
	say     func(x *explained) failure
}

// is is a row for a sentinel.
func is(target error, say func(x *explained) failure) row {
	return row{func(x *explained) bool { return errors.Is(x.err, target) }, say}
}

// both is a row for an error that matches two sentinels.
func both(a, b error, say func(x *explained) failure) row {
	return row{func(x *explained) bool { return errors.Is(x.err, a) && errors.Is(x.err, b) }, say}
}

// as is a row for a type of errors.
func as[T error](say func(x *explained, e T) failure) row {
	of := func(x *explained) (e T, ok bool) { ok = errors.As(x.err, &e); return e, ok }
	return row{
		func(x *explained) bool { _, ok := of(x); return ok },
		func(x *explained) failure { e, _ := of(x); return say(x, e) },
	}
}

// when is a row for errors for which a function returns true.
func when(holds func(error) bool, say func(x *explained) failure) row {
	return row{func(x *explained) bool { return holds(x.err) }, say}
}

// upstream is a row for an error of an upstream.
func upstream(holds func(e *fetch.Error) bool, say func(x *explained) failure) row {
	return row{func(x *explained) bool { return x.upstream != nil && holds(x.upstream) }, say}
}

// repository is a row for an error of a repository, except for absences. Its text may name
// the host: for a client that may not read the module, hide has replaced the error before.
func repository(target error, say func(x *explained) failure) row {
	return row{func(x *explained) bool {
		return x.repo != nil && !content.IsAbsence(x.err) && errors.Is(x.repo, target)
	}, say}
}

// always returns the same failure for each error.
func always(f failure) func(*explained) failure { return func(*explained) failure { return f } }

// table says what clients see for errors. The first row that matches counts. Decisions of
// this proxy come first, then security errors, so that an error which also wraps an
// absence cannot become a 404.
var table = append(decisions, []row{
	as(func(_ *explained, e *request.Error) failure {
		return failure{status: http.StatusNotFound, what: "not found: " + e.Error(),
			next: "see https://go.dev/ref/mod#goproxy-protocol"}
	}),
	as(func(_ *explained, e *content.MismatchError) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: fmt.Sprintf("checksum mismatch: %s of %s@%s", e.File, e.Module, e.Version),
			why:  fmt.Sprintf("%s has %s\n%s says %s", e.Source, e.Got, e.Database, e.Want),
			next: "do not use it; contact this proxy's administrator, who has the evidence"}
	}),
	is(modzip.ErrShape, func(x *explained) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: fmt.Sprintf("cannot verify: the zip of %s@%s has bytes that are not covered by its hash", x.req.Module, x.req.Version),
			why:  x.why(), next: "do not use the zip of that upstream; contact this proxy's administrator"}
	}),
	as(changed),
	when(descriptors.Exhausted, always(failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, noStore: true,
		what: "busy: the proxy has no free file descriptors",
		why:  "stored objects are still served",
		next: "try again in a few seconds; the administrator can raise the limit: ulimit -n, LimitNOFILE"})),

	repository(vcs.ErrCredential, func(x *explained) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: x.repo.Host + " denies this proxy access to " + text.Line(x.repo.Module), why: text.Line(x.repo.Err.Error()),
			next: "contact this proxy's administrator: add a credential with --credentials or --netrc"}
	}),
	repository(vcs.ErrForbidden, func(x *explained) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: "not allowed: " + text.Line(x.repo.Module), why: text.Line(strings.Replace(x.repo.Err.Error(), vcs.ErrForbidden.Error()+": ", "", 1)),
			next: "contact the owner of the module, or this proxy's administrator"}
	}),
	repository(vcs.ErrBusy, func(x *explained) failure {
		return failure{status: http.StatusServiceUnavailable, noStore: true, retryAfter: 10 * time.Second,
			what: "busy: too many fetches are queued for " + x.repo.Host,
			next: "try again in a few seconds; if it persists, check that host"}
	}),
	repository(vcs.ErrTools, func(x *explained) failure {
		return failure{status: http.StatusBadGateway, noStore: true,
			what: "this proxy cannot fetch " + text.Line(x.repo.Module), why: text.Line(x.repo.Err.Error()),
			next: "contact this proxy's administrator: it needs git, a recent go command, and memory to run them"}
	}),
	repository(vcs.ErrTooLarge, func(x *explained) failure {
		return failure{status: http.StatusBadGateway, noStore: true,
			what: "too large: " + text.Line(x.repo.Module), why: text.Line(x.repo.Err.Error()),
			next: "contact this proxy's administrator: --vcs-cache limits the size of all repositories"}
	}),
	repository(context.DeadlineExceeded, func(x *explained) failure {
		return failure{status: http.StatusGatewayTimeout, retryAfter: 10 * time.Second,
			what: "timeout: " + x.repo.Host + " did not finish for " + text.Line(x.repo.Module), why: text.Line(x.repo.Detail),
			next: "try again; if it persists, check that host, or raise --vcs-timeout"}
	}),
	repository(vcs.ErrUnavailable, func(x *explained) failure {
		return failure{status: http.StatusBadGateway, retryAfter: 5 * time.Second,
			what: x.repo.Host + " failed for " + text.Line(x.repo.Module), why: text.Line(x.repo.Err.Error()),
			next: "try again; if it persists, check that host"}
	}),

	is(gate.ErrNoVCS, func(x *explained) failure {
		return failure{status: http.StatusNotFound, noStore: true, what: "not found: " + x.path, why: x.why(), next: "start the proxy with --vcs git"}
	}),
	both(content.ErrOwnLog, sumdb.ErrFrozen, always(failure{status: http.StatusServiceUnavailable, noStore: true,
		what: "the private checksum log is read-only: restored from an old copy, or damaged",
		why:  "pinned versions are still served; an administrator must act",
		next: "contact this proxy's administrator: run assay log check"})),
	is(pinlog.ErrReadOnly, always(failure{status: http.StatusServiceUnavailable, noStore: true,
		what: "this proxy only serves what is stored: it adds nothing to the private checksum log",
		next: "use the proxy that stores modules, which runs without --read-only"})),
	both(content.ErrOwnLog, sumdb.ErrBeyond, func(x *explained) failure {
		// The client's head proves which entries are lost, and the administrator needs it
		// to decide what to do.
		return failure{status: http.StatusServiceUnavailable, noStore: true,
			what: "the private checksum log ends before the requested entry: restored from an old copy, or damaged",
			why:  "keep $(go env GOPATH)/pkg/sumdb/" + x.req.Database + "/latest: it is the newest tree head that you have",
			next: "send that file to this proxy's administrator: assay log check --head compares it"}
	}),
	is(sumdb.ErrFrozen, always(failure{status: http.StatusServiceUnavailable, noStore: true,
		what: "the checksum database signed two histories (a fork): nothing new is accepted",
		why:  "what was verified before is still served; an administrator must act",
		next: "contact this proxy's administrator: see the evidence directory"})),
	is(content.ErrUnlisted, func(x *explained) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: "cannot verify: the checksum database has no record of this version", why: x.why(),
			next: "if the module is private, add it to the proxy's --private patterns; if the version is new, try again in a minute"}
	}),
	is(sumdb.ErrInvalid, func(x *explained) failure {
		return failure{status: http.StatusBadGateway,
			what: "cannot verify: invalid data for the checksum database", why: x.why(),
			next: "try again; if it persists, contact this proxy's administrator"}
	}),
	is(sumdb.ErrBeyond, func(x *explained) failure {
		return failure{status: http.StatusNotFound, what: "not found: " + x.why(),
			next: "update this mirror, or remove $(go env GOPATH)/pkg/sumdb/" + x.req.Database + "/latest"}
	}),
	is(memory.ErrFull, func(x *explained) failure {
		return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
			what: "busy: this proxy has no memory for " + x.path, why: x.why(),
			next: "try again in a few seconds; if it persists, contact this proxy's administrator: --memory-budget may be too small"}
	}),
	is(fetch.ErrTooLarge, func(x *explained) failure {
		return failure{status: http.StatusBadGateway, what: "too large: " + x.path, why: x.why(),
			next: "the limits are the go command's own: zip 500 MiB, go.mod 16 MiB"}
	}),
	is(content.ErrGarbage, func(x *explained) failure {
		return failure{status: http.StatusBadGateway, what: "invalid response from an upstream for " + x.path, why: x.why(),
			next: "try again; if it persists, contact that upstream's administrator"}
	}),
	is(content.ErrTimeout, func(x *explained) failure {
		return failure{status: http.StatusGatewayTimeout, retryAfter: 10 * time.Second,
			what: "timeout: " + x.path + " is still being fetched",
			next: "try again in a few seconds; the proxy continues to fetch it"}
	}),

	upstream(func(e *fetch.Error) bool { return e.Status == http.StatusTooManyRequests }, func(x *explained) failure {
		return failure{status: http.StatusServiceUnavailable, retryAfter: max(x.upstream.RetryAfter, 5*time.Second),
			what: "an upstream limits the rate of requests: " + x.upstream.Source, why: text.Line(x.upstream.Detail),
			next: "try again later"}
	}),
	upstream(func(e *fetch.Error) bool { return errors.Is(e, fetch.ErrRefused) }, func(x *explained) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: "an upstream refuses " + text.Line(x.upstream.Path), why: cmp.Or(x.upstream.Words, x.upstream.Source+" gives no reason"),
			next: "contact that upstream's administrator"}
	}),
	upstream(func(e *fetch.Error) bool {
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusProxyAuthRequired
	}, func(x *explained) failure {
		return failure{status: http.StatusBadGateway,
			what: "an upstream rejected this proxy's credentials: " + x.upstream.Source, why: text.Line(x.upstream.Detail),
			next: "contact this proxy's administrator: correct the credentials in --upstream"}
	}),
	is(context.DeadlineExceeded, func(x *explained) failure {
		return failure{status: http.StatusGatewayTimeout, retryAfter: max(5*time.Second, x.retryAfter()),
			what: "timeout: an upstream did not answer for " + x.path, why: x.why(),
			next: "try again; if it persists, check the upstream or choose another with --upstream"}
	}),
	is(fetch.ErrUnavailable, func(x *explained) failure {
		return failure{status: http.StatusBadGateway, retryAfter: x.retryAfter(),
			what: "an upstream failed for " + x.path, why: x.why(),
			next: "try again; if it persists, check the upstream or choose another with --upstream"}
	}),
	when(content.IsAbsence, absent),
	when(content.IsFull, always(failure{status: http.StatusServiceUnavailable, retryAfter: 30 * time.Second,
		what: "the proxy's disk is full: it cannot store new objects",
		why:  "stored objects are still served",
		next: "contact this proxy's administrator: free space in the data directory"})),
	is(context.Canceled, always(failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
		what: "the proxy is shutting down", next: "try again in a few seconds"})),
}...)

// decisions are the rows for decisions of this proxy, and for its own defects.
var decisions = []row{
	as(func(x *explained, _ *panics.Error) failure { return internal(x) }), // whatever wraps it
	as(func(_ *explained, f *failure) failure { return *f }),
	as(func(_ *explained, e *content.NotFetchedError) failure {
		return failure{status: http.StatusNotFound, noStore: true,
			what: "not found: " + e.Module + " is private here (pattern " + e.Pattern + ")",
			why:  "fetching private modules is disabled (--vcs off), and their names are never sent to an upstream",
			next: privacy.ClientAdvice("GOPRIVATE", e.Pattern, e.Module)}
	}),
	as(func(_ *explained, e *content.LeakError) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: e.Module + " is private here (pattern " + e.Pattern + ")",
			why:  "its name is never sent to a checksum database; configure your go command not to look it up",
			next: privacy.ClientAdvice("GONOSUMDB", e.Pattern, e.Module)}
	}),
	as(func(_ *explained, e *content.SlowError) failure {
		return failure{status: http.StatusGatewayTimeout, retryAfter: 30 * time.Second,
			what: "given up: " + e.Key + " arrives too slowly",
			why:  fmt.Sprintf("%d of %d bytes in %v; the whole zip would take longer than %v", e.Got, e.Size, e.Took, e.Limit),
			next: "try again; if it persists, check the upstream or choose another with --upstream"}
	}),
	as(func(_ *explained, e *content.OldAbsenceError) failure {
		return failure{status: http.StatusNotFound, noStore: true, what: "not found: " + e.Key,
			why: fmt.Sprintf("%s said so %s ago\nit is unreachable now, so this may be out of date",
				text.Clip(e.Upstreams, 200), e.Age.Round(time.Second)),
			next: "if it has been published since, try again when the upstream is back"}
	}),
	as(func(x *explained, _ *bindings.LimitError) failure {
		return failure{status: http.StatusForbidden, noStore: true,
			what: "too many module paths: " + x.req.Module + " is refused",
			why:  "the proxy records a limited number for each repository and host; known ones are still served",
			next: "contact this proxy's administrator: a page with wildcard paths may lead to the repository"}
	}),
	is(storage.ErrAway, always(failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, noStore: true,
		what: "unavailable: the object store of this proxy cannot be used now",
		why:  "what this server has on its own disk is still served",
		next: "try again in a few seconds; if it persists, contact this proxy's administrator, whose log has the reason"})),
	is(content.ErrOffline, func(x *explained) failure {
		return failure{status: http.StatusNotFound, what: "not found: " + text.Clip(x.path, 200),
			why: "it is not stored here, and this proxy has no upstream (--upstream off)"}
	}),
	is(content.ErrNotHeld, always(failure{status: http.StatusNotFound,
		what: "not found: temporarily unavailable",
		why:  "it is not stored here, and the request forbids fetching it"})),
	is(content.ErrNoDatabase, always(failure{status: http.StatusForbidden,
		what: "cannot verify: toolchains need a checksum database, and it is off",
		next: "start the proxy with a checksum database: --sumdb sum.golang.org"})),
	is(gate.ErrReloaded, always(failure{status: http.StatusServiceUnavailable, retryAfter: time.Second, noStore: true,
		what: "the proxy's settings changed during this request", next: "try again"})),
	is(places.ErrClientFull, always(failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
		what: "busy: this user or address has too many requests for objects that are not stored",
		why:  "the proxy limits concurrent fetches and divides them fairly among clients",
		next: "try again in a few seconds, with fewer concurrent requests"})),
	is(places.ErrFull, busy),
	is(places.ErrLate, busy),
	is(places.ErrYielded, yielded),
	is(places.ErrLeft, yielded),
	is(content.ErrStrays, always(failure{status: http.StatusServiceUnavailable, retryAfter: content.StrayTime, noStore: true,
		what: "too many requests for tiles beyond the end of the checksum database",
		why:  "tiles that this mirror holds or can prove are still served",
		next: "try again in a minute; if it persists, remove the file latest below $(go env GOPATH)/pkg/sumdb"})),
}

func busy(*explained) failure {
	return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
		what: "busy: too many objects are being fetched",
		next: "try again in a few seconds; stored objects are still served"}
}

func yielded(*explained) failure {
	return failure{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second,
		what: "busy: this slow fetch was stopped to make room for others",
		next: "try again in a few seconds; if it persists, check the upstream or choose another with --upstream"}
}

// changed says that a private version has other content than before. Each content has a
// line, with its source.
func changed(_ *explained, e *pinlog.ConflictError) failure {
	file, have, got := "zip", e.Have.Zip, e.Got.Zip
	if have == got {
		file, have, got = "go.mod", e.Have.Mod, e.Got.Mod
	}
	return failure{status: http.StatusForbidden, noStore: true,
		what: fmt.Sprintf("changed: the %s of %s differs from the one pinned on %s", file, e.Have.Module, e.Have.Time.UTC().Format(time.DateOnly)),
		why:  fmt.Sprintf("first %s from %s\nnow   %s from %s", have, text.Clip(e.Have.Source(), 140), got, text.Clip(e.Got.Source(), 140)),
		next: "do not use it; release a new version, or ask this proxy's administrator, who has the evidence"}
}

// absent says that an object does not exist, and which source states this.
func absent(x *explained) failure {
	f := failure{status: http.StatusNotFound, what: "not found: " + x.path}
	switch {
	case x.upstream != nil:
		f.why = text.Line(x.upstream.Source + ": " + x.upstream.Detail)
	case x.repo != nil:
		f.noStore = true // a push can end the absence
		detail := cmp.Or(x.repo.Detail, strings.TrimSuffix(x.repo.Err.Error(), ": "+fs.ErrNotExist.Error()))
		f.why = text.Line(strings.TrimPrefix(x.repo.Host+": "+detail, ": "))
	case x.req.Database != "":
		// The mirror's text has the age of the absence.
		f.why = text.Line(strings.TrimSuffix(x.err.Error(), ": "+fs.ErrNotExist.Error()))
	}
	return f
}

// internal is the failure for errors that only the log explains.
func internal(*explained) failure {
	return failure{status: http.StatusInternalServerError, what: "internal error",
		next: "contact this proxy's administrator with the request id; the log has the details"}
}

// why returns the error in one line.
func (x *explained) why() string { return text.Line(x.err.Error()) }

// retryAfter returns how long the upstream asks us to wait.
func (x *explained) retryAfter() time.Duration {
	if x.upstream == nil {
		return 0
	}
	return x.upstream.RetryAfter
}

// isShed reports whether err refuses a request because too much runs or waits.
func isShed(err error) bool {
	return slices.ContainsFunc([]error{
		places.ErrClientFull, places.ErrFull, places.ErrLate, places.ErrYielded, places.ErrLeft, memory.ErrFull, vcs.ErrBusy, content.ErrStrays,
	}, func(reason error) bool { return errors.Is(err, reason) })
}

// levelOf returns the level at which an error is logged: Error if an administrator must
// act, Warn if the problem passes.
func levelOf(err error) slog.Level {
	x := &explained{err: err}
	for _, l := range levels {
		for _, row := range l.rows {
			if row.matches(x) {
				return l.level
			}
		}
	}
	return slog.LevelError
}

// levels are the levels of errors. The first row that matches counts.
var levels = []struct {
	level slog.Level
	rows  []row
}{
	{slog.LevelError, []row{
		as[*panics.Error](nil), as[*content.MismatchError](nil), as[*pinlog.ConflictError](nil),
		is(sumdb.ErrFrozen, nil), is(storage.ErrDamaged, nil), when(content.IsFull, nil),
	}},
	{slog.LevelInfo, []row{is(errClient, nil), is(pinlog.ErrReadOnly, nil)}},
	{slog.LevelWarn, []row{
		is(fetch.ErrUnavailable, nil), is(context.DeadlineExceeded, nil), is(sumdb.ErrInvalid, nil),
		is(vcs.ErrUnavailable, nil), is(vcs.ErrCredential, nil), is(vcs.ErrForbidden, nil),
		is(vcs.ErrBusy, nil), is(vcs.ErrTools, nil), is(vcs.ErrTooLarge, nil),
		is(modzip.ErrShape, nil), is(content.ErrUnlisted, nil), is(content.ErrGarbage, nil), is(content.ErrTimeout, nil), is(fetch.ErrTooLarge, nil),
		is(storage.ErrAway, nil),
	}},
	{slog.LevelInfo, append(decisions, is(fetch.ErrRefused, nil))},
}
