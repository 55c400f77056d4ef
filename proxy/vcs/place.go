package vcs

import (
	"context"
	"net/url"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// Place is where a module is, and with what it is read.
type Place struct {
	// Repository is host/path as CanonicalRepository returns it, "" if it was not
	// found.
	Repository string

	// Credential says that a credential is shown to the host of the repository, or
	// to that of the page which names it.
	Credential bool

	// Redirected is the repository to which the host has redirected git, "" if to none:
	// one that was renamed is found under its old name too.
	Redirected string

	// Declared is the module path in the go.mod file that was read, "" if there was
	// none.
	Declared string
}

// Locate returns the place of a module without asking its repository for anything. It
// asks the page of the module, if there must be one. Where open is true it shows no
// credential to the host of that page: if there is one for it, it says so in the Place
// and looks no further. Errors are those of Versions.
func (s *Source) Locate(ctx context.Context, modulePath string, reach Reach, open bool) (Place, error) {
	j := job{module: modulePath, what: modulePath, reach: reach}
	if open && s.pageCredential(j) {
		return Place{Credential: true}, nil
	}
	repo, err := s.resolve(ctx, j)
	if err != nil {
		return Place{}, s.explain(ctx, j, nil, err)
	}
	return s.placeOf(j, repo), nil
}

// placeOf returns the place of the module of j in repo.
func (s *Source) placeOf(j job, repo *repository) Place {
	credential := s.credentials.Has(j.module, j.reach, repo.url) || !repo.static && s.pageCredential(j)
	repository := repo.canonical()
	if user := s.credentials.SSHUser(j.module, j.reach, repo.url); user != "" { // git asks the https URL as this user by SSH
		host, rest, _ := strings.Cut(repository, "/")
		repository = host + "/" + strings.TrimPrefix(rest, "~"+strings.ToLower(user)+"/")
	}
	return Place{Repository: repository, Credential: credential}
}

// canonical is CanonicalRepository of the URL that the go command makes: of a path that
// ends with a system it is the one without.
func (r *repository) canonical() string {
	text := r.url.String()
	if r.static {
		text = strings.TrimSuffix(text, "."+r.system)
	}
	return CanonicalRepository(text)
}

// redirected returns the repository to which git was redirected in the run with this
// trace, "" if to none. git warns of it, and the trace has the warning with its format,
// which is not translated.
func redirected(trace string) string {
	for event := range traceEvents(trace) {
		if target, ok := strings.CutPrefix(event.Msg, "redirecting to "); ok && event.Event == "error" && event.Fmt == "redirecting to %s" {
			return CanonicalRepository(target)
		}
	}
	return ""
}

// pageCredential reports whether there is a credential for the host of the page of a
// module that needs one.
func (s *Source) pageCredential(j job) bool {
	if repo, err := staticRepository(j.module); repo != nil || err != nil {
		return false
	}
	host, _, _ := strings.Cut(j.module, "/")
	return s.credentials.Has(j.module, j.reach, &url.URL{Scheme: "https", Host: host})
}

// declared returns the module path in a go.mod file, "" if it is none.
func declared(goMod []byte) string {
	modulePath := modfile.ModulePath(goMod)
	if module.CheckImportPath(modulePath) != nil {
		return ""
	}
	return modulePath
}
