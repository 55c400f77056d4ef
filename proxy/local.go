package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// serveLocal answers a list or a latest version from the versions that are
// stored, and a query from what it answered last.
func (s *Server) serveLocal(a *answer, req request.Request) error {
	if a.unsure { // what is held may be from where the client may not read
		return s.notHeld(a, req)
	}
	ctx := a.r.Context()
	m := new(mutableAnswer)
	switch req.Kind {
	case request.Info:
		held, err := s.mutable(a, recordKey(req, a.private))
		if err != nil {
			return err
		}
		if held == nil {
			return s.notHeld(a, req)
		}
		m = held
	case request.List:
		versions, err := s.heldVersions(ctx, req.Module, a.private)
		if err != nil {
			return err
		}
		if len(versions) == 0 {
			return s.notHeld(a, req)
		}
		m.body = appendList(nil, slices.DeleteFunc(versions, module.IsPseudoVersion))
	case request.Latest:
		versions, err := s.heldVersions(ctx, req.Module, a.private)
		if err != nil {
			return err
		}
		if len(versions) == 0 {
			return s.notHeld(a, req)
		}
		latest, err := candidatesOf(slices.Values(versions)).latest(req.Module, func(version string) ([]byte, error) {
			return s.readStored(ctx, request.Request{Kind: request.Mod, Module: req.Module, Version: version}, a.private)
		})
		if err != nil {
			return err
		}
		if m.body, err = s.readStored(ctx, request.Request{Kind: request.Info, Module: req.Module, Version: latest}, a.private); err != nil {
			return err
		}
	}
	if a.result == resultUnknown {
		a.result = resultHit
	}
	return s.writeMutable(a, req, m)
}

// notHeld is the answer for what only the store could answer and does not.
func (s *Server) notHeld(a *answer, req request.Request) error {
	if a.heldOnly {
		return errNotHeld
	}
	if a.private {
		pattern, _ := s.settings.Load().privacy.Private(req.Module)
		return notFetched(req, pattern)
	}
	return &failure{status: http.StatusNotFound, what: "not found: " + clip(strings.TrimPrefix(a.r.URL.Path, "/"), 200),
		why: "it is not stored here, and this proxy has no upstream (--upstream off)", err: fs.ErrNotExist}
}

// heldVersions returns the versions of a module whose .info is stored, without
// which the go command cannot use one.
func (s *Server) heldVersions(ctx context.Context, modulePath string, private bool) ([]string, error) {
	dir := strings.TrimSuffix(request.Request{Kind: request.List, Module: modulePath}.Path(), "/list")
	prefix := storage.Prefix(dir)
	var versions []string
	for info, err := range s.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		if private != (s.config.Log != nil && info.Proof == s.config.Log.Name()) {
			continue // from when the module was not what it is now
		}
		if req, err := request.Parse(dir + "/" + info.Key[len(prefix):]); err == nil && req.Kind == request.Info && req.Immutable() {
			versions = append(versions, req.Version)
		}
	}
	return versions, nil
}

// readStored returns the content of a stored object that is small.
func (s *Server) readStored(ctx context.Context, req request.Request, private bool) ([]byte, error) {
	key := req.Path()
	object, err := s.open(ctx, nil, req, key, private)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	data, err := io.ReadAll(io.LimitReader(object, infoLimit)) // of a go.mod, enough to see what it is
	if errors.Is(err, storage.ErrDamaged) {
		s.drop(ctx, key, err)
	}
	return data, err
}

// etag returns the strong entity tag of a body with the SHA-256 sum.
func etag(sum [sha256.Size]byte) string { return `"sha256:` + hex.EncodeToString(sum[:]) + `"` }
