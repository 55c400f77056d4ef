package vcs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// repository is where a module is.
type repository struct {
	root   string // of the module paths in it
	system string
	url    *url.URL // https or ssh, without credentials
	subdir string   // of the module at root
	static bool     // the go command knows it without asking
}

// The hosts that the go command knows (cmd/go/internal/vcs, vcsPaths), as far as
// they are still there, and its rule for paths that name the system themselves.
var (
	knownHosts = map[string]bool{"github.com": true, "bitbucket.org": true}
	knownPath  = regexp.MustCompile(`^[\w.\-]+/[\w.\-]+/[\w.\-]+(/[\w.\-]+)*$`)
	qualified  = regexp.MustCompile(`^((?:[a-z0-9.\-]+\.)+[a-z0-9.\-]+(?:/~?[\w.\-]+)+?\.(bzr|fossil|git|hg|svn))(?:/~?[\w.\-]+)*$`)
)

const (
	pageLimit = 1 << 20
	pageTime  = 15 * time.Second

	// foundFor is how long a module's repository counts as known. Where it is
	// hardly ever changes, and each look costs a request or two.
	foundFor = 5 * time.Minute
	maxFound = 10000
)

// resolve returns the repository of a module, as the go command would find it, and
// refuses what must not be reached.
func (s *Source) resolve(ctx context.Context, j job) (*repository, error) {
	if len(j.module) > maxModule {
		return nil, fmt.Errorf("%w: the module path has %d bytes; the limit for version control is %d", ErrForbidden, len(j.module), maxModule)
	}
	if repo := s.found.get(j.module, j.reach); repo != nil {
		return repo, nil
	}
	if err := checkHost(j.module); err != nil {
		return nil, err
	}
	repo, err := staticRepository(j.module)
	if repo == nil && err == nil {
		repo, err = s.discoverOnce(ctx, j)
	}
	if err != nil {
		return nil, err
	}
	if !slices.Contains(s.config.Systems, repo.system) {
		return nil, fmt.Errorf("%w: the version control system %.40q is not in --vcs", ErrForbidden, repo.system)
	}
	s.found.put(j, repo)
	return repo, nil
}

// checkHost refuses module paths whose host is no name. The go command asks
// loopback addresses without the proxy that it is told to use, so that they would
// not come to our door.
func checkHost(modulePath string) error {
	host, _, _ := strings.Cut(modulePath, "/")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if !strings.Contains(host, ".") || strings.Trim(last, "0123456789") == "" || last == "localhost" {
		return fmt.Errorf("%w: %.100q is not a host name", ErrForbidden, host)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return fmt.Errorf("%w: %.100q is not a host name", ErrForbidden, host)
	}
	return nil
}

// staticRepository returns the repository of a path that says where it is, nil if
// it does not.
func staticRepository(modulePath string) (*repository, error) {
	elements := strings.SplitN(modulePath, "/", 4)
	if knownHosts[elements[0]] {
		if !knownPath.MatchString(modulePath) {
			return nil, fmt.Errorf("%s has no repositories at this path: %w", elements[0], fs.ErrNotExist)
		}
		root := strings.Join(elements[:3], "/")
		u, err := checkURL("https://" + root)
		return &repository{root: root, system: "git", url: u, static: true}, err
	}
	if m := qualified.FindStringSubmatch(modulePath); m != nil {
		u, err := checkURL("https://" + m[1])
		return &repository{root: m[1], system: m[2], url: u, static: true}, err
	}
	return nil, nil
}

// discoverOnce is discover for all who want to know the same at the same time.
func (s *Source) discoverOnce(ctx context.Context, j job) (*repository, error) {
	host, _, _ := strings.Cut(j.module, "/")
	leave, err := s.asking.enter(ctx, host)
	if err != nil {
		return nil, err
	}
	defer leave()
	return shared(ctx, s, fmt.Sprint("page ", j.reach, " ", j.module), func(ctx context.Context) (*repository, error) {
		if repo := s.found.get(j.module, j.reach); repo != nil { // another one has just found it
			return repo, nil
		}
		return s.discover(ctx, j)
	})
}

