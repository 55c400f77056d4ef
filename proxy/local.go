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

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/storage"
)

// serveLocal answers a list or a latest version from the versions that are
// stored, and a query from what it answered last.
func (s *Server) serveLocal(a *answer, req Request) error {
	ctx := a.r.Context()
	m := new(mutableAnswer)
	switch req.Kind {
	case Info:
		held, err := s.mutable(ctx, recordKey(req, a.private))
		if err != nil {
			return err
		}
		if held == nil {
			return s.notHeld(a, req)
		}
		m = held
	case List:
		versions, err := s.heldVersions(ctx, req.Module, a.private)
		if err != nil {
			return err
		}
		if len(versions) == 0 {
			return s.notHeld(a, req)
		}
		m.body = formatList(slices.DeleteFunc(versions, module.IsPseudoVersion))
	case Latest:
		versions, err := s.heldVersions(ctx, req.Module, a.private)
		if err != nil {
			return err
		}
		if len(versions) == 0 {
			return s.notHeld(a, req)
		}
		if m.body, err = s.readStored(ctx, Request{Kind: Info, Module: req.Module, Version: s.newest(ctx, req.Module, versions, a.private)}, a.private); err != nil {
			return err
		}
	}
	if a.result == resultUnknown {
		a.result = resultHit
	}
	return s.writeMutable(a, req, m)
}

// notHeld is the answer for what only the store could answer and does not.
func (s *Server) notHeld(a *answer, req Request) error {
	if a.heldOnly {
		return errNotHeld
	}
	if a.private {
		pattern, _ := s.settings.Load().policy.Private(req.Module)
		return notFetched(req, pattern)
	}
	return &failure{status: http.StatusNotFound, what: "not found: " + clip(strings.TrimPrefix(a.r.URL.Path, "/"), 200),
		why: "it is not stored here, and this proxy has no upstream (--upstream off)", err: fs.ErrNotExist}
}

// heldVersions returns the versions of a module whose .info is stored, without
// which the go command cannot use one.
func (s *Server) heldVersions(ctx context.Context, modulePath string, private bool) ([]string, error) {
	prefix := strings.TrimSuffix(Request{Kind: List, Module: modulePath}.Path(), "list")
	var versions []string
	for info, err := range s.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		if private != (s.config.Log != nil && info.Proof == s.config.Log.Name()) {
			continue // from when the module was not what it is now
		}
		if req, err := ParsePath(info.Key); err == nil && req.Kind == Info && req.immutable() {
			versions = append(versions, req.Version)
		}
	}
	return versions, nil
}

// newest returns what the go command means by latest: the highest release, else
// the highest prerelease, else the newest pseudo-version. A +incompatible version
// counts only if the newest compatible one has no go.mod of its own
// (go.dev/ref/mod#non-module-compat).
func (s *Server) newest(ctx context.Context, modulePath string, versions []string, private bool) string {
	compatible := slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return semver.Build(v) == "+incompatible" })
	if len(compatible) > 0 && len(compatible) < len(versions) {
		best := highest(compatible)
		if mod, err := s.readStored(ctx, Request{Kind: Mod, Module: modulePath, Version: best}, private); err == nil && !madeUp(modulePath, mod) {
			return best
		}
	}
	return highest(versions)
}

func highest(versions []string) string {
	return slices.MaxFunc(versions, func(a, b string) int {
		if ca, cb := class(a), class(b); ca != cb {
			return ca - cb
		}
		return semver.Compare(a, b)
	})
}

func class(version string) int {
	switch {
	case module.IsPseudoVersion(version):
		return 0
	case semver.Prerelease(version) != "":
		return 1
	default:
		return 2
	}
}

// madeUp reports whether mod is the go.mod that stands for none.
func madeUp(modulePath string, mod []byte) bool {
	return string(mod) == "module "+modfile.AutoQuote(modulePath)+"\n"
}

// readStored returns the content of a stored object that is small.
func (s *Server) readStored(ctx context.Context, req Request, private bool) ([]byte, error) {
	key := req.Path()
	object, err := s.open(ctx, req, key, private)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	data, err := io.ReadAll(io.LimitReader(object, modLimit))
	if errors.Is(err, storage.ErrDamaged) {
		s.drop(ctx, key, err)
	}
	return data, err
}

// etag returns the strong entity tag of a body with the SHA-256 sum.
func etag(sum [sha256.Size]byte) string { return `"sha256:` + hex.EncodeToString(sum[:]) + `"` }
