package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// No database covers an .info, so the first upstream that is asked decides what its
// Time and Origin are. It must not decide that for ever: an .info is asked for again,
// behind the client's back, when it is older than infoTrust, when another upstream
// than its own has sent what was proved for the version, and after assay verify
// --repair. What comes replaces what is stored if it differs.

const (
	// infoTrust is how long an .info is given without asking again. One build a day
	// then costs one request for each version that it uses, which no client waits for.
	infoTrust = 24 * time.Hour

	// infoPause is the time between two questions about one .info.
	infoPause = time.Hour

	// maxRechecks bounds how many are asked for at the same time. Beyond it none is:
	// the next client that uses the version brings it up again.
	maxRechecks = 4

	// maxInfos bounds the memory to some 2 MiB, see maxAbsent.
	maxInfos = 10000

	// recheckRecord is the record with the time of assay verify --repair, in seconds
	// since 1970: an .info from before is asked for again.
	recheckRecord = "recheck/info"
)

// RecheckInfos makes a Server on the store ask again for every .info that is stored
// now, when it is used. It is for when the store is not in use.
func RecheckInfos(ctx context.Context, store storage.Store) error {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	return store.SetRecord(ctx, recheckRecord, []byte(now))
}

// infos are what is known of .info files while the program runs.
type infos struct {
	before time.Time // what is older than this is to be asked for again

	mu      sync.Mutex
	known   map[checkedKey]infoState // by key
	running int
}

// infoState is about one .info.
type infoState struct {
	source string    // the upstream that was asked last, "" if not known
	next   time.Time // its age does not count before
}

// newInfos reads what a run of assay verify has left.
func newInfos(ctx context.Context, store storage.Store) (*infos, error) {
	i := &infos{known: map[checkedKey]infoState{}}
	value, err := store.Record(ctx, recheckRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", recheckRecord, err)
	}
	i.before = time.Unix(seconds, 0)
	return i, nil
}

// note remembers that source was asked for the .info at key, whose age does not count
// before next.
func (i *infos) note(key, source string, next time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keep(key, infoState{source, next})
}

// keep is called with mu held.
func (i *infos) keep(key string, state infoState) {
	if len(i.known) >= maxInfos {
		clear(i.known)
	}
	i.known[checkedKeyOf(key)] = state
}

// due reports whether an .info that was stored at that time is to be asked for again
// by its age.
func (i *infos) due(stored time.Time) bool {
	return time.Since(stored) > infoTrust || !stored.After(i.before)
}

// begin reports whether the .info at key may be asked for again now: by its age if
// source is "", else because that upstream has sent what was proved for the version.
// If so, end must be called.
func (i *infos) begin(key, source string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	state := i.known[checkedKeyOf(key)]
	settled := state.source == source
	if source == "" {
		settled = time.Now().Before(state.next)
	}
	if settled || i.running >= maxRechecks {
		return false
	}
	state.next = time.Now().Add(infoPause) // it is being asked for
	if source != "" {
		state.source = source
	}
	i.keep(key, state)
	i.running++
	return true
}

func (i *infos) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.running--
}

// recheckOld asks again for a public .info that is served, if it is old.
func (s *Server) recheckOld(a *answer, req request.Request, stored time.Time) {
	if req.Kind != request.Info || a.private || !s.infos.due(stored) || !s.reachable(a) {
		return
	}
	s.recheck(req, "")
}

// recheckProved asks source, which has sent a go.mod or zip that was proved, for the
// .info of the version, if one is stored that came from another upstream.
func (s *Server) recheckProved(ctx context.Context, req request.Request, source string) {
	req.Kind = request.Info
	if _, err := s.store.Stat(ctx, storage.Key(req.Path())); err == nil {
		s.recheck(req, source)
	}
}

// recheck asks for an .info again, source if it is not "", and replaces the one that is
// stored if they differ. It does not wait for the answer.
func (s *Server) recheck(req request.Request, source string) {
	key := req.Path()
	if !s.infos.begin(key, source) {
		return
	}
	s.running.Go(func() {
		defer s.infos.end()
		ctx, cancel := context.WithTimeout(s.ctx, smallFillTime)
		defer cancel()
		next := infoPause
		err := s.guard(key, func() error { return s.recheckInfo(ctx, req, &source) })
		switch {
		case err == nil, errors.Is(err, fetch.ErrDirect): // that one came from its repository
			next = infoTrust
		default:
			s.log.Debug("info not rechecked", "path", key, "err", err)
		}
		s.infos.note(key, source, time.Now().Add(next))
	})
}

// recheckInfo is one question. It sets source to the upstream that has answered.
func (s *Server) recheckInfo(ctx context.Context, req request.Request, source *string) error {
	memory := s.config.Memory.Fetches.Hold()
	defer memory.Free()
	data, from, err := s.fetchInfo(memory.Context(ctx), req, *source)
	if err != nil {
		return err
	}
	*source = from
	defer s.hot.forget(req.Path()) // a reader may still put the old one there
	held, err := s.readStored(ctx, req, false)
	if err != nil || bytes.Equal(held, data) {
		return err
	}
	if _, err := s.still(req.Module, false); err != nil {
		return err
	}
	if err := s.store.Replace(ctx, infoOf(req, data), bytes.NewReader(data)); err != nil {
		return err
	}
	s.metrics.infosReplaced.Inc()
	s.log.Warn("info replaced: the upstream's answer changed", "module", req.Module, "version", req.Version,
		"source", from, "before", oneLine(string(held)), "now", oneLine(string(data)))
	return nil
}

// fetchInfo gets the .info of a canonical version, from any upstream or from source
// alone. The checksum database does not cover it, so what can be checked is that it is
// the .info of the version that was asked for.
func (s *Server) fetchInfo(ctx context.Context, req request.Request, source string) (data []byte, from string, err error) {
	settings, err := s.still(req.Module, false)
	if err != nil {
		return nil, "", err
	}
	key := req.Path()
	data, from, err = settings.upstream.ReadWith(ctx, key, func(read fetch.Reader, from string) ([]byte, error) {
		if source != "" && from != source {
			return nil, fs.ErrNotExist // the next entry may be it
		}
		return read(key, infoLimit)
	})
	if err != nil {
		return nil, "", err
	}
	version, err := parseInfo(data)
	if err == nil && version != req.Version {
		err = fmt.Errorf("the info is of version %q", version)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%w: %s: %w", errGarbage, from, err)
	}
	return data, from, nil
}

// infoOf describes an .info for the store.
func infoOf(req request.Request, data []byte) storage.Info {
	return storage.Info{Key: storage.Key(req.Path()), Size: int64(len(data)), Hash: fmt.Sprintf("sha256:%x", sha256.Sum256(data))}
}
