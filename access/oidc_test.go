package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/go-jose/go-jose/v4"

	"github.com/assay-proxy/assay/access"
)

// A fakeIssuer is an OIDC issuer with TLS and keys that can be changed.
type fakeIssuer struct {
	*httptest.Server
	discoveries, fetches atomic.Int64

	mu     sync.Mutex // guards the fields below
	keys   jose.JSONWebKeySet
	answer http.HandlerFunc // response to everything, if it is not nil
	wait   chan struct{}    // responses wait until it is closed, if it is not nil
}

func newIssuer(t testing.TB, keys ...jose.JSONWebKey) *fakeIssuer {
	i := &fakeIssuer{}
	i.setKeys(keys...)
	i.Server = httptest.NewTLSServer(i)
	t.Cleanup(i.Close)
	return i
}

func (i *fakeIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	keys, answer, wait := i.keys, i.answer, i.wait
	i.mu.Unlock()
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		i.discoveries.Add(1)
	case "/keys":
		i.fetches.Add(1)
	}
	if wait != nil {
		<-wait
	}
	switch {
	case answer != nil:
		answer(w, r)
	case r.URL.Path == "/keys":
		_ = json.NewEncoder(w).Encode(keys)
	default:
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"HS256", "RS256", "ES256", "none"}})
	}
}

// setKeys makes the issuer serve the public halves of keys.
func (i *fakeIssuer) setKeys(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = jose.JSONWebKeySet{}
	for _, k := range keys {
		i.keys.Keys = append(i.keys.Keys, k.Public())
	}
}

func (i *fakeIssuer) setAnswer(answer http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

// status returns a handler that responds with a status.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// newKey returns an ECDSA key, which is quick to make.
func newKey(t testing.TB, id string) jose.JSONWebKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}
}

// claims returns the claims of a job at the issuer, changed by pairs of name and value; a value of
// nil removes the claim.
func (i *fakeIssuer) claims(changes ...any) map[string]any {
	now := time.Now()
	all := map[string]any{"iss": i.URL, "aud": "assay", "sub": "repo:acme/app:ref:refs/heads/main", "repository": "acme/app", "ref": "refs/heads/main",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	for n := 0; n < len(changes); n += 2 {
		if all[changes[n].(string)] = changes[n+1]; changes[n+1] == nil {
			delete(all, changes[n].(string))
		}
	}
	return all
}

// sign returns a token with the claims.
func sign(t testing.TB, key jose.JSONWebKey, claims map[string]any) string {
	t.Helper()
	return signWith(t, key, claims, nil)
}

// signWith is sign with options.
func signWith(t testing.TB, key jose.JSONWebKey, claims map[string]any, options *jose.SignerOptions) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// rules returns an OIDC file for one issuer.
func rules(url string) string {
	return fmt.Sprintf(`
[[issuer]]
url = %q
audience = "assay"

[[issuer.rule]]
claims = { repository = "acme/secret-*", ref = "refs/heads/main" }
groups = ["release", "build"]

[[issuer.rule]]
claims = { repository = "acme/*" }
groups = ["build"]

[[issuer.rule]]
claims = { teams = "platform" }
groups = ["ops"]

[[issuer.rule]]
claims = { repository_id = "1234567890123", protected = "true" }
`, url)
}

// believer returns an authenticator that trusts an issuer.
func believer(t testing.TB, i *fakeIssuer, log *logBuffer) *access.Authenticator {
	t.Helper()
	c := access.Config{OIDC: write(t, "oidc.toml", rules(i.URL)), Client: i.Client()}
	if log != nil {
		c.Logger = log.logger()
	}
	return newAuthenticator(t, c)
}

// wantUnavailable checks that a token cannot be checked at present.
func wantUnavailable(t testing.TB, a *access.Authenticator, token, text string) {
	t.Helper()
	id, err := a.Identify(request(t, "Bearer "+token))
	if !errors.Is(err, access.ErrUnavailable) || errors.Is(err, access.ErrRefused) || !strings.Contains(err.Error(), text) || !id.Anonymous() {
		t.Errorf("%+v, %v; want it not judged, with %q", id, err, text)
	}
	if err != nil && strings.Contains(err.Error(), token) {
		t.Errorf("the error has the token: %v", err)
	}
}

func TestOIDC(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1")
	i := newIssuer(t, key)
	a := believer(t, i, nil)
	if n := i.discoveries.Load(); n != 0 {
		t.Errorf("the issuer was asked %d times before there was a token", n)
	}
	for _, tt := range []struct {
		name    string
		changes []any
		groups  string
	}{
		{"second rule", nil, "build"},
		{"first rule wins", []any{"repository", "acme/secret-app"}, "release,build"},
		{"all claims of a rule", []any{"repository", "acme/secret-app", "ref", "refs/heads/other"}, "build"},
		{"an element of an array", []any{"repository", "x/y", "teams", []string{"web", "platform"}}, "ops"},
		{"a number and a bool", []any{"repository", "x/y", "repository_id", int64(1234567890123), "protected", true}, ""},
		{"one of many audiences", []any{"aud", []string{"other", "assay"}}, "build"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := sign(t, key, i.claims(tt.changes...))
			for range 2 { // verified, then remembered
				wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", tt.groups)
			}
			wantIdentity(t, a, basic("oauth2", token), "oidc", "repo:acme/app:ref:refs/heads/main", tt.groups)
		})
	}
	if d, f := i.discoveries.Load(), i.fetches.Load(); d != 1 || f != 1 {
		t.Errorf("%d discoveries and %d fetches of keys, want one of each", d, f)
	}
}

