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
)

// gitHubApp fetches the installation tokens of a GitHub App
// (docs.github.com/en/apps, "Authenticating as a GitHub App installation").
type gitHubApp struct {
	credential *Credential
	client     *http.Client

	mu      sync.Mutex // held over the request: who comes meanwhile wants the same token
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

// token returns a token that is good for some minutes at least.
func (a *gitHubApp) token(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current != "" && time.Until(a.until) > renewBefore {
		return a.current, nil
	}
	token, until, err := a.fetch(ctx)
	if err != nil {
		return "", fmt.Errorf("token of GitHub App %d: %w", a.credential.GitHubApp, err)
	}
	a.current, a.until = token, until
	return token, nil
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
		return "", until, networkError(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if resp.StatusCode != http.StatusCreated {
		return "", until, fmt.Errorf("status %d", resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil || answer.Token == "" {
		return "", until, errors.New("the answer has no token")
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
