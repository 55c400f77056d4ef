package daemon

import (
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/privacy"
)

// warnOfAccess logs warnings about settings that are legal and rarely intended.
func (s *settings) warnOfAccess(who *access.Authenticator, log *slog.Logger) {
	c, p := s.config, s.policy
	_, local := config.Socket(c.Listen)
	local = local || loopback(c.Listen)
	open := p.Unrestricted()
	if c.Access != "" {
		open = s.warnOfCredentials(log)
	}
	if len(open) > 0 && !local && c.Anonymous {
		log.Warn("every client that reaches this address can read these private modules; restrict them with access", "listen", c.Listen, "patterns", strings.Join(open, ","))
	}
	if !p.AllowedAll(func(string) bool { return false }) { // a rule depends on the client
		if !who.Configured() {
			log.Warn("access rules set but no credentials configured: no client can read these modules; create a token with assay token create", "access", c.Access)
		}
		if c.TLSCert == "" && !local {
			log.Warn("credentials are sent unencrypted: set tls-cert and tls-key, or put a reverse proxy with TLS in front; the go command sends no credentials over http", "listen", c.Listen)
		}
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