// Refused tokens. No error contains more of a token than its issuer signed.
func TestOIDCRefuses(t *testing.T) {
	t.Parallel()
	key, stranger := newKey(t, "1"), newKey(t, "1")
	unknown := newKey(t, "2")
	i, other := newIssuer(t, key), newIssuer(t, key)
	a := believer(t, i, nil)
	hour := time.Hour
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	for _, tt := range []struct {
		name, token, want string
	}{
		{"another audience", sign(t, key, i.claims("aud", "other")), "audience"},
		{"an audience that only begins so", sign(t, key, i.claims("aud", "assay2")), "audience"},
		{"no audience", sign(t, key, i.claims("aud", nil)), "audience"},
		{"another issuer", sign(t, key, other.claims()), "its issuer is not configured"},
		{"an issuer with a slash more", sign(t, key, i.claims("iss", i.URL+"/")), "its issuer is not configured"},
		{"no issuer", sign(t, key, i.claims("iss", nil)), "its issuer is not configured"},
		{"an issuer that is a number", sign(t, key, i.claims("iss", 1)), "malformed"},
		{"expired", sign(t, key, i.claims("exp", ago(time.Minute))), "expired"},
		{"without an end", sign(t, key, i.claims("exp", nil)), "expired"},
		{"not yet", sign(t, key, i.claims("nbf", ago(-hour))), "before the nbf"},
		{"a stranger's key with the same id", sign(t, stranger, i.claims()), "its signature is wrong"},
		{"an unknown key", sign(t, unknown, i.claims()), "its signature is wrong, or its key is not known"},
		{"no rule", sign(t, key, i.claims("repository", "evil/app")), "no rule matches its claims"},
		{"a pattern stops at a slash", sign(t, key, i.claims("repository", "acme/app/x")), "no rule matches its claims"},
		{"an owner that begins so", sign(t, key, i.claims("repository", "acme-evil/app")), "no rule matches its claims"},
		{"an empty array", sign(t, key, i.claims("repository", []string{})), "no rule matches its claims"},
		{"an array in an array", sign(t, key, i.claims("repository", [][]string{{"acme/app"}})), "no rule matches its claims"},
		{"an object", sign(t, key, i.claims("repository", map[string]string{"acme/app": "acme/app"})), "no rule matches its claims"},
		{"half of a rule", sign(t, key, i.claims("repository", "x/y", "repository_id", "1234567890123")), "no rule matches its claims"},
		{"no subject", sign(t, key, i.claims("sub", nil)), "sub is not a usable name"},
		{"a subject of two lines", sign(t, key, i.claims("sub", "a\nb")), "sub is not a usable name"},
		{"a subject that is a list", sign(t, key, i.claims("sub", []string{"a"})), "cannot unmarshal"},
	} {
		t.Run(tt.name, func(t *testing.T) { refusedJWT(t, a, tt.token, tt.want) })
	}
}

// refusedJWT checks that a token is refused, twice, without a part of it in the text.
func refusedJWT(t testing.TB, a *access.Authenticator, token, want string) {
	t.Helper()
	for range 2 {
		wantRefused(t, a, "Bearer "+token, want)
		_, err := a.Identify(request(t, "Bearer "+token))
		for part := range strings.SplitSeq(token, ".") {
			if err != nil && len(part) > 8 && strings.Contains(err.Error(), part) {
				t.Errorf("the error has a part of the token: %v", err)
			}
		}
	}
	if n := access.Remembered(a); n != 0 {
		t.Errorf("%d refused tokens are remembered", n)
	}
}

