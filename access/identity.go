package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/module"
)

// ErrRefused is wrapped by every error about a credential that is wrong, expired,
// malformed or unknown.
var ErrRefused = errors.New("access refused")

// errSlowed is wrapped, together with ErrRefused, by the error for a password that was
// not checked because too many wrong ones came from the same address. The error is a
// *slowedError.
var errSlowed = errors.New("too many wrong passwords")

// ErrUnavailable is wrapped by the error for a credential that could not be checked:
// the OIDC issuer does not answer, or the request ended first. The error does not wrap
// ErrRefused, but the client must not be admitted either.
var ErrUnavailable = errors.New("cannot be checked at present")

// slowedError wraps errSlowed and ErrRefused. Wait is the time after which another
// attempt from the same address is checked.
type slowedError struct{ Wait time.Duration }

func (e *slowedError) Error() string {
	return fmt.Sprintf("%v: %v from this address, wait %v", ErrRefused, errSlowed, e.Wait.Round(time.Second))
}

// Unwrap returns both sentinels.
func (e *slowedError) Unwrap() []error { return []error{ErrRefused, errSlowed} }

// The kinds of Identity, and two more for the metrics.
const (
	kindBasic       = "basic"
	kindToken       = "token"
	kindOIDC        = "oidc"
	kindCertificate = "certificate"
	kindNone        = "none"  // no credential
	kindOther       = "other" // a header that is none of these
)

// An Identity identifies the client of a request. The zero Identity is an anonymous client.
type Identity struct {
	Name   string
	Groups []string // in no order; shared, so it must not be modified
	Kind   string   // the method: basic, token, oidc, certificate; "" = not authenticated

	// Scope is a list of patterns in the syntax of GOPRIVATE: the groups apply only
	// to matching modules; "" = to all.
	Scope string
}

// Covers reports whether the groups apply to the module with the decoded path.
func (i Identity) Covers(modulePath string) bool {
	return i.Scope == "" || module.MatchPrefixPatterns(i.Scope, modulePath)
}

// Anonymous reports whether the request came without a credential.
func (i Identity) Anonymous() bool { return i.Kind == "" }

// In reports whether the identity is in a group.
func (i Identity) In(group string) bool { return slices.Contains(i.Groups, group) }

// refused returns an error about a credential, which must not contain any part
// of it.
func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

// unavailable returns an error about a credential that could not be checked.
func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}

// maxName is the maximum length of the name of a user, a token or a group in bytes. Names are
// logged.
const maxName = 255

// goodName reports whether name can be written to a log and to our files: it is
// printable and has no white space.
func goodName(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) })
}

// none replaces a missing name or time in our files.
const none = "-"

// goodGroup reports whether a group can have this name in each of our files.
func goodGroup(name string) bool {
	return goodName(name) && name != none && !strings.Contains(name, ",")
}
