package credential

import (
	"strings"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// Auth is what one command authenticates with.
type Auth struct {
	ID      string   // of the credential; the same when its secret is renewed
	Header  string   // value of Authorization for https, "" for SSH
	Secrets []string // that must not be printed
	SSH     *Key     // nil for https

	rejected func() // nil: a rejection changes nothing
}

// Rejected notes that the host rejected it. a may be nil.
func (a *Auth) Rejected() {
	if a != nil && a.rejected != nil {
		a.rejected()
	}
}

func basicAuth(user, password string) *Auth {
	header := guard.BasicAuth(user, password)
	return &Auth{Header: header, Secrets: []string{password, strings.TrimPrefix(header, "Basic ")}}
}