// Tokens that choose an algorithm for which the public key is not a secret.
func TestOIDCAlgorithms(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := jose.JSONWebKey{Key: private, KeyID: "1", Algorithm: string(jose.RS256), Use: "sig"}
	i := newIssuer(t, key)
	a := believer(t, i, nil)
	encode := base64.RawURLEncoding.EncodeToString
	payload, err := json.Marshal(i.claims())
	if err != nil {
		t.Fatal(err)
	}
	for _, none := range []string{"none", "None", "NONE", ""} {
		header := encode(fmt.Appendf(nil, `{"alg":%q,"kid":"1"}`, none))
		refusedJWT(t, a, header+"."+encode(payload)+".", "malformed, or its algorithm")
		refusedJWT(t, a, header+"."+encode(payload)+".AAAA", "malformed, or its algorithm")
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), private.N.Bytes()} {
		forged := jose.JSONWebKey{Key: secret, KeyID: "1", Algorithm: string(jose.HS256)}
		refusedJWT(t, a, sign(t, forged, i.claims()), "malformed, or its algorithm")
	}

	good := sign(t, key, i.claims())
	header, rest, _ := strings.Cut(good, ".")
	body, signature, _ := strings.Cut(rest, ".")
	changed, err := json.Marshal(i.claims("repository", "acme/secret-app"))
	if err != nil {
		t.Fatal(err)
	}
	refusedJWT(t, a, header+"."+encode(changed)+"."+signature, "its signature is wrong")
	refusedJWT(t, a, header+"."+body+"."+encode(make([]byte, 256)), "its signature is wrong")
	refusedJWT(t, a, header+"."+body+".", "its signature is wrong")
	// A key that comes with the token is not the issuer's.
	token := signWith(t, newKey(t, "1"), i.claims(), (&jose.SignerOptions{EmbedJWK: true}).WithHeader("jku", "https://evil.test/keys"))
	refusedJWT(t, a, token, "its signature is wrong")

	wantIdentity(t, a, "Bearer "+good, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
}

// New rules apply at once, also to remembered tokens.
func TestOIDCRulesChange(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1")
	i := newIssuer(t, key)
	file := write(t, "oidc.toml", rules(i.URL))
	a := newAuthenticator(t, access.Config{OIDC: file, Client: i.Client()})
	token := sign(t, key, i.claims())
	wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
	reload(t, a, file, strings.ReplaceAll(rules(i.URL), `"acme/*"`, `"other/*"`))
	refusedJWT(t, a, token, "no rule matches")
	reload(t, a, file, "")
	refusedJWT(t, a, token, "no OIDC issuer is configured")
}

// At a shared issuer, a rule must say whose tokens it means.
func TestOIDCSharedIssuers(t *testing.T) {
	t.Parallel()
	github, gitlab, buildkite := "https://token.actions.githubusercontent.com", "https://gitlab.com", "https://agent.buildkite.com"
	for _, tt := range []struct {
		url, claims string
		ok          bool
	}{
		{github, `ref = "refs/heads/main"`, false},
		{github, `repository = "acme/app"`, true},
		{github, `repository = "acme/*", ref = "refs/heads/main"`, true},
		{github, `repository = "acme*/app"`, false},
		{github, `repository = "*/app"`, false},
		{github, `repository = "[a]cme/app"`, false},
		{github, `repository = "/*x"`, false},
		{github, `repository_owner = "acme"`, true},
		{github, `repository_owner = "acm?"`, false},
		{github, `repository_owner = "acm?", repository_id = "1"`, true},
		{github, `sub = "repo:acme/*:ref:refs/heads/main"`, true},
		{github, `sub = "repo:*/app:ref:refs/heads/main"`, false},
		{github, `sub = "environment:production"`, false},
		{github, `sub = "job_workflow_ref:acme/*"`, false},
		{github, `job_workflow_ref = "acme/ci/.github/workflows/build.yml@refs/heads/main"`, false},
		{github + "/", `actor = "alice"`, false},
		{github + "/acme", `actor = "alice"`, true}, // an enterprise's own issuer
		{gitlab, `ref_protected = "true"`, false},
		{gitlab, `ref_protected = "true", project_path = "acme/*/*"`, true},
		{gitlab, `namespace_path = "acme"`, true},
		{gitlab, `namespace_path = "acme*"`, false},
		{gitlab, `sub = "project_path:acme/app:ref_type:branch:ref:main"`, true},
		{buildkite, `build_branch = "main"`, false},
		{buildkite, `pipeline_slug = "app"`, false},
		{buildkite, `organization_slug = "acm*"`, false},
		{buildkite, `organization_slug = "acme", pipeline_slug = "*"`, true},
		{buildkite, `organization_id = "0184990a-477b-4fa8-9968-496074483cee"`, true},
		{"https://gitlab.corp.example", `ref_protected = "true"`, true},
	} {
		file := write(t, "oidc.toml", fmt.Sprintf("[[issuer]]\nurl = %q\naudience = \"a\"\n[[issuer.rule]]\nclaims = { %s }\n", tt.url, tt.claims))
		_, err := access.New(t.Context(), access.Config{OIDC: file})
		if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), "rule 1: every user of the internet can get tokens from this issuer") {
			t.Errorf("%s with %s: %v", tt.url, tt.claims, err)
		}
	}
}

