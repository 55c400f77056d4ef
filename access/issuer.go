package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/sync/singleflight"

	"github.com/assay-proxy/assay/internal/panics"
)

const (
	// issuerTime bounds a request to an issuer.
	issuerTime = 10 * time.Second
	// discoveryFails is how long a failed discovery is not repeated.
	discoveryFails = 3 * time.Second
	// discoveryAge is when an issuer is discovered again, which also removes keys that it has
	// withdrawn.
	discoveryAge = time.Hour
	// keyFetches is how often the keys are fetched in keyWindow: a token with an unknown key makes
	// go-oidc fetch them, and any client can make such a token.
	keyFetches = 4
	keyWindow  = time.Minute
	// maxAnswer bounds a response of an issuer; keys have some KiB.
	maxAnswer = 1 << 20
)

// algorithms returns the accepted algorithms, all with a public key. A token names its own
// algorithm; with others the public key would be the secret, or no key would be needed.
func algorithms() []string {
	return []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}
}

// issuer verifies the tokens of one issuer. It is discovered when it is first needed, so that a
// server can start while the issuer is down.
type issuer struct {
	issuerTable
	client     *http.Client // for discovery
	keysClient *http.Client // for keys, rate-limited
	log        *slog.Logger

	flight singleflight.Group

	mu       sync.Mutex // guards the fields below
	keys     *issuerKeys
	failure  error // of the last discovery, nil if it succeeded
	failedAt time.Time
}

// issuerKeys are the keys of an issuer, which go-oidc fetches when it needs them.
type issuerKeys struct {
	oidc.KeySet
	at time.Time // of the discovery
}

// due returns when the issuer must be discovered again.
func (k *issuerKeys) due() time.Time { return k.at.Add(discoveryAge) }

func newIssuer(table issuerTable, client *http.Client, log *slog.Logger) *issuer {
	slowed := *client
	slowed.Transport = &slowTransport{base: client.Transport}
	return &issuer{issuerTable: table, client: client, keysClient: &slowed, log: log}
}

// judge verifies a token. It returns the identity, and until when the result is valid: at most as
// long as the keys, which the issuer may withdraw.
func (i *issuer) judge(ctx context.Context, token string) (Identity, time.Time, error) {
	keys, err := i.keySet(ctx)
	if err != nil {
		return Identity{}, time.Time{}, err
	}
	watched := &watchedKeys{keys: keys}
	verifier := oidc.NewVerifier(i.URL, watched, &oidc.Config{ClientID: i.Audience, SupportedSigningAlgs: algorithms()})
	verified, err := verifier.Verify(ctx, token)
	switch {
	case watched.trouble != nil:
		return Identity{}, time.Time{}, unavailable("the keys of issuer %s: %w", i.URL, watched.trouble)
	case err != nil:
		return Identity{}, time.Time{}, refused("token of issuer %s: %s", i.URL, watched.reason(err))
	}
	id, err := i.identity(verified)
	until := verified.Expiry
	if keys.due().Before(until) {
		until = keys.due()
	}
	return id, until, err
}

// identity returns the identity that the first matching rule gives.
func (i *issuer) identity(token *oidc.IDToken) (Identity, error) {
	var raw json.RawMessage
	if err := token.Claims(&raw); err != nil {
		return Identity{}, refused("token of issuer %s: its claims are malformed", i.URL)
	}
	claims := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // an id like 12345678 must not become 1.2345678e+07
	if err := decoder.Decode(&claims); err != nil {
		return Identity{}, refused("token of issuer %s: its claims are malformed", i.URL)
	}
	name, _ := claims["sub"].(string)
	if !goodName(name) {
		return Identity{}, refused("token of issuer %s: its claim sub is not a usable name", i.URL)
	}
	for _, r := range i.Rules {
		if r.matches(claims) {
			return Identity{Name: name, Groups: slices.Clip(r.Groups), Kind: kindOIDC}, nil
		}
	}
	return Identity{}, refused("token of issuer %s for %s: no rule matches its claims", i.URL, name)
}

// keySet returns the issuer's keys after a discovery, which concurrent requests share. While a
// discovery is repeated, the previous keys are used.
func (i *issuer) keySet(ctx context.Context) (*issuerKeys, error) {
	keys, fresh, err := i.discovered()
	if fresh || err != nil {
		return keys, err
	}
	done := i.flight.DoChan("", func() (any, error) {
		// Several requests share it, so it does not end with one of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), issuerTime)
		defer cancel()
		if _, fresh, err := i.discovered(); fresh || err != nil { // a discovery that has just ended
			return nil, err
		}
		return nil, i.discover(ctx)
	})
	if keys != nil {
		return keys, nil
	}
	select {
	case result := <-done:
		if result.Err != nil {
			return nil, result.Err
		}
		keys, _, err = i.discovered()
		return keys, err
	case <-ctx.Done():
		return nil, unavailable("the request ended before issuer %s answered: %w", i.URL, context.Cause(ctx))
	}
}

