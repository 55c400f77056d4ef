package vcs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/mod/module"
)

// Credential says how to authenticate for modules whose path matches a pattern, at
// one host. It has exactly one of: a netrc file, a token, an SSH key, a GitHub App.
// The secrets themselves are in files or in the environment; files are read when
// they are needed, so that they can be replaced.
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

// defaultUser is the user name beside a token where nothing else is said.
const defaultUser = "x-access-token"

// credentials are all that are configured.
type credentials struct {
	list  []Credential
	netrc string
	apps  []*gitHubApp // beside list, nil for the others
	log   *slog.Logger
}

// auth is what one run authenticates with.
type auth struct {
	id      string   // of the credential; the same when its secret is renewed
	header  string   // value of Authorization for https, "" for SSH
	secrets []string // that must not be printed
	ssh     *Credential
	app     *gitHubApp // whose token it is
}

// refused notes that the host does not want it.
func (a *auth) refused() {
	if a != nil && a.app != nil {
		a.app.drop(a.secrets[0])
	}
}

func newCredentials(c Config, client *http.Client) (*credentials, error) {
	all := &credentials{list: c.Credentials, netrc: c.Netrc, log: c.Logger}
	if c.Netrc != "" {
		if _, err := readNetrc(c.Netrc); err != nil {
			return nil, fmt.Errorf("netrc: %w", err)
		}
	}
	for i := range all.list {
		credential := &all.list[i]
		if err := credential.complete(); err != nil {
			return nil, fmt.Errorf("credential %d, for %q: %w", i+1, credential.Pattern, err)
		}
		var app *gitHubApp
		if credential.GitHubApp != 0 {
			app = newGitHubApp(credential, client)
		}
		all.apps = append(all.apps, app)
	}
	return all, nil
}

// CheckCredentials returns the error that New would return for these credentials, a file
// that cannot be read for instance. It changes nothing.
func CheckCredentials(list []Credential, netrc string) error {
	_, err := newCredentials(Config{Credentials: slices.Clone(list), Netrc: netrc}, nil)
	return err
}

// CredentialHosts returns, for each credential, the host that it is for and the pattern of
// the modules that it is used for, "*" for those of a netrc.
func (s *Source) CredentialHosts() map[string][]string {
	all := map[string][]string{}
	add := func(host, pattern string) {
		host = (&url.URL{Host: strings.ToLower(host)}).Hostname()
		all[host] = append(all[host], pattern)
	}
	netrc := func(name, pattern string) {
		lines, _ := readNetrc(name) // why it cannot be read is said when it is needed
		for _, line := range lines {
			add(line.machine, pattern)
		}
	}
	for _, c := range s.credentials.list {
		if c.Netrc != "" {
			netrc(c.Netrc, c.Pattern)
		} else {
			add(c.Host, c.Pattern)
		}
	}
	if s.credentials.netrc != "" {
		netrc(s.credentials.netrc, "*")
	}
	return all
}

// ports returns host:port of what the credentials name with a port.
func (c *credentials) ports() (all []string) {
	for _, credential := range c.list {
		hosts := []string{credential.Host, credential.SSH[strings.LastIndexByte(credential.SSH, '@')+1:]}
		if u, err := url.Parse(credential.GitHubAPI); err == nil {
			hosts = append(hosts, u.Host)
		}
		for _, host := range hosts {
			if u := (&url.URL{Host: host}); u.Port() != "" {
				all = append(all, net.JoinHostPort(strings.ToLower(u.Hostname()), u.Port()))
			}
		}
	}
	return all
}

// complete checks a credential and fills in what follows from the rest.
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
	if u, err := checkURL("ssh://" + c.SSH + "/x"); err != nil || u.User == nil {
		return fmt.Errorf("ssh is %q; it must be user@host or user@host:port", c.SSH)
	}
	for _, file := range []*string{&c.SSHKey, &c.KnownHosts} { // commands run elsewhere
		absolute, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		*file = absolute
	}
	return c.checkSSHKey()
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

// readSecret reads a file that only its owner, and perhaps its group, may
// read. bad are the permissions that it must not have.
func readSecret(name string, bad fs.FileMode) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&bad != 0 {
		return nil, fmt.Errorf("%s has permissions %#o, so other users can read or change a secret; run: chmod %#o %s", name, mode, mode&^bad, name)
	}
	if info.Size() > 1<<20 {
		return nil, fmt.Errorf("%s is too large for a secret", name)
	}
	return os.ReadFile(name)
}

// find returns what to authenticate with for a module at the host of u, nil if
// there is nothing. For a public module there never is: what only we can read would be
// served to every client that requests it by a name that is not said to be private.
func (c *credentials) find(ctx context.Context, j job, u *url.URL) (*auth, error) {
	if j.reach == Public {
		return nil, nil
	}
	for i := range c.list {
		credential := &c.list[i]
		if !credential.matches(j, u) {
			continue
		}
		found, err := credential.auth(ctx, c.apps[i], u)
		if err != nil {
			return nil, c.unusable(u, err)
		}
		if found != nil {
			found.id = credential.id(found)
			return found, nil
		}
	}
	if c.netrc == "" {
		return nil, nil
	}
	found, err := netrcAuth(c.netrc, u)
	if err != nil {
		return nil, c.unusable(u, err)
	}
	return found, nil
}

