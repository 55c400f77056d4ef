package vcs

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
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

	"github.com/assay-proxy/assay/defect"
)

// gitHubApp fetches the installation tokens of a GitHub App
// (docs.github.com/en/apps, "Authenticating as a GitHub App installation").
type gitHubApp struct {
	credential *Credential
	client     *http.Client

	asking singleflight.Group // concurrent callers want the same token

	mu      sync.Mutex
	current string
	until   time.Time
}

// renewBefore is how long before a token expires the next one is fetched: longer
// than a fetch takes that begins with it.
const renewBefore = 12 * time.Minute

func newGitHubApp(c *Credential, client *http.Client) *gitHubApp {
	return &gitHubApp{credential: c, client: client}
}

func (c *Credential) completeGitHub() error {
	if c.GitHubInstallation <= 0 || c.GitHubApp <= 0 || c.GitHubKey == "" {
		return errors.New("github_app needs github_installation and github_key")
	}
	if c.GitHubAPI == "" {
		c.GitHubAPI = "https://api.github.com"
	}
	u, err := url.Parse(c.GitHubAPI)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return errors.New("github_api must be an https URL")
	}
	_, err = c.gitHubKey()
	return err
}

func (c *Credential) gitHubKey() (*rsa.PrivateKey, error) {
	data, err := readSecret(c.GitHubKey, 0o027)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s has no private key in PEM", c.GitHubKey)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s has no RSA key", c.GitHubKey)
	}
	return key, nil
}

// token returns a token that is good for some minutes at least. However many want
// one, the API is asked once, and each waits no longer than it likes.
func (a *gitHubApp) token(ctx context.Context) (string, error) {
	if token := a.valid(); token != "" {
		return token, nil
	}
	ch := a.asking.DoChan("", func() (any, error) {
		if token := a.valid(); token != "" { // another one has just brought it
			return token, nil
		}
		var token string
		var until time.Time
		err := defect.Catch(func() (err error) {
			token, until, err = a.fetch(context.WithoutCancel(ctx)) // pageTime is its limit
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
		return "", a.trouble(fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx)))
	}
}

// valid returns the token there is, "" if it is about to expire.
func (a *gitHubApp) valid() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Until(a.until) <= renewBefore {
		return ""
	}
	return a.current
}

// drop makes the next run ask for another token than this one.
func (a *gitHubApp) drop(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current == token {
		a.current = ""
	}
}

// trouble returns an error of the API. Its host is not the one of the repository.
func (a *gitHubApp) trouble(err error) error {
	host := a.credential.GitHubAPI
	if u, parseErr := url.Parse(host); parseErr == nil {
		host = u.Host
	}
	return &hostError{host, fmt.Errorf("token of GitHub App %d: %w", a.credential.GitHubApp, err)}
}

// statusError says what a status of the API means. That there is no such
// installation does not say that there is no such module.
func (a *gitHubApp) statusError(status int) error {
	err := statusError(status)
	if err == nil || isAbsence(err) {
		err = ErrCredential
	}
	return a.trouble(fmt.Errorf("%w: status %d", err, status))
}

func (a *gitHubApp) fetch(ctx context.Context) (token string, until time.Time, err error) {
	assertion, err := a.credential.assertion(time.Now())
	if err != nil {
		return "", until, err
	}
	endpoint := strings.TrimSuffix(a.credential.GitHubAPI, "/") + "/app/installations/" + strconv.FormatInt(a.credential.GitHubInstallation, 10) + "/access_tokens"
	// The administrator has named the API: it may be inside.
	r, err := http.NewRequestWithContext(context.WithValue(ctx, reachKey{}, Private), http.MethodPost, endpoint, nil)
	if err != nil {
		return "", until, err
	}
	r.Header.Set("Authorization", "Bearer "+assertion)
	r.Header.Set("Accept", "application/vnd.github+json")
	resp, err := a.client.Do(r)
	if err != nil {
		return "", until, a.trouble(networkError(err))
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
		return "", until, a.trouble(fmt.Errorf("%w: the answer has no token", ErrUnavailable))
	}
	return answer.Token, answer.ExpiresAt, nil
}

// assertion returns the JWT by which an app says who it is. Clocks differ, so it
// begins a minute ago.
func (c *Credential) assertion(now time.Time) (string, error) {
	key, err := c.gitHubKey()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix(), "iss": strconv.FormatInt(c.GitHubApp, 10),
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