// discover asks the host of the path. What a page says about paths above its own
// counts only if the page there says the same, so that no page speaks for others.
func (s *Source) discover(ctx context.Context, j job) (*repository, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pageTime, context.DeadlineExceeded)
	defer cancel()
	tag, err := s.askPage(ctx, j, j.module)
	if err != nil {
		return nil, err
	}
	if tag.prefix != j.module {
		root, err := s.askPage(ctx, j, tag.prefix)
		if err != nil {
			return nil, err
		}
		if root != tag {
			return nil, fmt.Errorf("%w: the go-import pages of %.200q and %.200q name different repositories", ErrForbidden, j.module, tag.prefix)
		}
	}
	u, err := checkURL(tag.repo)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(tag.subdir, "/") || strings.HasPrefix(tag.subdir, "-") || strings.Contains(tag.subdir, "..") {
		return nil, fmt.Errorf("%w: subdirectory %.100q", ErrForbidden, tag.subdir)
	}
	return &repository{root: tag.prefix, system: tag.system, url: u, subdir: tag.subdir}, nil
}

// askPage returns the go-import tag for the module on the page of path.
func (s *Source) askPage(ctx context.Context, j job, path string) (goImport, error) {
	host, rest, _ := strings.Cut(path, "/")
	u := &url.URL{Scheme: "https", Host: host, Path: "/" + rest, RawQuery: "go-get=1"}
	resp, err := s.ask(ctx, j, u)
	if err != nil {
		return goImport{}, err
	}
	defer resp.Body.Close()
	imports, err := parseGoImports(io.LimitReader(resp.Body, pageLimit))
	if len(imports) == 0 {
		// Whatever the status, a tag counts; without one the status says more
		// than the page.
		if statusErr := statusError(resp.StatusCode); statusErr != nil {
			return goImport{}, &hostError{host, fmt.Errorf("status %d: %w", resp.StatusCode, statusErr)}
		}
	}
	if err != nil {
		return goImport{}, &hostError{host, fmt.Errorf("the go-import page of %.200q cannot be read: %w", path, fs.ErrNotExist)}
	}
	tag, err := matchGoImport(imports, j.module)
	if err != nil {
		return goImport{}, &hostError{host, fmt.Errorf("%w on the page of %.200q: %w", err, path, fs.ErrNotExist)}
	}
	return tag, nil
}

// ask sends a request of our own to a host, with the credential for it.
func (s *Source) ask(ctx context.Context, j job, u *url.URL) (*http.Response, error) {
	r, err := http.NewRequestWithContext(context.WithValue(ctx, reachKey{}, j.reach), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %.200q is not a URL", ErrForbidden, u.Redacted())
	}
	auth, err := s.credentials.find(ctx, j, u)
	if err != nil {
		return nil, err
	}
	if auth != nil && auth.header != "" {
		r.Header.Set("Authorization", auth.header)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, &hostError{u.Host, networkError(err)}
	}
	return resp, nil
}

// statusError says what a status means for a repository or a page, nil for success.
func statusError(status int) error {
	switch {
	case status < 400:
		return nil
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return ErrCredential
	case status == http.StatusTooManyRequests, status >= 500:
		return ErrUnavailable
	}
	return fs.ErrNotExist
}

// networkError makes an error of net/http one of ours.
func networkError(err error) error {
	var (
		wrapped     *url.Error
		timeout     net.Error
		certificate *tls.CertificateVerificationError
	)
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL
	}
	switch {
	case errors.Is(err, ErrForbidden), errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.DeadlineExceeded)
	case errors.As(err, &certificate):
		return fmt.Errorf("its certificate was rejected: %w", &unreachableError{err})
	}
	return &unreachableError{err}
}

// hostError is an error at a host.
type hostError struct {
	host string
	err  error
}

func (e *hostError) Error() string { return e.host + ": " + e.err.Error() }
func (e *hostError) Unwrap() error { return e.err }

var (
	hostName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.\-]*[a-zA-Z0-9])?$`)
	userName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.\-]*$`)
	repoPath = regexp.MustCompile(`^(/[\w.~+@][\w.~+@\- ]*)+/?$`)
)

