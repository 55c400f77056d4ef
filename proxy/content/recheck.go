package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// infoSource gets .info files of public modules from upstreams, and asks for them again.
type infoSource struct {
	parts  *parts
	gate   *gate.Gate
	shelf  *shelf
	forget func(path string) // what the origin in force has in memory
}

// served asks again for an .info that is served, if it is old.
func (s *infoSource) served(req request.Request, stored time.Time) {
	if s.parts.infos.due(stored) {
		s.recheck(req, "")
	}
}

// proved asks source, which has sent a go.mod or zip that was proved, for the
// .info of the version, if one is stored that came from another upstream.
func (s *infoSource) proved(ctx context.Context, req request.Request, source string) {
	req.Kind = request.Info
	if s.shelf.has(ctx, req) {
		s.recheck(req, source)
	}
}

// recheck asks for an .info again, source if it is not "", and replaces the one that is
// stored if they differ. It does not wait for the answer.
func (s *infoSource) recheck(req request.Request, source string) {
	key := req.Path()
	if !s.parts.infos.begin(key, source) {
		return
	}
	s.parts.scope.Go(func(ctx context.Context) {
		defer s.parts.infos.end()
		ctx, cancel := context.WithTimeout(ctx, smallFillTime)
		defer cancel()
		next := infoPause
		err := s.parts.scope.Guard(key, func() error { return s.ask(ctx, req, &source) })
		switch {
		case err == nil, errors.Is(err, fetch.ErrDirect): // that one came from its repository
			next = infoTrust
		default:
			s.parts.options.log.Debug("info not rechecked", "path", key, "err", err)
		}
		s.parts.infos.note(key, source, time.Now().Add(next))
	})
}

// ask is one question. It sets source to the upstream that has answered.
func (s *infoSource) ask(ctx context.Context, req request.Request, source *string) error {
	memory := s.parts.options.memory.Fetches.Hold()
	defer memory.Free()
	data, from, err := s.fetch(memory.Context(ctx), req, *source)
	if err != nil {
		return err
	}
	*source = from
	defer s.forget(req.Path()) // a reader may still put the old one there
	held, err := s.shelf.read(ctx, req)
	if err != nil || bytes.Equal(held, data) {
		return err
	}
	info := infoOf(data, "")
	info.Key = storage.Key(req.Path())
	if err := s.shelf.replace(ctx, req, info, bytes.NewReader(data)); err != nil {
		return err
	}
	s.parts.metrics.infosReplaced.Inc()
	s.parts.options.log.Warn("info replaced: the upstream's answer changed", "module", req.Module, "version", req.Version,
		"source", from, "before", text.Line(string(held)), "now", text.Line(string(data)))
	return nil
}

// fetch gets the .info of a canonical version, from any upstream or from source
// alone. The checksum database does not cover it, so what can be checked is that it is
// the .info of the version that was asked for.
func (s *infoSource) fetch(ctx context.Context, req request.Request, source string) (data []byte, from string, err error) {
	chain, err := s.gate.Upstream(req.Module)
	if err != nil {
		return nil, "", err
	}
	key := req.Path()
	data, from, err = chain.ReadWith(ctx, key, func(read fetch.Reader, from string) ([]byte, error) {
		if source != "" && from != source {
			return nil, fs.ErrNotExist // the next entry may be it
		}
		return read(key, infoLimit)
	})
	if err != nil {
		return nil, "", said(err)
	}
	version, err := parseInfo(data)
	if err == nil && version != req.Version {
		err = fmt.Errorf("the info is of version %q", version)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%w: %s: %w", ErrGarbage, from, err)
	}
	return data, from, nil
}
