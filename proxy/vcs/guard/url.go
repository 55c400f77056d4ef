package guard

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// maxURL is the length of the URL of a repository, in bytes.
const maxURL = 300

var (
	hostName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.\-]*[a-zA-Z0-9])?$`)
	userName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.\-]*$`)
	repoPath = regexp.MustCompile(`^(/[\w.~+@][\w.~+@\- ]*)+/?$`)
)

// CheckURL parses the URL of a repository, and refuses everything that git or ssh could
// take for anything else: another scheme, a password, a dash at the beginning of a part.
func CheckURL(text string) (*url.URL, error) {
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
	case len(u.String()) > maxURL:
		return nil, fmt.Errorf("%w: the URL of the repository has more than %d bytes", ErrForbidden, maxURL)
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