// checkURL parses the URL of a repository and refuses whatever could be anything
// else, for git or for ssh: another scheme, a password, a dash at the beginning
// of a part.
func checkURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the repository is not a URL", ErrForbidden)
	}
	if u.Scheme == "git+ssh" {
		u.Scheme = "ssh"
	}
	port := u.Port()
	_, noAddress := netip.ParseAddr(u.Hostname())
	_, hasPassword := u.User.Password()
	switch {
	case len(u.String()) > maxModule:
		return nil, fmt.Errorf("%w: the URL of the repository has more than %d bytes", ErrForbidden, maxModule)
	case u.Scheme != "https" && u.Scheme != "ssh":
		return nil, fmt.Errorf("%w: the repository has the scheme %.20q; only https and ssh are allowed", ErrForbidden, u.Scheme)
	case hasPassword || u.Scheme == "https" && u.User != nil || u.User != nil && !userName.MatchString(u.User.Username()):
		return nil, fmt.Errorf("%w: the URL of the repository contains credentials", ErrForbidden)
	case noAddress != nil && !hostName.MatchString(u.Hostname()), strings.Contains(u.Hostname(), "%"):
		return nil, fmt.Errorf("%w: invalid host of a repository: %.60q", ErrForbidden, u.Host)
	case strings.Trim(port, "0123456789") != "" || strings.HasSuffix(u.Host, ":"):
		return nil, fmt.Errorf("%w: invalid port of a repository: %.20q", ErrForbidden, port)
	case !repoPath.MatchString(u.Path) || strings.Contains(u.Path+"/", "/../") || strings.Contains(u.Path+"/", "/./"):
		return nil, fmt.Errorf("%w: invalid path of a repository: %.100q", ErrForbidden, u.Path)
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || u.Opaque != "":
		return nil, fmt.Errorf("%w: the URL of a repository must not have a query", ErrForbidden)
	}
	return u, nil
}

// CanonicalRepository returns what is the same in all URLs of a repository:
// host/path in lower case, without port, user, scheme and any .git at the end, whether
// the path begins in the home directory of an SSH user or not. git servers find X also as
// X.git and X/.git, and the go command looks for X.git where a module path has X.git.git. It
// returns "" for what is no URL, or names no repository.
func CanonicalRepository(text string) string {
	if !strings.Contains(text, "://") { // git@host:path
		if user, rest, ok := strings.Cut(text, "@"); ok && !strings.ContainsAny(user, "/:") {
			text = "ssh://" + user + "@" + strings.Replace(rest, ":", "/", 1)
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") == "" {
		return ""
	}
	repo := strings.ToLower(strings.TrimPrefix(path.Clean("/"+u.Path), "/"))
	for more := true; more; {
		repo, more = strings.CutSuffix(strings.TrimRight(repo, "/"), ".git")
	}
	repo = strings.TrimPrefix(repo, "~/")
	if user := u.User.Username(); user != "" {
		repo = strings.TrimPrefix(repo, "~"+strings.ToLower(user)+"/")
	}
	return strings.ToLower(u.Hostname()) + "/" + repo
}

// foundRepos remembers where modules are.
type foundRepos struct {
	mu    sync.Mutex
	repos map[foundKey]foundRepo
}

// foundKey is a module and how far a fetch of it may reach: a page that only an
// intranet has says nothing about a public module.
type foundKey struct {
	module string
	reach  Reach
}

type foundRepo struct {
	repo  *repository
	until time.Time
}

func (f *foundRepos) get(modulePath string, reach Reach) *repository {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, ok := f.repos[foundKey{modulePath, reach}]
	if !ok || time.Now().After(found.until) {
		return nil
	}
	return found.repo
}

func (f *foundRepos) put(j job, repo *repository) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.repos == nil || len(f.repos) >= maxFound {
		f.repos = map[foundKey]foundRepo{}
	}
	f.repos[foundKey{j.module, j.reach}] = foundRepo{repo, time.Now().Add(foundFor)}
}

func (f *foundRepos) forget(j job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.repos, foundKey{j.module, j.reach})
}

func (f *foundRepos) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repos = nil
}