// The server accepts the example file in the manual.
func TestOIDCFileOfTheManual(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(manual), "\n    [[issuer]]\n")
	example, _, ok := strings.Cut(rest, "\n- ")
	if !ok || strings.Count(example, "[[issuer.rule]]") != 3 {
		t.Fatalf("the example:\n%s", example)
	}
	if !newAuthenticator(t, access.Config{OIDC: write(t, "oidc.toml", "[[issuer]]\n"+example)}).Configured() {
		t.Error("it configures nothing")
	}
}

// Two issuers: each is trusted only for its own tokens, although their keys have the same ids.
func TestOIDCTwoIssuers(t *testing.T) {
	t.Parallel()
	keyA, keyB := newKey(t, "1"), newKey(t, "1")
	issuerA, issuerB := newIssuer(t, keyA), newIssuer(t, keyB)
	file := write(t, "oidc.toml", rules(issuerA.URL)+strings.ReplaceAll(rules(issuerB.URL), `"build"`, `"b"`))
	a := newAuthenticator(t, access.Config{OIDC: file, Client: issuerA.Client()}) // both have the certificate of httptest
	wantIdentity(t, a, "Bearer "+sign(t, keyA, issuerA.claims()), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
	wantIdentity(t, a, "Bearer "+sign(t, keyB, issuerB.claims()), "oidc", "repo:acme/app:ref:refs/heads/main", "b")
	wantRefused(t, a, "Bearer "+sign(t, keyA, issuerB.claims()), "its signature is wrong")
}

// The configured issuers are those of the file, and rules that match every token are refused, in
// any spelling.
func FuzzOIDCFile(f *testing.F) {
	f.Add(rules("https://issuer.test"))
	f.Add("")
	f.Add("[[issuer]]\nurl = \"http://127.0.0.1:1\"\naudience = \"a\"\n[[issuer.rule]]\nclaims = { sub = \"[a-\" }")
	f.Add("[[issuer]]\nurl = \"https://a.test\"\naudience = \"a\"\n[[issuer.rule]]\nclaims = { sub = \"[!x]*\" }")
	f.Add("[issuer]\nurl = 1")
	key := newKey(f, "1")
	strange := sign(f, key, map[string]any{"iss": "https://issuer.test", "sub": "x", "aud": "assay", "exp": int64(9999999999)})
	f.Fuzz(func(t *testing.T, text string) {
		a, err := access.New(t.Context(), access.Config{OIDC: write(t, "oidc.toml", text), Client: &http.Client{Transport: offline{}}})
		if err != nil {
			return
		}
		var file map[string]any
		if _, err := toml.Decode(text, &file); err != nil {
			t.Fatal(err)
		}
		for _, issuer := range tables(file, "issuer") {
			rules := tables(issuer, "rule")
			if len(values(issuer, "audience")) == 0 || len(rules) == 0 || slices.ContainsFunc(rules, func(rule map[string]any) bool { return len(values(rule, "claims")) == 0 }) {
				t.Errorf("an issuer without audience, rules or claims in %q", text)
			}
		}
		if a.Configured() != (len(tables(file, "issuer")) > 0) {
			t.Errorf("Configured() = %v by %q", a.Configured(), text)
		}
		if id, err := a.Identify(request(t, "Bearer "+strange)); err == nil {
			t.Errorf("%+v", id)
		}
	})
}

// values returns the values of a key, which may have letters in any case.
func values(table map[string]any, key string) (all []any) {
	for name, value := range table {
		if strings.EqualFold(name, key) {
			all = append(all, value)
		}
	}
	return all
}

// tables returns the tables of an array, in any notation.
func tables(table map[string]any, key string) (all []map[string]any) {
	for _, value := range values(table, key) {
		switch list := value.(type) {
		case []map[string]any:
			all = append(all, list...)
		case []any:
			for _, element := range list {
				if t, ok := element.(map[string]any); ok {
					all = append(all, t)
				}
			}
		}
	}
	return all
}
