package vcs

import (
	"log/slog"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/vcs/credential"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// Config says how a Source works. Dir is needed; the zero value of everything else
// is its default.
type Config struct {
	Dir string // for clones and the go command's files; used by one Source only; created if needed

	// Systems are the version control systems that may be used, with
	// their names in GOVCS. Default git, the only one that credentials are
	// used with.
	Systems []string

	Jobs     int           // concurrent downloads, and as many lists; default 4. One host gets half of them
	Timeout  time.Duration // for one of them; default 10 min
	MaxBytes int64         // of all repositories; default 10 GiB

	// Network says which hosts may be reached. Other ports than 443, and 22 by SSH, are
	// those of its Hosts and of Credentials.
	Network Network

	// Credentials are tried in order, then Netrc, a file in the format of curl.
	// Public modules are fetched without credentials.
	Credentials []Credential
	Netrc       string

	// Memory is the budget for go.mod files, and for large output of the go command.
	// Nil is no limit.
	Memory *memory.Budget

	Logger *slog.Logger // default: discard
}

func (c Config) withDefaults() Config {
	if len(c.Systems) == 0 {
		c.Systems = []string{"git"}
	}
	if c.Jobs <= 0 {
		c.Jobs = 4
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Minute
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 10 << 30
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Network says which hosts may be reached.
type Network = guard.Config

// Credential says how to authenticate at one host.
type Credential = credential.Credential

// CheckCredentials returns the error that New would return for these credentials, for a
// file that cannot be read for instance. It changes nothing.
func CheckCredentials(list []Credential, netrc string) error { return credential.Check(list, netrc) }
