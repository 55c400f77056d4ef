package vcs

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

const (
	pageLimit = 1 << 20
	pageTime  = 15 * time.Second

	// maxModule is the length of a module path, in bytes. The go command unpacks a module
	// below its path, and a file name has at most 260 characters on Windows by default, so
	// no module for general use has a longer path. But a page with wildcard paths has any
	// number of paths of 2,000 bytes, and each one that is read is remembered.
	maxModule = 300

	// foundFor is how long the repository of a module is remembered. It hardly ever
	// changes, and each look costs a request or two.
	foundFor = 5 * time.Minute
	maxFound = 10000
)

// resolver finds the repositories of modules.
type resolver struct {
	systems   []string // that may be used
	asker     *asker
	questions *questions
	pages     hostLimit // running requests
	found     memo.Map[foundKey, foundRepository]
}

// foundKey is a module and the reach of a fetch: a page that exists only in the intranet
// says nothing about a public module.
type foundKey struct {
	module string
	reach  Reach
}

type foundRepository struct {
	repo  *repository
	until time.Time
}

func newResolver(systems []string, a *asker, q *questions) *resolver {
	return &resolver{systems: systems, asker: a, questions: q, found: memo.Map[foundKey, foundRepository]{
		Limit: maxFound, Outdated: func(f foundRepository) bool { return time.Now().After(f.until) },
	}}
}

// known returns the repository of a module if it was found recently, nil otherwise.
func (r *resolver) known(modulePath string, reach Reach) *repository {
	found, ok := r.found.Get(foundKey{modulePath, reach})
	if !ok || time.Now().After(found.until) {
		return nil
	}
	return found.repo
}

// forget makes the next fetch of the module look for its repository again.
func (r *resolver) forget(j job) { r.found.Delete(foundKey{j.module, j.reach}) }

// forgetAll makes the next fetch of any module look for its repository again.
func (r *resolver) forgetAll() { r.found.Clear() }

// resolve returns the repository of a module as the go command would find it, and refuses
// one that must not be reached.
func (r *resolver) resolve(ctx context.Context, j job) (*repository, error) {
	if len(j.module) > maxModule {
		return nil, fmt.Errorf("%w: the module path has %d bytes; the limit for version control is %d", ErrForbidden, len(j.module), maxModule)
	}
	if repo := r.known(j.module, j.reach); repo != nil {
		return repo, nil
	}
	if err := checkHost(j.module); err != nil {
		return nil, err
	}
	repo, err := staticRepository(j.module)
	if repo == nil && err == nil {
		repo, err = r.discoverOnce(ctx, j)
	}
	if err != nil {
		return nil, err
	}
	if !slices.Contains(r.systems, repo.system) {
		return nil, fmt.Errorf("%w: the version control system %.40q is not in --vcs", ErrForbidden, repo.system)
	}
	r.found.Put(foundKey{j.module, j.reach}, foundRepository{repo, time.Now().Add(foundFor)})
	return repo, nil
}

// discoverOnce is discover, shared by concurrent callers.
func (r *resolver) discoverOnce(ctx context.Context, j job) (*repository, error) {
	host, _, _ := strings.Cut(j.module, "/")
	leave, err := r.pages.enter(ctx, host)
	if err != nil {
		return nil, err
	}
	defer leave()
	return share(ctx, r.questions, fmt.Sprint("page ", j.reach, " ", j.module), func(ctx context.Context) (*repository, error) {
		if repo := r.known(j.module, j.reach); repo != nil { // another caller has just found it
			return repo, nil
		}
		return r.discover(ctx, j)
	})
}

// discover requests the page of the module. What it says about a path above its own counts
// only if the page there says the same, so that no page speaks for others.
func (r *resolver) discover(ctx context.Context, j job) (*repository, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pageTime, context.DeadlineExceeded)
	defer cancel()
	tag, err := r.askPage(ctx, j, j.module)
	if err != nil {
		return nil, err
	}
	if tag.prefix != j.module {
		root, err := r.askPage(ctx, j, tag.prefix)
		if err != nil {
			return nil, err
		}
		if root != tag {
			return nil, fmt.Errorf("%w: the go-import pages of %.200q and %.200q name different repositories", ErrForbidden, j.module, tag.prefix)
		}
	}
	u, err := guard.CheckURL(tag.repo)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(tag.subdir, "/") || strings.HasPrefix(tag.subdir, "-") || strings.Contains(tag.subdir, "..") {
		return nil, fmt.Errorf("%w: subdirectory %.100q", ErrForbidden, tag.subdir)
	}
	return &repository{root: tag.prefix, system: tag.system, url: u, subdir: tag.subdir}, nil
}

// askPage returns the go-import tag for the module on the page of path.
func (r *resolver) askPage(ctx context.Context, j job, path string) (goImport, error) {
	host, rest, _ := strings.Cut(path, "/")
	u := &url.URL{Scheme: "https", Host: host, Path: "/" + rest, RawQuery: "go-get=1"}
	resp, err := r.asker.ask(ctx, j, u)
	if err != nil {
		return goImport{}, err
	}
	defer resp.Body.Close()
	imports, err := parseGoImports(io.LimitReader(resp.Body, pageLimit))
	if len(imports) == 0 {
		// A tag counts whatever the status is; without one the status says more than
		// the page.
		if statusErr := guard.StatusError(resp.StatusCode); statusErr != nil {
			return goImport{}, &guard.HostError{Host: host, Err: fmt.Errorf("status %d: %w", resp.StatusCode, statusErr)}
		}
	}
	if err != nil {
		return goImport{}, &guard.HostError{Host: host, Err: fmt.Errorf("the go-import page of %.200q cannot be read: %w", path, notfound.Stated)}
	}
	tag, err := matchGoImport(imports, j.module)
	if err != nil {
		return goImport{}, &guard.HostError{Host: host, Err: fmt.Errorf("%w on the page of %.200q: %w", err, path, notfound.Stated)}
	}
	return tag, nil
}

// place returns the place of the module of j in repo.
func (r *resolver) place(j job, repo *repository) Place {
	credentials := r.asker.credentials
	credential := credentials.Has(j.module, j.reach, repo.url) || !repo.static && r.pageCredential(j)
	repository := repo.canonical()
	if user := credentials.SSHUser(j.module, j.reach, repo.url); user != "" { // git uses SSH as this user instead of the https URL
		host, rest, _ := strings.Cut(repository, "/")
		repository = host + "/" + strings.TrimPrefix(rest, "~"+strings.ToLower(user)+"/")
	}
	return Place{Repository: repository, Credential: credential}
}

// pageCredential reports whether there is a credential for the host of the page of a
// module that needs one.
func (r *resolver) pageCredential(j job) bool {
	if repo, err := staticRepository(j.module); repo != nil || err != nil {
		return false
	}
	host, _, _ := strings.Cut(j.module, "/")
	return r.asker.credentials.Has(j.module, j.reach, &url.URL{Scheme: "https", Host: host})
}
