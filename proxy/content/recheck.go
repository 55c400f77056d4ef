package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
)

// infoSource fetches .info files of public modules from upstreams, and fetches them again
// later.
type infoSource struct {
	parts  *parts
	gate   *gate.Gate
	shelf  *shelf
	forget func(path string) // drops an object from the memory of the origin in force
}

// served fetches a served .info again if it is old.
func (s *infoSource) served(req request.Request, stored time.Time) {
	if s.parts.infos.due(stored) {
		s.recheck(req, "")
	}
}

// proved fetches the .info of a version from source, which sent a proved go.mod or zip of
// it, if the stored .info came from another upstream.
func (s *infoSource) proved(ctx context.Context, req request.Request, source string) {
	req.Kind = request.Info
	if !s.ofReplica(req) && s.shelf.has(ctx, req) {
		s.recheck(req, source)
	}
}

// ofReplica reports whether another replica may have fetched an .info, which must have been from the same upstream:
// there is only one.
func (s *infoSource) ofReplica(req request.Request) bool {
	settings, err := s.gate.Check(req.Module)
	return err == nil && s.parts.replicas.board.Shared() && settings.One() && s.parts.infos.source(req.Path()) == ""
}

// recheck fetches an .info again, from source if it is not "", and replaces the stored
// one if they differ. It does not wait for the result.
func (s *infoSource) recheck(req request.Request, source string) {
	key := req.Path()
	if !s.parts.infos.begin(key, source) {
		return
	}
	begun := s.parts.scope.Go(func(ctx context.Context) {
		defer s.parts.infos.end()
		ctx, cancel := context.WithTimeout(ctx, smallFillTime)
		defer cancel()
		next := infoTrust
		err := s.parts.scope.Guard(key, func() error { return s.ask(ctx, req, &source) })
		if err != nil && !errors.Is(err, fetch.ErrDirect) { // an .info from a repository has no upstream to ask
			next = infoPause
			s.parts.options.log.Debug("info not rechecked", "path", key, "err", err)
		}
		s.parts.infos.note(key, source, time.Now().Add(next))
	})
	if !begun {
		s.parts.infos.end()
	}
}

// ask does one fetch. It sets source to the upstream that answered.
func (s *infoSource) ask(ctx context.Context, req request.Request, source *string) error {
	memory := s.parts.options.memory.Fetches.Hold()
	defer memory.Free()
	data, from, err := s.fetch(memory.Context(ctx), req, *source)
	if err != nil {
		return err
	}
	*source = from
	defer s.forget(req.Path()) // a reader may still put the old one into memory
	held, err := s.shelf.read(ctx, req)
	if err != nil || bytes.Equal(held, data) {
		return err
	}
	if err := s.shelf.replace(ctx, req, infoOf(data, ""), bytes.NewReader(data)); err != nil {
		return err
	}
	s.parts.metrics.infosReplaced.Inc()
	s.parts.options.log.Warn("info replaced: the upstream's answer changed", "module", req.Module, "version", req.Version,
		"source", from, "before", text.Line(string(held)), "now", text.Line(string(data)))
	return nil
}

// fetch gets the .info of a canonical version, from any upstream or from source alone.
// The checksum database does not cover it, so fetch can only check that it is the .info
// of the requested version.
func (s *infoSource) fetch(ctx context.Context, req request.Request, source string) (data []byte, from string, err error) {
	ctx, chain, err := s.gate.Upstream(ctx, req.Module)
	if err != nil {
		return nil, "", err
	}
	key := req.Path()
	data, from, err = chain.ReadWith(ctx, key, func(read fetch.Reader, from string) ([]byte, error) {
		if source != "" && from != source {
			return nil, notfound.Stated // the next upstream may be source
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
