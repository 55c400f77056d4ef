package vcs

import (
	"net/url"
	"strings"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/egress"
	"github.com/assay-proxy/assay/proxy/vcs/credential"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// Reach says how far a fetch may reach.
type Reach = egress.Reach

const (
	Public  = egress.Public   // the internet: no address that is private to a network
	Private = egress.Intranet // the intranet too: all but this machine and link-local addresses
)

// job is one go command about one module.
type job struct {
	module string // path
	what   string // the module with the version or query, for errors
	reach  Reach
	args   []string // of the go command; values from outside come after --
}

// isList reports whether the command is a list or a query.
func (j job) isList() bool { return j.args[0] == "list" }

// taggedVersion returns the version as a tag ends with it, if the command downloads a
// version that has a tag.
func (j job) taggedVersion() (version string, ok bool) {
	_, version, _ = strings.Cut(j.what, "@")
	ok = !j.isList() && !module.IsPseudoVersion(version)
	return strings.TrimSuffix(version, "+incompatible"), ok
}

// target is a job with the repository where it is done, and the credential for it.
type target struct {
	job  job
	repo *repository
	auth *credential.Auth // nil: none
}

// host returns the host of the repository, for errors and the log.
func (t target) host() string { return t.repo.url.Host }

// usesSSH reports whether git uses SSH.
func (t target) usesSSH() bool { return t.remote().Scheme == "ssh" }

// lacksKey reports whether git would use SSH, and there is no key for the host. Such a host
// is not even connected with: a page can name any.
func (t target) lacksKey() bool {
	return t.usesSSH() && (t.auth == nil || t.auth.SSH == nil)
}

// remote returns the URL that git uses: by SSH if there is a key for the host.
func (t target) remote() *url.URL {
	if t.auth == nil || t.auth.SSH == nil {
		return t.repo.url
	}
	if t.repo.url.Scheme == "ssh" && t.repo.url.User != nil {
		return t.repo.url
	}
	u, err := guard.CheckURL("ssh://" + t.auth.SSH.At + t.repo.url.EscapedPath())
	if err != nil { // both parts were checked
		return t.repo.url
	}
	return u
}
