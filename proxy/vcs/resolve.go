package vcs

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
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
		u, err := guard.CheckURL("https://" + root)
		return &repository{root: root, system: "git", url: u, static: true}, err
	}
	if m := qualified.FindStringSubmatch(modulePath); m != nil {
		u, err := guard.CheckURL("https://" + m[1])
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
		if statusErr := guard.StatusError(resp.StatusCode); statusErr != nil {
			return goImport{}, &guard.HostError{Host: host, Err: fmt.Errorf("status %d: %w", resp.StatusCode, statusErr)}
		}
	}
	if err != nil {
		return goImport{}, &guard.HostError{Host: host, Err: fmt.Errorf("the go-import page of %.200q cannot be read: %w", path, fs.ErrNotExist)}
	}
	tag, err := matchGoImport(imports, j.module)
	if err != nil {
		return goImport{}, &guard.HostError{Host: host, Err: fmt.Errorf("%w on the page of %.200q: %w", err, path, fs.ErrNotExist)}
	}
	return tag, nil
}

// ask sends a request of our own to a host, with the credential for it.
func (s *Source) ask(ctx context.Context, j job, u *url.URL) (*http.Response, error) {
	r, err := http.NewRequestWithContext(guard.WithReach(ctx, j.reach), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %.200q is not a URL", ErrForbidden, u.Redacted())
	}
	auth, err := s.credentials.Find(ctx, j.module, j.reach, u)
	if err != nil {
		return nil, err
	}
	if auth != nil && auth.Header != "" {
		r.Header.Set("Authorization", auth.Header)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, &guard.HostError{Host: u.Host, Err: guard.RequestError(err)}
	}
	return resp, nil
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
