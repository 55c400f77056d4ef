// Package access identifies the client of a request: by basic authentication from an htpasswd file,
// bearer tokens, OIDC tokens of CI jobs, or client certificates.
//
// It returns a name and groups; the caller decides what they may do. It writes no response itself.
// The text of its errors is for the log only: in a response it would reveal which users exist.
package access

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/watch"
)

// Config configures the methods of authentication. The zero Config is valid:
// every client is anonymous, and every credential is refused.
//
// The files are reloaded when they change; no restart is needed. Other users of the
// machine must not be able to read Htpasswd and Tokens, which are secrets, or to write
// Groups and OIDC (both checked on unix only).
type Config struct {
	// Htpasswd is a file in the format of Apache's htpasswd, with bcrypt hashes
	// ($2y$, $2a$, $2b$) of a cost of at most 16 only. "" = none.
	Htpasswd string

	// Groups is a file in the format of Apache's AuthGroupFile, "group: user
	// user". It gives groups to the users of Htpasswd and to client certificates;
	// tokens and OIDC rules name their own. "" = none.
	Groups string

	// Tokens is the file that CreateToken writes. It need not exist yet. "" = none.
	Tokens string

	// OIDC is a TOML file with an [[issuer]] table for each trusted issuer: url, audience, and
	// [[issuer.rule]] tables with claims and groups. The first rule whose claims all match gives
	// the groups; without one the token is refused. "" = none.
	OIDC string

	// Certificates makes a client certificate that crypto/tls has verified (VerifiedChains)
	// identify the client: by its first DNS name, or else by its common name.
	Certificates bool

	// Remote returns the address for which wrong passwords are counted. nil = the
	// host of RemoteAddr, which behind a reverse proxy is the proxy's.
	Remote func(*http.Request) string

	// Client sends requests to OIDC issuers. nil = one with timeouts of 10 s.
	Client *http.Client

	// Logger logs changes of the files. nil = discard.
	Logger *slog.Logger
}

// An Authenticator identifies requests. Its methods may be called concurrently.
type Authenticator struct {
	certificates bool
	remote       func(*http.Request) string
	log          *slog.Logger
	metrics      *metrics

	htpasswd *watch.Value[*htpasswd]
	groups   *watch.Value[memberships]
	tokens   *watch.Value[tokens]
	oidc     *watch.Value[*issuers]

	passwords *passwords
}

// New reads and checks all files. A file that is missing (except Tokens), unreadable,
// malformed, or accessible to other users is an error that says what to do.
func New(ctx context.Context, c Config) (*Authenticator, error) {
	a := &Authenticator{certificates: c.Certificates, remote: c.Remote, log: c.Logger, metrics: newMetrics()}
	if a.remote == nil {
		a.remote = remoteHost
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.passwords = newPasswords()
	a.htpasswd = watched[*htpasswd]{name: c.Htpasswd, what: "htpasswd file", forbidden: othersAny, parse: parseHtpasswd}.watch(a.log)
	a.groups = watched[memberships]{name: c.Groups, what: "groups file", forbidden: othersWrite, parse: parseGroups}.watch(a.log)
	a.tokens = watched[tokens]{name: c.Tokens, what: "token file", forbidden: othersAny, parse: parseTokens, optional: true}.watch(a.log)
	client := issuerClient(c.Client)
	parseOIDC := func(data []byte) (*issuers, error) { return parseIssuers(data, client, a.log) }
	a.oidc = watched[*issuers]{name: c.OIDC, what: "OIDC file", forbidden: othersWrite, parse: parseOIDC}.watch(a.log)
	commit, err := a.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	commit()
	return a, nil
}

// Prepare reads and checks the files again, including those that look unchanged. Their
// new content takes effect when commit is called; until then, and after an error,
// nothing changes.
func (a *Authenticator) Prepare(ctx context.Context) (commit func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var commits []func()
	for _, prepare := range []func() (func(), error){a.htpasswd.Prepare, a.groups.Prepare, a.tokens.Prepare, a.oidc.Prepare} {
		commit, err := prepare()
		if err != nil {
			return nil, err
		}
		commits = append(commits, commit)
	}
	return func() {
		for _, commit := range commits {
			commit()
		}
	}, nil
}

// Configured reports whether any client can authenticate at all: there is a user, a
// token (be it expired or revoked), an issuer, or certificates are accepted.
func (a *Authenticator) Configured() bool {
	if a.certificates {
		return true
	}
	if h := a.htpasswd.Get(); h != nil && len(h.users) > 0 {
		return true
	}
	if o := a.oidc.Get(); o != nil && len(o.byURL) > 0 {
		return true
	}
	return len(a.tokens.Get()) > 0
}

// Metrics returns the collectors: assay_access_requests_total.
func (a *Authenticator) Metrics() []prometheus.Collector {
	return []prometheus.Collector{a.metrics.requests}
}

// remoteHost is the default of Config.Remote.
func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
