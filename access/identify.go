package access

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxHeader is the longest Authorization header that is looked at. The tokens of
// CI systems have 1 to 3 KiB.
const maxHeader = 8 << 10

// The kinds of Identity, and two more for the metrics.
const (
	kindBasic       = "basic"
	kindToken       = "token"
	kindOIDC        = "oidc"
	kindCertificate = "certificate"
	kindNone        = "none"  // no credential
	kindOther       = "other" // a header that is none of these
)

// Identify returns who r is from. Without any credential that is the zero
// Identity and no error. For one that is wrong, expired, malformed or unknown it
// is the zero Identity and an error that wraps ErrRefused; for one that cannot be
// judged at present, an error that wraps ErrUnavailable instead. The text says
// why, for the log, and contains no part of the credential.
//
// An Authorization header goes before a client certificate: it is what the
// client chose for this request, and if it is wrong, the client should know.
//
// It counts the request, and so it looks once at one that Remember made; later it
// returns what it returned then.
func (a *Authenticator) Identify(r *http.Request) (Identity, error) {
	memory, _ := r.Context().Value(memoryKey{}).(*Memory)
	if memory != nil && memory.Asked {
		return memory.Identity, memory.Err
	}
	id, kind, err := a.identify(r)
	a.metrics.count(kind, err)
	if err != nil {
		id = Identity{}
	}
	if memory != nil {
		*memory = Memory{Asked: true, Identity: id, Err: err}
	}
	return id, err
}

// A Memory is what Identify has found out about one request. It belongs to the
// goroutine that answers the request.
type Memory struct {
	Asked    bool // whether Identify was called at all
	Identity Identity
	Err      error
}

type memoryKey struct{}

// Remember returns r with a Memory, for the caller to read when the request is
// answered. A request without any credential is anonymous: it is returned as it is,
// with nil.
func Remember(r *http.Request) (*http.Request, *Memory) {
	if len(r.Header["Authorization"]) == 0 && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		return r, nil
	}
	memory := &Memory{}
	return r.WithContext(context.WithValue(r.Context(), memoryKey{}, memory)), memory
}

func (a *Authenticator) identify(r *http.Request) (id Identity, kind string, err error) {
	headers := r.Header["Authorization"]
	switch {
	case len(headers) > 1:
		return Identity{}, kindOther, refused("there are %d Authorization headers", len(headers))
	case len(headers) == 1:
		return a.identifyHeader(r, headers[0])
	case a.certificates && r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		id, err = a.identifyCertificate(r)
		return id, kindCertificate, err
	}
	return Identity{}, kindNone, nil
}

func (a *Authenticator) identifyHeader(r *http.Request, header string) (Identity, string, error) {
	if len(header) > maxHeader {
		return Identity{}, kindOther, refused("the Authorization header has %d bytes, more than %d", len(header), maxHeader)
	}
	scheme, value, ok := strings.Cut(header, " ")
	value = strings.Trim(value, " ")
	switch {
	case !ok || value == "":
		return Identity{}, kindOther, refused("the Authorization header has no credential after a scheme")
	case strings.EqualFold(scheme, "Basic"):
		return a.identifyBasic(r, value)
	case strings.EqualFold(scheme, "Bearer"):
		return a.identifyBearer(r, value)
	}
	return Identity{}, kindOther, refused("the Authorization header is neither Basic nor Bearer")
}

func (a *Authenticator) identifyBearer(r *http.Request, secret string) (id Identity, kind string, err error) {
	switch {
	case strings.HasPrefix(secret, tokenPrefix):
		id, err = a.identifyToken(secret)
		return id, kindToken, err
	case strings.Count(secret, ".") == 2:
		id, err = a.identifyJWT(r.Context(), secret)
		return id, kindOIDC, err
	}
	return Identity{}, kindOther, refused("the bearer token is neither a token of this server nor a JWT")
}

// identifyBasic takes value for a user and a password, or for any user with a
// token as the password, which is the form that .netrc has.
func (a *Authenticator) identifyBasic(r *http.Request, value string) (Identity, string, error) {
	decoded, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return Identity{}, kindBasic, refused("the basic credential is not base64") // the decoder's error has bytes of it
	}
	user, password, ok := strings.Cut(string(decoded), ":")
	switch {
	case !ok:
		return Identity{}, kindBasic, refused("the basic credential has no colon")
	case strings.Contains(user, "\x00") || strings.Contains(password, "\x00"):
		return Identity{}, kindBasic, refused("the basic credential contains a NUL")
	case strings.HasPrefix(password, tokenPrefix), looksLikeJWT(password):
		return a.identifyBearer(r, password)
	}
	id, err := a.identifyPassword(r, user, password)
	return id, kindBasic, err
}

// looksLikeJWT tells a JWT from a password that happens to have two dots: a JWT
// begins with the base64 of {".
func looksLikeJWT(password string) bool {
	return strings.HasPrefix(password, "eyJ") && strings.Count(password, ".") == 2
}

// identifyCertificate names the client by its certificate, which crypto/tls has
// verified when the connection was made: connections can outlive certificates.
func (a *Authenticator) identifyCertificate(r *http.Request) (Identity, error) {
	leaf := r.TLS.VerifiedChains[0][0]
	name := leaf.Subject.CommonName
	if len(leaf.DNSNames) > 0 {
		name = leaf.DNSNames[0]
	}
	switch {
	case time.Now().After(leaf.NotAfter):
		return Identity{}, refused("the client certificate has expired")
	case !goodName(name):
		return Identity{}, refused("the client certificate has no usable name")
	}
	return Identity{Name: name, Groups: slices.Clip(a.groups.Get()[name]), Kind: kindCertificate}, nil
}

// maxName is the longest name of a user, a token or a group in bytes. Names go
// to logs.
const maxName = 255

// goodName reports whether name can be written to a log and to our files: it is
// printable and has no white space.
func goodName(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) })
}

// remoteHost is the default of Config.Remote.
func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
