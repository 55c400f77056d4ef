// Package credential holds the credentials for the hosts of private modules: files and
// environment variables with tokens, netrc files, SSH keys, GitHub Apps.
//
// No secret is in an error, and a missing file of ours is never an absence: errors of
// such a file do not wrap the original error.
package credential

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// Credential is what the administrator configures: how to authenticate for modules whose
// path matches a pattern, at one host. It has exactly one of: a netrc file, a token, an SSH
// key, a GitHub App. The secrets themselves are in files or in the environment; files are
// read at each use, so that they can be replaced.
type Credential struct {
	Pattern string `toml:"pattern" doc:"Modules for which the credential is used, in the syntax of GOPRIVATE."`
	Host    string `toml:"host" doc:"Host of the repositories, host or host:port. The credential is never sent to another host. Default: the first element of the pattern, if it has no wildcard."`

	Netrc string `toml:"netrc" doc:"File in the format of curl's netrc."`

	User      string `toml:"user" doc:"User name for a token. Default x-access-token, which GitHub and GitLab accept with any token."`
	TokenFile string `toml:"token_file" doc:"File with a token or password, sent as basic authentication over https."`
	TokenEnv  string `toml:"token_env" doc:"Environment variable with a token or password."`

	SSHKey     string `toml:"ssh_key" doc:"File with a private key for SSH, without a passphrase. Repositories are then always fetched by SSH."`
	KnownHosts string `toml:"known_hosts" doc:"File with the keys of hosts, in the format of ssh. Required with ssh_key: other hosts are not trusted."`
	SSH        string `toml:"ssh" doc:"User, host and port for SSH: user@host or user@host:port. Default git@ and the host."`

	GitHubApp          int64  `toml:"github_app" doc:"Id of a GitHub App. Its installation tokens are fetched, and renewed before they expire."`
	GitHubInstallation int64  `toml:"github_installation" doc:"Id of the installation of the app."`
	GitHubKey          string `toml:"github_key" doc:"PEM file with the app's private key."`
	GitHubAPI          string `toml:"github_api" doc:"Base URL of the API. Default https://api.github.com."`
}

// defaultUser is the user name for a token without one.
const defaultUser = "x-access-token"

// complete checks a credential and fills in defaults.
func (c *Credential) complete() error {
	if _, err := path.Match(c.Pattern, ""); c.Pattern == "" || strings.ContainsAny(c.Pattern, ", ") || err != nil {
		return errors.New("pattern is not one pattern in the syntax of GOPRIVATE")
	}
	if c.Host == "" {
		c.Host, _, _ = strings.Cut(c.Pattern, "/")
		if strings.ContainsAny(c.Host, `*?[\`) {
			return errors.New("host is required because the pattern's first element has a wildcard")
		}
	}
	kinds := 0
	for _, set := range []bool{c.Netrc != "", c.TokenFile != "", c.TokenEnv != "", c.SSHKey != "", c.GitHubApp != 0} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return errors.New("give exactly one of netrc, token_file, token_env, ssh_key, github_app")
	}
	if c.User == "" {
		c.User = defaultUser
	}
	switch {
	case c.Netrc != "":
		_, err := readNetrc(c.Netrc)
		return err
	case c.SSHKey != "":
		return c.completeSSH()
	case c.GitHubApp != 0:
		return c.completeGitHub()
	}
	_, err := c.token()
	return err
}

func (c *Credential) completeSSH() error {
	if c.KnownHosts == "" {
		return errors.New("ssh_key needs known_hosts; ssh-keyscan prints its lines")
	}
	if _, err := os.Stat(c.KnownHosts); err != nil {
		return err
	}
	if c.SSH == "" {
		c.SSH = "git@" + c.Host
	}
	if u, err := guard.CheckURL("ssh://" + c.SSH + "/x"); err != nil || u.User == nil {
		return fmt.Errorf("ssh is %q; it must be user@host or user@host:port", c.SSH)
	}
	key := Key{c.SSHKey, c.KnownHosts, c.SSH}
	if err := key.complete(); err != nil {
		return err
	}
	c.SSHKey, c.KnownHosts = key.File, key.KnownHosts
	return nil
}

func (c *Credential) completeGitHub() error {
	if c.GitHubInstallation <= 0 || c.GitHubApp <= 0 || c.GitHubKey == "" {
		return errors.New("github_app needs github_installation and github_key")
	}
	if c.GitHubAPI == "" {
		c.GitHubAPI = "https://api.github.com"
	}
	u, err := url.Parse(c.GitHubAPI)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return errors.New("github_api must be an https URL")
	}
	_, err = readAppKey(c.GitHubKey)
	return err
}

// token returns the secret of a token.
func (c *Credential) token() (string, error) {
	if c.TokenEnv != "" {
		if token := strings.TrimSpace(os.Getenv(c.TokenEnv)); token != "" {
			return token, nil
		}
		return "", fmt.Errorf("the environment variable %s is empty", c.TokenEnv)
	}
	data, err := readSecret(c.TokenFile, 0o027)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, "\r\n\x00") {
		return "", fmt.Errorf("%s has no token, or more than one line", c.TokenFile)
	}
	return token, nil
}

// matches reports whether the credential is for a module at the host of u.
func (c *Credential) matches(modulePath string, u *url.URL) bool {
	return module.MatchPrefixPatterns(c.Pattern, modulePath) && c.isFor(u)
}

// isFor reports whether the credential may be sent to the host of u. A host without a port
// is the one at the scheme's own port; a key of SSH is not sent at all.
func (c *Credential) isFor(u *url.URL) bool {
	if strings.EqualFold(c.Host, u.Host) {
		return true
	}
	return strings.EqualFold(c.Host, u.Hostname()) && (u.Port() == "" || u.Port() == "443" || c.SSHKey != "")
}

// id returns an identity of the credential without its secret. login is the one
// in a netrc file, if it is one.
func (c *Credential) id(login string) string {
	return fmt.Sprintf("%q %q %q %q %q %q %d %d", c.Host, login, c.User, c.TokenFile, c.TokenEnv, c.SSHKey+" "+c.SSH, c.GitHubApp, c.GitHubInstallation)
}
