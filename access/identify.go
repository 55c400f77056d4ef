package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxHeader is the length of the longest Authorization header that is read. The tokens of CI
// systems have 1 to 3 KiB.
const maxHeader = 8 << 10

// Identify returns the identity of the client of r. Without any credential that is the zero
// Identity and no error. For a wrong, expired, malformed or unknown credential it is the zero
// Identity and an error that wraps ErrRefused; for one that cannot be checked at present, an error
// that wraps ErrUnavailable instead. The text contains the reason, for the log, and no part of the
// credential.
//
// An Authorization header takes precedence over a client certificate: the client chose it for this
// request, and must learn that it is wrong.
//
// Identify counts the request. If r is from Remember, it checks the credential once, and returns
// the same result on later calls.
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

// A Memory is the result of Identify for one request. It belongs to the goroutine that handles the
// request.
type Memory struct {
	Asked    bool // whether Identify was called at all
	Identity Identity
	Err      error
}

type memoryKey struct{}

// Remember returns r with a Memory, which the caller reads when the response is written. A request
// without any credential is anonymous: it is returned unchanged, with nil.
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

// identifyBasic parses value as a user and a password, or as any user with a token as the password,
// which is the form of .netrc.
func (a *Authenticator) identifyBasic(r *http.Request, value string) (Identity, string, error) {
	decoded, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return Identity{}, kindBasic, refused("the basic credential is not base64") // the decoder's error contains bytes of the credential
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

// looksLikeJWT distinguishes a JWT from a password that happens to contain two dots: a JWT begins
// with the base64 of {".
func looksLikeJWT(password string) bool {
	return strings.HasPrefix(password, "eyJ") && strings.Count(password, ".") == 2
}

// identifyCertificate identifies the client by its certificate. crypto/tls verified it when the
// connection was made, and connections can outlive certificates, so it checks the time again.
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

// identifyPassword identifies a user of the htpasswd file.
func (a *Authenticator) identifyPassword(r *http.Request, user, password string) (Identity, error) {
	h := a.htpasswd.Get()
	if h == nil {
		return Identity{}, refused("there is no htpasswd file, so every password is wrong")
	}
	if err := a.passwords.check(r.Context(), h, a.remote(r), user, password); err != nil {
		return Identity{}, err
	}
	return Identity{Name: user, Groups: slices.Clip(a.groups.Get()[user]), Kind: kindBasic}, nil
}

// identifyToken identifies the bearer of one of our tokens. It looks up a hash in the map, so the
// time reveals nothing about the secrets.
func (a *Authenticator) identifyToken(secret string) (Identity, error) {
	t := a.tokens.Get()[sha256.Sum256([]byte(secret))]
	switch {
	case t == nil:
		return Identity{}, refused("unknown token")
	case t.Revoked:
		return Identity{}, refused("token %s of %s is revoked", t.ID, t.Name)
	case t.ExpiredAt(time.Now()):
		return Identity{}, refused("token %s of %s expired on %s", t.ID, t.Name, t.Expires.Format(time.RFC3339))
	}
	return Identity{Name: t.Name, Groups: t.Groups, Kind: kindToken, Scope: strings.Join(t.Scope, ",")}, nil
}

// identifyJWT identifies the bearer of a token of an issuer.
func (a *Authenticator) identifyJWT(ctx context.Context, token string) (Identity, error) {
	all := a.oidc.Get()
	if all == nil || len(all.byURL) == 0 {
		return Identity{}, refused("the credential is a JWT, but no OIDC issuer is configured")
	}
	sum := sha256.Sum256([]byte(token))
	if id, ok := all.remembered(sum); ok {
		return id, nil
	}
	i := all.byURL[unverifiedIssuer(token)]
	if i == nil {
		return Identity{}, refused("the JWT is malformed or its issuer is not configured")
	}
	id, until, err := i.judge(ctx, token)
	if err != nil {
		return Identity{}, err
	}
	all.remember(sum, judgement{id, until})
	return id, nil
}