// discovered returns the known keys, if any, and whether no discovery is needed now. It returns the
// error of a discovery that failed recently.
func (i *issuer) discovered() (keys *issuerKeys, fresh bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	failing := i.failure != nil && time.Since(i.failedAt) < discoveryFails
	if failing && i.keys == nil {
		return nil, false, i.failure
	}
	return i.keys, failing || i.keys != nil && time.Now().Before(i.keys.due()), nil
}

// discover fetches the location of the issuer's keys.
func (i *issuer) discover(ctx context.Context) error {
	var keys oidc.KeySet
	err := panics.Catch(func() (err error) { // the caller may have left
		keys, err = i.ask(ctx)
		return err
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil {
		i.failure, i.failedAt = unavailable("issuer %s: %w", i.URL, err), time.Now()
		i.log.Warn("an OIDC issuer cannot be discovered", "issuer", i.URL, "err", err)
		return i.failure
	}
	i.keys, i.failure = &issuerKeys{keys, time.Now()}, nil
	return nil
}

func (i *issuer) ask(ctx context.Context) (oidc.KeySet, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.URL)
	if err != nil {
		return nil, err
	}
	var document struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return nil, err
	}
	if document.Keys == "" {
		return nil, errors.New("its discovery document has no jwks_uri")
	}
	// The key set keeps this context, for its client, longer than any request lives.
	return oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), i.keysClient), document.Keys), nil
}

// watchedKeys records the result of a signature check. The verifier returns it only as a text, and
// a token that could not be checked must not count as refused.
type watchedKeys struct {
	keys    oidc.KeySet
	asked   bool
	signed  bool  // by the issuer
	trouble error // why the keys could not be fetched
}

// VerifySignature implements oidc.KeySet. An error of fetching keys wraps its cause; a wrong
// signature is an error without one.
func (w *watchedKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := w.keys.VerifySignature(ctx, token)
	w.asked, w.signed, w.trouble = true, err == nil, errors.Unwrap(err)
	return payload, err
}

// reason returns why the verifier refused a token. The verifier's text can quote the token, which
// is acceptable only if the issuer has signed the quoted part.
func (w *watchedKeys) reason(err error) string {
	switch {
	case !w.asked:
		return "it is malformed, or its algorithm has no public key"
	case !w.signed:
		return "its signature is wrong, or its key is not known to the issuer"
	}
	return err.Error()
}

// issuerClient returns a client for issuers: with timeouts, responses of bounded length, and https,
// also after redirects.
func issuerClient(given *http.Client) *http.Client {
	client := http.Client{}
	if given != nil {
		client = *given
	}
	if client.Timeout == 0 {
		client.Timeout = issuerTime // no key fetch hangs forever
	}
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = safeTransport{client.Transport}
	return &client
}

// safeTransport refuses URLs that are not protected in transit, and responses with an error status.
type safeTransport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t safeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !safeURL(r.URL) {
		return nil, fmt.Errorf("%s is not https", r.URL.Redacted())
	}
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("%s answers with more than %d bytes", r.URL.Redacted(), maxAnswer)
	}
	if resp.StatusCode >= 400 { // as an error, unlike a wrong signature
		return nil, fmt.Errorf("%s answers %s", r.URL.Redacted(), resp.Status)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// slowTransport repeats the last response when there are too many requests.
type slowTransport struct {
	base http.RoundTripper

	mu      sync.Mutex // guards the fields below
	fetches bucket
	last    *http.Response // without its body; nil = none yet, or the request failed
	body    []byte
	err     error
}

// RoundTrip implements http.RoundTripper.
func (t *slowTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if resp, err := t.repeat(r); resp != nil || err != nil {
		return resp, err
	}
	resp, err := t.base.RoundTrip(r)
	var body []byte
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.body, t.err = resp, body, err
	if err != nil {
		t.last = nil
		return nil, err
	}
	return t.copyFor(r), nil
}

// repeat returns the last response if it is too early for another request, otherwise nil.
func (t *slowTransport) repeat(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	early := t.fetches.wait(now, keyFetches, keyWindow) > 0
	switch {
	case early && t.last != nil:
		return t.copyFor(r), nil
	case early && t.err != nil:
		return nil, t.err
	}
	t.fetches.add(now, keyFetches, keyWindow)
	return nil, nil
}

// copyFor returns a copy of the last response. The caller holds mu.
func (t *slowTransport) copyFor(r *http.Request) *http.Response {
	resp := *t.last
	resp.Request, resp.Header = r, t.last.Header.Clone()
	resp.Body = io.NopCloser(bytes.NewReader(t.body))
	return &resp
}
