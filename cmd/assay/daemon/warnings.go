package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/privacy"
)

// warnOfAccess logs warnings about settings that are legal and rarely intended, for a server that
// listens on addr: the setting listen does not say that, if a service manager has passed the socket.
func (s *settings) warnOfAccess(addr net.Addr, who *access.Authenticator, log *slog.Logger) {
	c, p := s.config, s.policy
	local := addr.Network() == "unix" || loopback(addr.String())
	open := p.Unrestricted()
	if c.Access != "" {
		open = s.warnOfCredentials(log)
	}
	if len(open) > 0 && !local && c.Anonymous {
		log.Warn("every client that reaches this address can read these private modules; restrict them with access", "listen", addr.String(), "patterns", strings.Join(open, ","))
	}
	if !p.AllowedAll(func(string) bool { return false }) { // a rule depends on the client
		if !who.Configured() {
			log.Warn("access rules set but no credentials configured: no client can read these modules; create a token with assay token create", "access", c.Access)
		}
		if c.TLSCert == "" && !local {
			log.Warn("credentials are sent unencrypted: set tls-cert and tls-key, or put a reverse proxy with TLS in front; the go command sends no credentials over http", "listen", addr.String())
		}
	}
}

// warnOfSocket logs a warning if other users of this machine can connect to a socket that the service
// manager has opened: what connects to it counts as a reverse proxy, which says from where a request
// comes. A directory that they cannot enter may still protect it.
func warnOfSocket(addr net.Addr, log *slog.Logger) {
	if addr.Network() != "unix" {
		return
	}
	const next = "set SocketMode=0660, and SocketGroup= to the group of the reverse proxy, in the socket's unit, and restart both units"
	path := addr.String()
	if strings.HasPrefix(path, "@") { // an abstract socket has no mode
		log.Warn("each process of this machine can connect to the socket and count as a reverse proxy, which states any address for a client; use a path instead of an abstract socket: "+next, "socket", path)
		return
	}
	info, err := os.Stat(path)
	if err != nil {
		log.Warn("it is unknown which users can connect to the socket and count as a reverse proxy; "+next, "socket", path, "err", err)
	} else if mode := info.Mode().Perm(); mode&config.OthersWrite != 0 {
		log.Warn("other users of this machine can connect to the socket and count as a reverse proxy, which states any address for a client; "+next, "socket", path, "mode", fmt.Sprintf("%04o", mode))
	}
}

// warnOfCredentials logs warnings where credentials for code hosts and access rules do not fit
// together. It returns the private patterns that have no rule, and for which no credential is used:
// modules that they match are open.
func (s *settings) warnOfCredentials(log *slog.Logger) (open []string) {
	if s.vcs == nil {
		return nil // repositories are not fetched
	}
	for rule, others := range s.policy.Bypasses(slices.Collect(maps.Keys(s.vcs.CredentialHosts())), s.usesCredential) {
		log.Warn("a repository is protected by this rule only after it was read through the rule's path; until then clients of the other rules can read it; write the rule for the repository's own path too", "rule", rule, "others", strings.Join(others, ","))
	}
	var closed []string
	for _, pattern := range s.policy.Unrestricted() {
		if s.usesCredential(pattern) {
			closed = append(closed, pattern)
		} else {
			open = append(open, pattern)
		}
	}
	if len(closed) > 0 {
		log.Warn("modules read with a credential and without an access rule are served to no client; add a rule, for example path=anyone", "patterns", strings.Join(closed, ","))
	}
	return open
}

// usesCredential reports whether some module that a pattern covers may be read with a credential. s
// must have a source of repositories.
func (s *settings) usesCredential(pattern string) bool {
	for _, used := range s.vcs.CredentialHosts() {
		if slices.ContainsFunc(used, func(u string) bool { return u == "*" || privacy.Overlap(u, pattern) }) {
			return true
		}
	}
	return false
}
