package vcs

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// repository is where a module is.
type repository struct {
	root   string // of the module paths in it
	system string
	url    *url.URL // https or ssh, without credentials
	subdir string   // of the module at root
	static bool     // the go command knows it from the module path
}

// The hosts that the go command knows (cmd/go/internal/vcs, vcsPaths) and that still
// exist, and its rule for paths that contain the name of the system.
var (
	knownHosts = map[string]bool{"github.com": true, "bitbucket.org": true}
	knownPath  = regexp.MustCompile(`^[\w.\-]+/[\w.\-]+/[\w.\-]+(/[\w.\-]+)*$`)
	qualified  = regexp.MustCompile(`^((?:[a-z0-9.\-]+\.)+[a-z0-9.\-]+(?:/~?[\w.\-]+)+?\.(bzr|fossil|git|hg|svn))(?:/~?[\w.\-]+)*$`)
)

// staticRepository returns the repository of a module path that contains it, nil if it
// does not.
func staticRepository(modulePath string) (*repository, error) {
	elements := strings.SplitN(modulePath, "/", 4)
	if knownHosts[elements[0]] {
		if !knownPath.MatchString(modulePath) {
			return nil, fmt.Errorf("%s has no repositories at this path: %w", elements[0], notfound.Stated)
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

// checkHost refuses module paths whose host is not a name. The go command requests pages
// of loopback addresses without the proxy that it is told to use.
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

// canonical is CanonicalRepository of the URL that the go command makes: for a path with
// the name of the system at its end it is the one without.
func (r *repository) canonical() string {
	text := r.url.String()
	if r.static {
		text = strings.TrimSuffix(text, "."+r.system)
	}
	return CanonicalRepository(text)
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
