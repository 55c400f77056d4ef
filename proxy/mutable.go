package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

const (
	// listLimit holds a list of 100,000 pseudo-versions.
	listLimit = 4 << 20

	// revalidate is how old an answer may be to be given while it is being
	// refreshed. An older one is worth waiting for, so that somebody who
	// comes back after lunch sees the tag of this morning.
	revalidate = 10 * time.Minute

	// patience is how long a client waits for a refresh when there is a
	// stale answer to give.
	patience = 5 * time.Second
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
func (s *Server) serveMutable(a *answer, req Request) error {
	if a.heldOnly || s.isolated() {
		return s.serveLocal(a, req)
	}
	ctx, key := a.r.Context(), req.Path()
	held, err := s.mutable(ctx, key)
	if err != nil {
		return err
	}
	age := held.age()
	if age < s.config.Fresh {
		a.result = resultHit
		return s.writeMutable(a, req, held)
	}
	if err := s.absent.find(key); err != nil {
		a.result = resultNegative
		return err
	}
	refreshed := s.refresh(req)
	wait := s.config.Answer
	if age < s.config.Stale {
		wait = patience
	}
	if age < min(revalidate, s.config.Stale) {
		a.result = resultStale
		return s.writeMutable(a, req, held)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	err = errAnswer
	select {
	case r := <-refreshed:
		if err = r.Err; err == nil {
			a.result = resultMiss
			if r.Shared {
				a.result = resultCoalesced
			}
			return s.writeMutable(a, req, r.Val.(*mutableAnswer))
		}
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err // an upstream that answers is right
	case age < s.config.Stale:
		a.result = resultStale
		return s.writeMutable(a, req, held)
	case s.serveLocal(a, req) == nil:
		return nil
	}
	return err
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

// refreshResult is what comes of a refresh.
type refreshResult struct {
	Val    any
	Err    error
	Shared bool // somebody else has asked first
}

// refresh asks the upstream, once for all who ask at the same time. It goes on
// when they have left.
func (s *Server) refresh(req Request) <-chan refreshResult {
	out := make(chan refreshResult, 1)
	s.running.Add(1)
	first := false // singleflight's own Shared is true for the first one too
	ch := s.refreshing.DoChan(req.Path(), func() (m any, err error) {
		first = true
		ctx, cancel := context.WithTimeout(s.ctx, smallFillTime)
		defer cancel()
		err = guard(func() (err error) {
			m, err = s.fetchMutable(ctx, req)
			return err
		})
		return m, err
	})
	go func() {
		defer s.running.Done()
		r := <-ch
		out <- refreshResult{r.Val, r.Err, !first}
	}()
	return out
}

// fetchMutable asks the upstream, checks what it says and keeps it.
func (s *Server) fetchMutable(ctx context.Context, req Request) (*mutableAnswer, error) {
	select {
	case s.fills.small <- struct{}{}:
		defer func() { <-s.fills.small }()
	case <-ctx.Done():
		return nil, errBusy
	}
	key := req.Path()
	data, source, err := s.settings.Load().upstream.ReadAll(ctx, key, listLimit)
	if err != nil {
		s.absent.note(key, err)
		return nil, err
	}
	if req.Kind == List {
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
	m := &mutableAnswer{time.Now(), data}
	if err := s.store.SetRecord(ctx, key, m.encode()); err != nil {
		// The answer is good all the same; the next one asks upstream again.
		s.log.Warn("answer not kept", "key", key, "err", err)
	}
	return m, nil
}

// cleanList returns the tagged versions of an upstream's list, sorted. The
// go command asks for one more file when it sees a pseudo-version or a time in
// it, and ignores what is no version. A list of nothing but that is no list.
func cleanList(modulePath string, data []byte) ([]byte, error) {
	var versions []string
	lines := 0
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		lines++
		v := fields[0]
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
	return formatList(versions), nil
}

func formatList(versions []string) []byte {
	semver.Sort(versions)
	var b bytes.Buffer
	for _, v := range slices.Compact(versions) {
		b.WriteString(v)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// writeMutable answers with m.
func (s *Server) writeMutable(a *answer, req Request, m *mutableAnswer) error {
	h := a.Header()
	h["Content-Type"] = contentTypes[req.Kind]
	if age := m.age(); age >= time.Second && age < s.config.Stale {
		h["Age"] = []string{strconv.Itoa(int(age / time.Second))}
	}
	h["Cache-Status"] = cacheStatus[a.result]
	h["Cache-Control"] = []string{"public, max-age=" + strconv.Itoa(int(s.config.Fresh/time.Second))}
	return writeBytes(a, m.body)
}

// writeBytes answers with body, whose hash is its ETag.
func writeBytes(a *answer, body []byte) error {
	a.Header()["Etag"] = []string{etag(body)}
	http.ServeContent(a.ResponseWriter, a.r, "", time.Time{}, bytes.NewReader(body))
	return nil
}

// mutable returns the answer that is kept under key, nil if there is none.
func (s *Server) mutable(ctx context.Context, key string) (*mutableAnswer, error) {
	data, err := s.store.Record(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeMutable(data)
	if err != nil {
		s.log.Warn("kept answer ignored", "key", key, "err", err)
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
