package proxy

import (
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/request"
)

// admitReader returns an error if the client may not read a private module. The error
// is the same whatever there is and whatever was wrong: it comes before anything is
// looked for. It notes in a if where the module is has to be found out first.
func (s *Server) admitReader(a *answer, req request.Request, st *settings) error {
	in, v := noGroup, s.judge(st, req.Module, true, noGroup)
	// With a credential, it may be a token that is good for other modules only.
	if v == refused || a.r.Header["Authorization"] != nil {
		id := s.identify(a)
		if !id.Covers(req.Module) {
			return s.refuse(a, req)
		}
		in = inGroup(id)
		v = s.judge(st, req.Module, true, in)
	}
	if v == refused {
		if covered, mayRead := st.privacy.Read(req.Module, in); mayRead { // it is its repository that is protected
			s.pretend(a, st, req, covered)
			s.sayWhy(a, req, covered)
		}
		return s.refuse(a, req)
	}
	a.unsure = v == unsure
	return nil
}

// admitByPath is admitReader for an answer that does not depend on what the module is: it
// looks at the rules about its path alone.
func (s *Server) admitByPath(a *answer, req request.Request, p *privacy.Policy) error {
	if a.r.Header["Authorization"] == nil && !p.Restricted(req.Module) {
		return nil
	}
	if id := s.identify(a); !id.Covers(req.Module) || !p.Allowed(req.Module, inGroup(id)) {
		return s.refuse(a, req)
	}
	return nil
}

// inGroup returns what a policy asks about a reader.
func inGroup(id access.Identity) func(string) bool {
	return func(group string) bool {
		return group == privacy.Authenticated && !id.Anonymous() || id.In(group)
	}
}

// identify returns who a request is from. A client whose credential is wrong, or cannot
// be judged, is anonymous; why is for the log.
func (s *Server) identify(a *answer) access.Identity {
	if a.identity == nil {
		id := s.identifyOnce(a)
		a.identity = &id
	}
	return *a.identity
}

func (s *Server) identifyOnce(a *answer) access.Identity {
	if s.config.Access == nil {
		return access.Identity{}
	}
	id, err := s.config.Access.Identify(a.r)
	if err == nil {
		return id
	}
	request, client := a.Header().Get("X-Request-Id"), s.config.Remote(a.r)
	if errors.Is(err, access.ErrUnavailable) {
		s.log.Warn("credential could not be checked", "request", request, "client", client, "err", err)
	} else {
		s.log.Info("credential refused", "request", request, "client", client, "err", err)
	}
	return id
}

// hidden is the answer for what a client may not read. It must not depend on
// anything but the path.
func hidden(path string) error {
	return &failure{
		status: http.StatusNotFound, noStore: true,
		what: "not found: " + clip(path, 200),
		next: "if it is private, check the credentials that the go command sends: go help goauth",
		err:  errHidden,
	}
}

// notFetched is the answer for a private module that this proxy does not have and
// cannot get.
func notFetched(req request.Request, pattern string) error {
	return &failure{
		status: http.StatusNotFound, noStore: true,
		what: "not found: " + req.Module + " is private here (pattern " + pattern + ")",
		why:  "fetching private modules is disabled (--vcs off), and their names are never sent to an upstream",
		next: privacy.ClientAdvice("GOPRIVATE", pattern, req.Module),
	}
}

// hostOf returns the host of an address host:port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return strings.TrimPrefix(host, "::ffff:")
}
