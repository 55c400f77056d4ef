package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// policyOf returns what c says about private modules.
func policyOf(c config.Config) (*privacy.Policy, error) {
	p, err := privacy.New(c.Private)
	if err != nil {
		return nil, err
	}
	return p.Restrict(c.Access)
}

// LogConfig says where our own log is.
func LogConfig(c config.Config) pinlog.Config {
	return pinlog.Config{Dir: filepath.Join(c.Data, "log"), Name: c.LogName, Guard: c.LogGuard, Adopt: adoptCommand(c)}
}

// adoptCommand is assay log adopt with the settings that it needs.
func adoptCommand(c config.Config) string {
	command := "assay log adopt --data " + shellWord(c.Data)
	if c.LogGuard != "" {
		command += " --log-guard " + shellWord(c.LogGuard)
	}
	return command
}

// shellWord is text as one word of a shell command that a person is to copy.
func shellWord(text string) string {
	if strings.ContainsAny(text, " \t\"'\\$`&|;<>()*?#~") {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}

// readCredentials reads the file with the credentials for code hosts.
func readCredentials(c config.Config) ([]vcs.Credential, error) {
	if c.Credentials == "" {
		return nil, nil
	}
	// It says to whom secrets are shown.
	if err := checkMode(c.Credentials, othersWrite); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var file struct {
		Credential []vcs.Credential `toml:"credential"`
	}
	meta, err := toml.DecodeFile(c.Credentials, &file)
	var syntax toml.ParseError
	if errors.As(err, &syntax) {
		// Its text quotes the line, which may have a secret that somebody has put there.
		return nil, fmt.Errorf("credentials: %s: line %d is not TOML", c.Credentials, syntax.Position.Line)
	}
	if err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", c.Credentials, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("credentials: %s: unknown key %s", c.Credentials, unknown[0])
	}
	return file.Credential, nil
}

// TokenVariables returns the names of the variables that have tokens for code hosts.
func TokenVariables(c config.Config) (names []string) {
	credentials, _ := readCredentials(c) // an error is told elsewhere
	for _, credential := range credentials {
		names = append(names, credential.TokenEnv)
	}
	return names
}

// checkCredentials reads all files with credentials for code hosts that can be read
// without asking a host.
func checkCredentials(c config.Config) error {
	credentials, err := readCredentials(c)
	if err != nil {
		return err
	}
	return vcs.CheckCredentials(credentials, c.Netrc)
}

// openLog opens our own log, or makes it. One that refuses is no more than a remark
// as long as nothing needs it: somebody has copied a data directory.
func (s *server) openLog(ctx context.Context, p *privacy.Policy) (err error) {
	c := LogConfig(s.config)
	c.Store = s.store
	needed := s.config.Unified || p.Patterns() != ""
	if needed {
		c.Logger = s.log.Logger
	}
	if err := s.checkLogName(c.Name); err != nil {
		return err
	}
	c.Memory = s.memory.log
	s.ownLog, err = pinlog.Open(ctx, c)
	if err == nil && !needed && s.ownLog.Refuses() != nil {
		s.log.Info("the own log is read-only; no private modules are configured, so nothing is refused", "why", s.ownLog.Refuses())
	}
	if err == nil && s.config.Unified {
		err = s.checkLogName(s.ownLog.Name())
	}
	return err
}

// checkLogName refuses a name for our own log that a database has which is mirrored
// here: clients of that would find our log in its place.
func (s *server) checkLogName(name string) error {
	for _, m := range s.mirrors {
		if m.Name() == name {
			return fmt.Errorf("the own log must not have the name %s of a checksum database that is served here; set another name with --log-name", name)
		}
	}
	return nil
}

// openAccess reads the files that say who is who.
func (s *server) openAccess(ctx context.Context) (err error) {
	s.access, err = access.New(ctx, s.accessConfig(s.config))
	return err
}

// accessConfig is what c says about who is who.
func (s *server) accessConfig(c config.Config) access.Config {
	return access.Config{
		Htpasswd: c.Htpasswd, Groups: c.Groups, Tokens: c.TokenFile(), OIDC: c.OIDC, Certificates: c.TLSClientCA != "",
		Remote: s.remote, Logger: s.log.Logger,
	}
}

// openVCS makes the source of private modules, if there are any and it is not
// there already.
func (s *server) openVCS(c config.Config, direct bool) (*vcs.Source, error) {
	p, err := policyOf(c)
	if err != nil {
		return nil, err
	}
	if s.vcs != nil || c.VCS == "off" || p.Patterns() == "" && !direct {
		return s.vcs, nil
	}
	if s.ownLog != nil && s.ownLog.Refuses() != nil { // at a reload; at the start it is not open yet
		s.log.Error("the own log is read-only: new private versions are refused", "err", s.ownLog.Refuses())
	}
	credentials, err := readCredentials(c)
	if err != nil {
		return nil, err
	}
	source, err := vcs.New(vcs.Config{
		Dir: filepath.Join(c.Data, "vcs"), Systems: config.List(c.VCS), Jobs: c.VCSJobs, Timeout: c.VCSTimeout, MaxBytes: int64(c.VCSCache) << 20,
		Hosts: config.List(c.VCSHosts), CAFile: c.CAFile, Credentials: credentials, Netrc: c.Netrc, Logger: s.log.Logger, Memory: s.memory.fetches,
	})
	if err != nil {
		return nil, err
	}
	if err := source.Tools(); err != nil {
		s.log.Error("private modules cannot be fetched; requests for them fail", "private", p.Patterns(), "err", err)
	}
	s.vcs = source
	if s.registry != nil {
		s.registry.MustRegister(source.Metrics()...)
	}
	return source, nil
}

