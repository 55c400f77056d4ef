package credential

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"github.com/assay-proxy/assay/internal/egress"
	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// gitHubApp fetches the installation tokens of a GitHub App
// (docs.github.com/en/apps, "Authenticating as a GitHub App installation").
type gitHubApp struct {
	id, installation int64
	key              string // PEM file
	api              string // base URL
	client           *http.Client

	fetching singleflight.Group // concurrent callers share one request

	mu      sync.Mutex
	current string
	until   time.Time
}

// renewBefore is how long before a token expires the next one is fetched: longer than a
// command that uses it may take.
const renewBefore = 12 * time.Minute

// readAppKey reads the private key of an app.
func readAppKey(name string) (*rsa.PrivateKey, error) {
	data, err := readSecret(name, 0o027)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s has no private key in PEM", name)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s has no RSA key", name)
	}
	return key, nil
}

// token returns a token that is valid for some minutes at least. Concurrent callers share
// one request to the API, and each of them stops waiting when its ctx ends.
func (a *gitHubApp) token(ctx context.Context) (string, error) {
	if token := a.valid(); token != "" {
		return token, nil
	}
	ch := a.fetching.DoChan("", func() (any, error) {
		if token := a.valid(); token != "" { // another request has just fetched it
			return token, nil
		}
		var token string
		var until time.Time
		err := panics.Catch(func() (err error) {
			token, until, err = a.fetch(context.WithoutCancel(ctx)) // the client limits its time
			return err
		})
		if err != nil {
			return "", err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.current, a.until = token, until
		return token, nil
	})
	select {
	case r := <-ch:
		return r.Val.(string), r.Err
	case <-ctx.Done():
		return "", a.failed(fmt.Errorf("%w: %w", guard.ErrUnavailable, context.Cause(ctx)))
	}
}

// valid returns the current token, "" if it is about to expire.
func (a *gitHubApp) valid() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Until(a.until) <= renewBefore {
		return ""
	}
	return a.current
}

// drop forgets a token that a host rejected.
func (a *gitHubApp) drop(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current == token {
		a.current = ""
	}
}

// failed returns an error of the API. Its host is not the one of the repository.
func (a *gitHubApp) failed(err error) error {
	host := a.api
	if u, parseErr := url.Parse(host); parseErr == nil {
		host = u.Host
	}
	return &guard.HostError{Host: host, Err: fmt.Errorf("token of GitHub App %d: %w", a.id, err)}
}

// statusError returns the meaning of a status of the API. A missing installation does not
// mean that there is no such module.
func (a *gitHubApp) statusError(status int) error {
	err := guard.StatusError(status)
	if err == nil || notfound.Is(err) {
		err = guard.ErrCredential
	}
	return a.failed(fmt.Errorf("%w: status %d", err, status))
}

func (a *gitHubApp) fetch(ctx context.Context) (token string, until time.Time, err error) {
	assertion, err := a.assertion(time.Now())
	if err != nil {
		return "", until, err
	}
	endpoint := strings.TrimSuffix(a.api, "/") + "/app/installations/" + strconv.FormatInt(a.installation, 10) + "/access_tokens"
	// The administrator has named the API, so it may have an internal address.
	r, err := http.NewRequestWithContext(guard.WithReach(ctx, egress.Intranet), http.MethodPost, endpoint, nil)
	if err != nil {
		return "", until, err
	}
	r.Header.Set("Authorization", "Bearer "+assertion)
	r.Header.Set("Accept", "application/vnd.github+json")
	resp, err := a.client.Do(r)
	if err != nil {
		return "", until, a.failed(guard.RequestError(err))
	}
	defer resp.Body.Close()
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if resp.StatusCode != http.StatusCreated {
		return "", until, a.statusError(resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil || answer.Token == "" {
		return "", until, a.failed(fmt.Errorf("%w: the answer has no token", guard.ErrUnavailable))
	}
	return answer.Token, answer.ExpiresAt, nil
}

// assertion returns the JWT that identifies the app. Clocks differ, so it begins a minute
// ago.
func (a *gitHubApp) assertion(now time.Time) (string, error) {
	key, err := readAppKey(a.key)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix(), "iss": strconv.FormatInt(a.id, 10),
	})
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
