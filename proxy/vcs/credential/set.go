package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/assay-proxy/assay/internal/descriptors"
	"github.com/assay-proxy/assay/internal/egress"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// Set is all credentials that are configured. Its methods may be called at the same time.
type Set struct {
	list  []Credential
	netrc string
	apps  []*gitHubApp // beside list, nil for the others
	log   *slog.Logger
}

// New makes a Set of a list, whose defaults it fills in, and a netrc file, "" for none. The
// client sends requests to GitHub's API.
func New(list []Credential, netrc string, client *http.Client, log *slog.Logger) (*Set, error) {
	all := &Set{list: list, netrc: netrc, log: log}
	if netrc != "" {
		if _, err := readNetrc(netrc); err != nil {
			return nil, fmt.Errorf("netrc: %w", err)
		}
	}
	for i := range all.list {
		c := &all.list[i]
		if err := c.complete(); err != nil {
			return nil, fmt.Errorf("credential %d, for %q: %w", i+1, c.Pattern, err)
		}
		var app *gitHubApp
		if c.GitHubApp != 0 {
			app = &gitHubApp{id: c.GitHubApp, installation: c.GitHubInstallation, key: c.GitHubKey, api: c.GitHubAPI, client: client}
		}
		all.apps = append(all.apps, app)
	}
	return all, nil
}

// Check returns the error that New would return, for a file that cannot be read for
// instance. It changes nothing.
func Check(list []Credential, netrc string) error {
	_, err := New(slices.Clone(list), netrc, nil, nil)
	return err
}

// Hosts returns, for each host that a credential is for, the patterns of the modules that
// it is used for, "*" for those of a netrc.
func (s *Set) Hosts() map[string][]string {
	all := map[string][]string{}
	add := func(host, pattern string) {
		host = (&url.URL{Host: strings.ToLower(host)}).Hostname()
		all[host] = append(all[host], pattern)
	}
	netrc := func(name, pattern string) {
		lines, _ := readNetrc(name) // the error is reported when the file is needed
		for _, line := range lines {
			add(line.machine, pattern)
		}
	}
	for _, c := range s.list {
		if c.Netrc != "" {
			netrc(c.Netrc, c.Pattern)
		} else {
			add(c.Host, c.Pattern)
		}
	}
	if s.netrc != "" {
		netrc(s.netrc, "*")
	}
	return all
}

// Ports returns, as host:port, the hosts that the credentials name with a port.
func (s *Set) Ports() (all []string) {
	for _, credential := range s.list {
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

// Find returns the credential for a module at the host of u, nil if there is none. For a
// public module there never is one: clients that are not allowed to read a private
// repository could get its content under a name that is not private.
func (s *Set) Find(ctx context.Context, modulePath string, reach egress.Reach, u *url.URL) (*Auth, error) {
	if reach == egress.Public {
		return nil, nil
	}
	for i := range s.list {
		credential := &s.list[i]
		if !credential.matches(modulePath, u) {
			continue
		}
		found, err := credential.auth(ctx, s.apps[i], u)
		if err != nil {
			return nil, s.unusable(u, err)
		}
		if found != nil {
			found.ID = credential.id(found.ID)
			return found, nil
		}
	}
	if s.netrc == "" {
		return nil, nil
	}
	found, err := netrcAuth(s.netrc, u)
	if err != nil {
		return nil, s.unusable(u, err)
	}
	return found, nil
}

// Has reports whether Find would return a credential, without a request to GitHub's API. A
// netrc that cannot be read counts as one with a credential.
func (s *Set) Has(modulePath string, reach egress.Reach, u *url.URL) bool {
	if reach == egress.Public {
		return false
	}
	inNetrc := func(name string) bool {
		found, err := netrcAuth(name, u)
		return found != nil || err != nil
	}
	for i := range s.list {
		credential := &s.list[i]
		if credential.matches(modulePath, u) && (credential.Netrc == "" || inNetrc(credential.Netrc)) {
			return true
		}
	}
	return s.netrc != "" && inNetrc(s.netrc)
}

// SSHUser returns the user for SSH for a module at the host of u, "" if SSH is not used.
func (s *Set) SSHUser(modulePath string, reach egress.Reach, u *url.URL) string {
	if reach == egress.Public {
		return ""
	}
	i := slices.IndexFunc(s.list, func(c Credential) bool { return c.SSHKey != "" && c.matches(modulePath, u) })
	if i < 0 {
		return ""
	}
	user, _, _ := strings.Cut(s.list[i].SSH, "@")
	return user
}

// unusable returns the error of a credential that cannot be read, without the cause: a
// missing file does not mean that there is no such module, and its name is for the log.
func (s *Set) unusable(u *url.URL, err error) error {
	var host *guard.HostError
	if errors.As(err, &host) {
		return err
	}
	s.log.Error("credential cannot be used", "host", u.Host, "err", err)
	if descriptors.Exhausted(err) {
		return &guard.HostError{Host: u.Host, Err: fmt.Errorf("%w: a credential: %w", guard.ErrUnavailable, syscall.EMFILE)}
	}
	return &guard.HostError{Host: u.Host, Err: fmt.Errorf("%w: the credential cannot be read; see the proxy's log", guard.ErrCredential)}
}

// auth reads the credential, nil if it is a netrc file without the host.
func (c *Credential) auth(ctx context.Context, app *gitHubApp, u *url.URL) (*Auth, error) {
	if c.SSHKey != "" {
		return &Auth{SSH: &Key{c.SSHKey, c.KnownHosts, c.SSH}}, nil
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
		found.rejected = func() { app.drop(token) }
		return found, nil
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	return basicAuth(c.User, token), nil
}

// netrcAuth returns the login that a netrc file has for the host of u, nil if it has none.
func netrcAuth(name string, u *url.URL) (*Auth, error) {
	lines, err := readNetrc(name)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		if line.machine == u.Host || line.machine == u.Hostname() && (u.Port() == "" || u.Port() == "443") {
			found := basicAuth(line.login, line.password)
			found.ID = fmt.Sprintf("netrc %q %q %q", name, line.machine, line.login)
			return found, nil
		}
	}
	return nil, nil
}
