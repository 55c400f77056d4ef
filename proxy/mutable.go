package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

const (
	// listLimit holds a list of 100,000 pseudo-versions.
	listLimit = 4 << 20

	// ListMemory is what the largest list takes of Memory.Fetches while it is cleaned
	// and kept.
	ListMemory = listLimit / 2 * listHalves

	// listHalves is how many halves of its size a list takes: it is there as it came,
	// where it is sorted too, and as versions, of which the shortest, v0.0.0 with its
	// newline, has 7 bytes and takes 8 and a string of 16. Then it is there four times:
	// as it is answered, encoded, as a value of the store and in its pages.
	listHalves = 9

	// revalidate is how old an answer may be to be given while it is being
	// refreshed. An older one is worth waiting for, so that somebody who
	// comes back after lunch sees the tag of this morning.
	revalidate = 10 * time.Minute
)

// mutableAnswer is a list, a latest version or what a branch points to, as an
// upstream had it.
type mutableAnswer struct {
	fetched time.Time
	body    []byte
}

// serveMutable answers with what may change: lists, latest versions, branches.
// The answer is at most Fresh old; or a little older while it is refreshed
// behind the client's back; or old if no upstream can be asked; or made from
// what is stored.
func (s *Server) serveMutable(a *answer, req request.Request) error {
	if a.unsure {
		if err := s.ascertainInTime(a, req); err != nil {
			return err
		}
	}
	if !s.reachable(a) {
		return s.serveLocal(a, req)
	}
	ctx, key := a.r.Context(), recordKey(req, a.private)
	held, err := s.mutable(a, key)
	if err != nil {
		return err
	}
	if a.unsure { // what is held may be from where the client may not read
		held = nil
	}
	age := held.age()
	if age < s.config.Fresh && !(a.private && held.before(s.lastPush(req.Module))) {
		a.result = resultHit
		return s.writeMutable(a, req, held)
	}
	if err := s.absent.find(key, a.private); err != nil {
		a.result = resultNegative
		return err
	}
	wait := s.config.Answer
	if age < s.config.Stale {
		wait = min(wait, s.config.Patience)
	}
	// A private module's next tag is pushed by a user of this proxy, whose client waits for it.
	if age < min(revalidate, s.config.Stale) && !a.private {
		if f, _, err := s.refresh(a, req); err == nil { // else there is too much to do for that now
			f.claim.Leave(s.client(a))
		}
		a.result = resultStale
		return s.writeMutable(a, req, held)
	}
	m, err := s.renew(a, req, wait)
	if err == nil {
		return s.writeMutable(a, req, m)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch err = s.veil(a, req, err); {
	case errors.Is(err, errHidden), errors.Is(err, fs.ErrNotExist), errors.Is(err, errReloaded):
		return err // an upstream that answers is right; what is held may be of another module now
	case age < s.config.Stale:
		s.log.Warn("serving stale answer: refresh failed", "path", req.Path(), "age_s", age.Round(time.Second).Seconds(), "err", err)
		a.result = resultStale
		return s.writeMutable(a, req, held)
	case errors.Is(err, vcs.ErrCredential), errors.Is(err, vcs.ErrForbidden), errors.Is(err, fetch.ErrRefused):
		return err // an answer from the store would hide what an administrator must see to
	}
	a.result = resultStale
	if s.serveLocal(a, req) == nil {
		s.log.Warn("serving answer from stored versions: refresh failed", "path", req.Path(), "err", err)
		return nil
	}
	a.result = resultUnknown
	return err
}

// renew returns a new answer, for which the client waits no longer than wait.
func (s *Server) renew(a *answer, req request.Request, wait time.Duration) (*mutableAnswer, error) {
	ctx, cancel := context.WithTimeoutCause(a.r.Context(), wait, errAnswer)
	defer cancel()
	if err := s.ascertain(ctx, a, req); err != nil {
		return nil, err
	}
	f, joined, err := s.refresh(a, req)
	if err != nil {
		return nil, err
	}
	defer f.claim.Leave(s.client(a))
	m, err := f.wait(ctx)
	if err != nil {
		return nil, err
	}
	a.result = resultMiss
	if joined {
		a.result = resultCoalesced
	}
	return m, s.admit(a, req) // where it is, is known only now
}

// before reports whether the answer is from before a push; the zero time is none. If
// the answer is from a time that is yet to come, the clock was set back, and nobody
// knows.
func (m *mutableAnswer) before(push time.Time) bool {
	return !push.IsZero() && (!m.fetched.After(push) || m.fetched.After(time.Now()))
}

// age returns how old the answer is; for ever if there is none, or if the clock
// has been set back behind it.
func (m *mutableAnswer) age() time.Duration {
	if m == nil {
		return 1<<63 - 1
	}
	age := time.Since(m.fetched)
	if age < -time.Minute {
		return 1<<63 - 1
	}
	return age
}

// refresh asks the upstream, once for all who ask at the same time. It goes on
// when they have left.
func (s *Server) refresh(a *answer, req request.Request) (f *flight[*mutableAnswer], joined bool, err error) {
	private, limit, of := a.private, smallFillTime, s.fills.small
	key := fmt.Sprint(recordKey(req, private), " ", s.settings.Load().number)
	if private {
		// A client that comes after a push must not have what was asked before it, and
		// a repository may have to be cloned first.
		key = fmt.Sprint(key, " ", s.lastPush(req.Module).UnixNano())
		limit, of = zipFillTime, s.fills.private
	}
	return share(s, &s.refreshing, claimOf(s.client(a), req), work[*mutableAnswer]{key, of, limit,
		func(ctx context.Context) (*mutableAnswer, error) { return s.fetchMutable(ctx, req, private) }})
}

// fetchMutable asks where the answer is to come from, checks what it says and keeps
// it.
func (s *Server) fetchMutable(ctx context.Context, req request.Request, private bool) (*mutableAnswer, error) {
	ask := s.askUpstream
	if private {
		ask = s.askRepository
	}
	begin := time.Now()
	m, err := ask(ctx, req)
	if err != nil {
		s.absent.note(recordKey(req, private), err, private, begin)
	}
	return m, err
}

// askUpstream gets an answer from the upstream, or where that says direct from the
// module's repository.
func (s *Server) askUpstream(ctx context.Context, req request.Request) (*mutableAnswer, error) {
	settings, err := s.still(req.Module, false)
	if err != nil {
		return nil, err
	}
	held := s.config.Memory.Fetches.HoldFor(ctx)
	defer held.Free()
	begin := time.Now()
	data, source, err := settings.upstream.ReadWith(held.Context(ctx), req.Path(), func(read fetch.Reader, source string) ([]byte, error) {
		data, err := read(req.Path(), listLimit)
		if req.Kind == request.Latest && errors.Is(err, fs.ErrNotExist) {
			return latestOfList(req.Module, read, source, err)
		}
		return data, err
	})
	if errors.Is(err, fetch.ErrDirect) {
		return s.askVCS(ctx, req, vcs.Public)
	}
	if err != nil {
		return nil, err
	}
	if err := held.Try(listHalves * int64(len(data)) / 2); err != nil {
		return nil, err
	}
	if req.Kind == request.List {
		data, err = cleanList(req.Module, data)
	} else {
		var version string
		if version, err = parseInfo(data); err == nil {
			err = module.Check(req.Module, version)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errGarbage, source, err)
	}
	return s.keepMutable(ctx, req, false, begin, data), nil
}

// askRepository gets an answer from the repository of a private module.
func (s *Server) askRepository(ctx context.Context, req request.Request) (*mutableAnswer, error) {
	return s.askVCS(ctx, req, vcs.Private)
}

// askVCS gets an answer from version control. What is asked for the list says the
// latest version too, and both are kept.
func (s *Server) askVCS(ctx context.Context, req request.Request, reach vcs.Reach) (*mutableAnswer, error) {
	private := reach == vcs.Private
	settings, err := s.still(req.Module, private)
	if err != nil {
		return nil, err
	}
	source := settings.vcs
	if source == nil {
		return nil, errNoVCS
	}
	if !private {
		if err := s.mayGoDirect(ctx, settings, req.Module); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	if req.Kind == request.Info {
		info, err := source.Query(ctx, req.Module, req.Version, reach)
		if err == nil {
			err = s.noteRead(ctx, req.Module, reach, info.Place)
		}
		if err != nil {
			return nil, err
		}
		s.noteMoved(req.Module, info, reach)
		return s.keepInfo(ctx, req, private, begin, info)
	}
	versions, err := source.Versions(ctx, req.Module, reach)
	if err == nil {
		err = s.noteRead(ctx, req.Module, reach, versions.Place)
	}
	if err != nil {
		return nil, err
	}
	s.noteMoved(req.Module, versions.Latest, reach)
	list := s.keepMutable(ctx, request.Request{Kind: request.List, Module: req.Module}, private, begin, appendList(nil, versions.Tagged))
	latest, err := (*mutableAnswer)(nil), versions.NoLatest
	if err == nil {
		latest, err = s.keepInfo(ctx, request.Request{Kind: request.Latest, Module: req.Module}, private, begin, versions.Latest)
	}
	if req.Kind == request.List {
		return list, nil
	}
	return latest, err
}

func (s *Server) keepInfo(ctx context.Context, req request.Request, private bool, begin time.Time, info vcs.Info) (*mutableAnswer, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return s.keepMutable(ctx, req, private, begin, data), nil
}

// recordKey returns the key of an answer that may change. What an upstream said of a
// module is kept apart from what its repository said when it was private: neither is
// ever given for the other. No module path begins with an element without a dot.
func recordKey(req request.Request, private bool) string {
	if private {
		return "private/" + req.Path()
	}
	return req.Path()
}

// keepMutable keeps an answer. It is as old as the question.
func (s *Server) keepMutable(ctx context.Context, req request.Request, private bool, begin time.Time, data []byte) *mutableAnswer {
	m, key := &mutableAnswer{begin, data}, recordKey(req, private)
	if err := s.store.SetRecord(ctx, storage.Key(key), m.encode()); err != nil {
		// The answer is good all the same; the next one asks again.
		s.log.Warn("answer not saved", "key", key, "err", err)
	}
	return m
}

// lastPush returns when the repository of a module was last said to have changed, the
// zero time if never.
func (s *Server) lastPush(modulePath string) time.Time {
	repo := ""
	if source := s.settings.Load().vcs; source != nil {
		repo = source.Repository(modulePath)
	}
	return s.pushes.of(repo)
}

// cleanList returns the tagged versions of an upstream's list, sorted. The
// go command asks for one more file when it sees a pseudo-version or a time in
// it, and ignores what is no version. A list of nothing but that is no list.
// The result is where data was: ListMemory counts on it.
func cleanList(modulePath string, data []byte) ([]byte, error) {
	const shortest = len("v0.0.0\n")
	versions := make([]string, 0, len(data)/shortest+1) // never more, so that it does not grow
	lines := 0
	for line := range bytes.Lines(data) {
		v := string(firstField(line))
		if v == "" {
			continue
		}
		lines++
		if module.CanonicalVersion(v) != v || module.IsPseudoVersion(v) || module.Check(modulePath, v) != nil {
			if semver.IsValid(v) {
				lines-- // a version, though none to list
			}
			continue
		}
		versions = append(versions, v)
	}
	if lines > 0 && len(versions) == 0 {
		return nil, fmt.Errorf("no version in %d lines", lines)
	}
	return appendList(data[:0], versions), nil
}

// firstField returns the first field of a line, which is its version; the second one is a
// time, for people. A line of millions of fields takes no memory.
func firstField(line []byte) []byte {
	line = bytes.TrimLeftFunc(line, unicode.IsSpace)
	if end := bytes.IndexFunc(line, unicode.IsSpace); end >= 0 {
		line = line[:end]
	}
	return line
}

// appendList sorts versions, each once, and appends them as lines to list.
func appendList(list []byte, versions []string) []byte {
	semver.Sort(versions)
	for _, v := range slices.Compact(versions) {
		list = append(append(list, v...), '\n')
	}
	return list
}

// writeMutable answers with m.
func (s *Server) writeMutable(a *answer, req request.Request, m *mutableAnswer) error {
	h := a.Header()
	h["Content-Type"] = contentTypes[req.Kind]
	if age := m.age(); age >= time.Second && age < s.config.Stale {
		h["Age"] = []string{strconv.Itoa(int(age / time.Second))}
	}
	h["Cache-Status"] = cacheStatus[a.result]
	h["Cache-Control"] = []string{"public, max-age=" + strconv.Itoa(int(s.config.Fresh/time.Second))}
	if a.private {
		h["Cache-Control"] = []string{"private, no-cache"} // else a push would not show
	}
	return writeBytes(a, m.body)
}

// writeBytes answers with body, whose hash is its ETag.
func writeBytes(a *answer, body []byte) error {
	if err := a.keep(len(body)); err != nil {
		return err
	}
	a.Header()["Etag"] = []string{etag(sha256.Sum256(body))}
	http.ServeContent(a.ResponseWriter, oneRange(a.r), "", time.Time{}, bytes.NewReader(body))
	return nil
}

// mutable returns the answer that is kept under key, nil if there is none. Until the
// request of a is over it counts as held.
func (s *Server) mutable(a *answer, key string) (*mutableAnswer, error) {
	data, err := s.readRecord(a, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeMutable(data)
	if err != nil {
		s.log.Warn("saved answer ignored", "key", key, "err", err)
		return nil, nil
	}
	return m, nil
}

// encode returns m as it is kept: the time in milliseconds since 1970, a newline,
// the body.
func (m *mutableAnswer) encode() []byte {
	data := strconv.AppendInt(nil, m.fetched.UnixMilli(), 10)
	return append(append(data, '\n'), m.body...)
}

func decodeMutable(data []byte) (*mutableAnswer, error) {
	millis, body, ok := bytes.Cut(data, []byte{'\n'})
	if !ok {
		return nil, errors.New("no time in it")
	}
	fetched, err := strconv.ParseInt(string(millis), 10, 64)
	if err != nil {
		return nil, err
	}
	return &mutableAnswer{time.UnixMilli(fetched), body}, nil
}

// readRecord returns a record of the store.
func (s *Server) readRecord(a *answer, key string) ([]byte, error) {
	s.reading <- struct{}{}
	defer func() { <-s.reading }()
	data, err := s.store.Record(a.r.Context(), storage.Key(key))
	if err == nil {
		err = a.keep(len(data))
	}
	return data, err
}