// has reports whether find would return something, without asking anyone for a token.
// A netrc that cannot be read counts as one that has something.
func (c *credentials) has(j job, u *url.URL) bool {
	if j.reach == Public {
		return false
	}
	inNetrc := func(name string) bool {
		found, err := netrcAuth(name, u)
		return found != nil || err != nil
	}
	for i := range c.list {
		credential := &c.list[i]
		if credential.matches(j, u) && (credential.Netrc == "" || inNetrc(credential.Netrc)) {
			return true
		}
	}
	return c.netrc != "" && inNetrc(c.netrc)
}

// sshUser returns the user as whom SSH is used for the module of j at the host of u, "" if
// it is not.
func (c *credentials) sshUser(j job, u *url.URL) string {
	if j.reach == Public {
		return ""
	}
	i := slices.IndexFunc(c.list, func(c Credential) bool { return c.SSHKey != "" && c.matches(j, u) })
	if i < 0 {
		return ""
	}
	user, _, _ := strings.Cut(c.list[i].SSH, "@")
	return user
}

// matches reports whether the credential is for the module of j at the host of u.
func (c *Credential) matches(j job, u *url.URL) bool {
	return module.MatchPrefixPatterns(c.Pattern, j.module) && c.isFor(u)
}

// id returns what tells a credential from all others, without its secret: for a netrc
// found is the login in it.
func (c *Credential) id(found *auth) string {
	return fmt.Sprintf("%q %q %q %q %q %q %d %d", c.Host, found.id, c.User, c.TokenFile, c.TokenEnv, c.SSHKey+" "+c.SSH, c.GitHubApp, c.GitHubInstallation)
}

// unusable returns what is told of a credential that cannot be had. That a file does
// not exist is not that a module does not, and its name is for the log alone.
func (c *credentials) unusable(u *url.URL, err error) error {
	var host *hostError
	if errors.As(err, &host) {
		return err
	}
	c.log.Error("credential cannot be used", "host", u.Host, "err", err)
	if isExhausted(err) {
		return &hostError{u.Host, fmt.Errorf("%w: a credential: %w", ErrUnavailable, syscall.EMFILE)}
	}
	return &hostError{u.Host, fmt.Errorf("%w: the credential cannot be read; see the proxy's log", ErrCredential)}
}

// isFor reports whether the credential may be shown to the host of u. A host without
// a port is the one at the scheme's own port; a key of SSH is not shown at all.
func (c *Credential) isFor(u *url.URL) bool {
	if strings.EqualFold(c.Host, u.Host) {
		return true
	}
	return strings.EqualFold(c.Host, u.Hostname()) && (u.Port() == "" || u.Port() == "443" || c.SSHKey != "")
}

// auth returns what the credential comes to now, nil if a netrc has nothing for the
// host.
func (c *Credential) auth(ctx context.Context, app *gitHubApp, u *url.URL) (*auth, error) {
	if c.SSHKey != "" {
		return &auth{ssh: c}, nil
	}
	if c.Netrc != "" {
		return netrcAuth(c.Netrc, u)
	}
	if app != nil {
		token, err := app.token(ctx)
		if err != nil {
			return nil, err
		}
		found := basicAuth(c.User, token)
		found.app = app
		return found, nil
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	return basicAuth(c.User, token), nil
}

func basicAuth(user, password string) *auth {
	header := basic(user, password)
	return &auth{header: header, secrets: []string{password, strings.TrimPrefix(header, "Basic ")}}
}

// netrcAuth returns what a netrc file has for the host of u.
func netrcAuth(name string, u *url.URL) (*auth, error) {
	lines, err := readNetrc(name)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		if line.machine == u.Host || line.machine == u.Hostname() && (u.Port() == "" || u.Port() == "443") {
			found := basicAuth(line.login, line.password)
			found.id = fmt.Sprintf("netrc %q %q %q", name, line.machine, line.login)
			return found, nil
		}
	}
	return nil, nil
}

// netrcLine is one machine of a netrc file.
type netrcLine struct{ machine, login, password string }

// readNetrc reads a netrc file. As for the go command, a default entry ends it: what
// would be sent to every host is not for this program.
func readNetrc(name string) ([]netrcLine, error) {
	data, err := readSecret(name, 0o027)
	if err != nil {
		return nil, err
	}
	return parseNetrc(string(data)), nil
}

func parseNetrc(text string) []netrcLine {
	var (
		all     []netrcLine
		current netrcLine
		inMacro bool
	)
	for line := range strings.Lines(text) {
		if inMacro { // a macro ends with an empty line
			inMacro = strings.TrimSpace(line) != ""
			continue
		}
		fields := strings.Fields(line)
		for i := 0; i+1 < len(fields) && !strings.HasPrefix(fields[i], "#"); i += 2 {
			switch fields[i] {
			case "machine":
				current = netrcLine{machine: fields[i+1]}
			case "login":
				current.login = fields[i+1]
			case "password":
				current.password = fields[i+1]
			case "macdef":
				inMacro = true
			}
			if current.machine != "" && current.login != "" && current.password != "" {
				all = append(all, current)
				current = netrcLine{}
			}
		}
		if len(fields) > 0 && fields[0] == "default" {
			break
		}
	}
	return all
}