// remote returns the address of the client: that of the connection, or what
// trusted proxies say.
func (s *server) remote(r *http.Request) string {
	if s.config.TrustedProxies != "" {
		if ip := middleware.GetClientIP(r.Context()); ip != "" {
			return ip
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// warnOfAccess warns of settings that are legal and rarely meant.
func (s *server) warnOfAccess(c config.Config, p *privacy.Policy) {
	local, open := loopback(c.Listen), p.Open()
	if c.Access != "" {
		open = s.warnOfCredentials(p)
	}
	if len(open) > 0 && !local && c.Anonymous {
		s.log.Warn("every client that reaches this address can read these private modules; restrict them with access", "listen", c.Listen, "patterns", strings.Join(open, ","))
	}
	if !p.AllowedAll(func(string) bool { return false }) { // a rule asks who the client is
		if !s.access.Configured() {
			s.log.Warn("access rules set but no credentials configured: no client can read these modules; create a token with assay token create", "access", c.Access)
		}
		if c.TLSCert == "" && !local {
			s.log.Warn("credentials are sent unencrypted: set tls-cert and tls-key, or put a reverse proxy with TLS in front; the go command sends no credentials over http", "listen", c.Listen)
		}
	}
}

// warnOfCredentials warns where credentials for code hosts and the rules about who may
// read do not fit together. It returns the private patterns that have no rule, and for
// which no credential is used: what they match is open.
func (s *server) warnOfCredentials(p *privacy.Policy) (open []string) {
	if s.vcs == nil {
		return nil // and nothing is fetched
	}
	hosts := s.vcs.CredentialHosts()
	usable := func(pattern string) bool {
		for _, used := range hosts {
			if slices.ContainsFunc(used, func(u string) bool { return u == "*" || privacy.Overlap(u, pattern) }) {
				return true
			}
		}
		return false
	}
	for rule, others := range p.Around(slices.Collect(maps.Keys(hosts)), usable) {
		s.log.Warn("a repository is protected by this rule only after it was read through the rule's path; until then clients of the other rules can read it; write the rule for the repository's own path too", "rule", rule, "others", strings.Join(others, ","))
	}
	var closed []string
	for _, pattern := range p.Open() {
		if usable(pattern) {
			closed = append(closed, pattern)
		} else {
			open = append(open, pattern)
		}
	}
	if len(closed) > 0 {
		s.log.Warn("modules read with a credential and without an access rule are served to no client; add a rule, for example path=anyone", "patterns", strings.Join(closed, ","))
	}
	return open
}

// operator reports whether a request may read what is for those who run the
// server.
func (s *server) operator(r *http.Request) bool {
	if groups := config.List(s.config.Operators); len(groups) > 0 {
		id, err := s.access.Identify(r)
		return err == nil && id.Scope == "" && slices.ContainsFunc(groups, id.In) // the page names any modules
	}
	proxies := []string{"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") || slices.Contains(proxies, name) {
			return false // a proxy here speaks for somebody elsewhere
		}
	}
	// nginx says nothing at all unless it is told to, and calls us by our own name; but
	// it speaks HTTP/1.0 then. Who has named a proxy on this machine has one.
	if !r.ProtoAtLeast(1, 1) || s.fromTrusted(r) {
		return false
	}
	// Some proxies say nothing but the name that they were called by. A page that a
	// browser on this machine shows has to give its own name too.
	return loopback(r.Host) && loopback(s.remote(r))
}

// fromTrusted reports whether the connection is from one of the trusted proxies.
func (s *server) fromTrusted(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && slices.ContainsFunc(config.List(s.config.TrustedProxies), func(network string) bool {
		prefix, err := netip.ParsePrefix(network)
		return err == nil && prefix.Contains(peer.Addr().Unmap().WithZone(""))
	})
}

// loopback reports whether a host, or host:port, is this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// readHookSecret reads the secret of the webhooks.
func readHookSecret(c config.Config) (string, error) {
	if c.HookSecret == "" {
		return "", nil
	}
	if err := checkMode(c.HookSecret, othersAny); err != nil {
		return "", fmt.Errorf("hook-secret-file: %w", err)
	}
	data, err := os.ReadFile(c.HookSecret)
	if err != nil {
		return "", fmt.Errorf("hook-secret-file: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if len(secret) < 16 {
		return "", fmt.Errorf("hook-secret-file: the secret in %s has %d characters and needs at least 16; generate one with: openssl rand -hex 20", c.HookSecret, len(secret))
	}
	return secret, nil
}

// What others may not be allowed to do with a file: anything with a secret, write to
// one that says whom to trust.
const (
	othersAny   fs.FileMode = 0o007
	othersWrite fs.FileMode = 0o002
)

// checkMode refuses a file with which others on this machine can do what is forbidden.
func checkMode(name string, forbidden fs.FileMode) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	switch {
	case runtime.GOOS == "windows" || mode&forbidden == 0:
		return nil
	case forbidden == othersWrite:
		return fmt.Errorf("other users can change %s (mode %04o); run: chmod o-w %s", name, mode, name)
	}
	return fmt.Errorf("other users can read or change %s (mode %04o); run: chmod o-rwx %s", name, mode, name)
}
