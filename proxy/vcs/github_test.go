package vcs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

const apiHost = "api.corp.example"

// gitHubKey returns the PEM of a key, and its public key.
func gitHubKey(t *testing.T) (string, *rsa.PublicKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return string(pem.EncodeToMemory(block)), &key.PublicKey
}

// gitHub is the part of GitHub's API that issues tokens
// (docs.github.com/en/rest/apps/apps, "Create an installation access token").
type gitHub struct {
	t   *testing.T
	w   *vcstest.World
	key *rsa.PublicKey

	mu     sync.Mutex
	given  int           // tokens
	lives  time.Duration // a token
	status int           // instead of a token, 0 for none
	wait   chan struct{} // before anything, nil for no wait
}

func (g *gitHub) set(lives time.Duration, status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lives, g.status = lives, status
}

// hang makes all requests wait until back is called.
func (g *gitHub) hang() (back func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wait = make(chan struct{})
	return func() { close(g.wait) }
}

func (g *gitHub) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.given
}

func (g *gitHub) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	wait := g.wait
	g.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/api/v3/app/installations/42/access_tokens" {
		g.t.Errorf("asked for %s %s", r.Method, r.URL)
		http.NotFound(rw, r)
		return
	}
	if err := g.check(r); err != nil {
		g.t.Errorf("assertion: %v", err)
	}
	if g.status != 0 {
		http.Error(rw, `{"message":"no"}`, g.status)
		return
	}
	g.given++
	token := fmt.Sprintf("ghs_s3cret%d", g.given)
	g.w.Password("x-access-token", token) // the previous one is no longer valid
	rw.WriteHeader(http.StatusCreated)
	fmt.Fprintf(rw, `{"token":%q,"expires_at":%q}`, token, time.Now().Add(g.lives).Format(time.RFC3339))
}

// check verifies the assertion of the app.
func (g *gitHub) check(r *http.Request) error {
	text, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return err
	}
	payload, err := signed.Verify(g.key)
	if err != nil {
		return err
	}
	var claims struct {
		Iss      string
		Iat, Exp int64
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return err
	}
	if now := time.Now().Unix(); claims.Iss != "7" || claims.Iat > now || claims.Exp <= now || claims.Exp-claims.Iat > 600 {
		return fmt.Errorf("claims %s at %d", payload, now)
	}
	return nil
}

// newGitHub makes the API, and a source that has an app there.
func newGitHub(t *testing.T, change func(*vcs.Config)) (*gitHub, *vcstest.World, *source) {
	t.Helper()
	w := vcstest.New(t)
	private, public := gitHubKey(t)
	g := &gitHub{t: t, w: w, key: public, lives: time.Hour}
	w.Host(apiHost, g)
	w.Password("x-access-token", "none yet")
	w.Module("hello", hello, hello2, strings.Replace(hello2, "v1.1.0", "v1.2.0", 1))
	file := writeSecret(t, "app.pem", private)
	return g, w, newSource(t, w, func(c *vcs.Config) {
		c.Credentials = []vcs.Credential{{Pattern: "corp.example", Host: vcstest.GitHost,
			GitHubApp: 7, GitHubInstallation: 42, GitHubKey: file, GitHubAPI: "https://" + apiHost + "/api/v3/"}}
		if change != nil {
			change(c)
		}
	})
}

// A token is used until it is about to expire; then the next one is fetched, without a
// gap.
func TestGitHubApp(t *testing.T) {
	t.Parallel()
	g, _, s := newGitHub(t, nil)
	s.want("corp.example/hello", "v1.0.0")
	s.want("corp.example/hello", "v1.1.0")
	if n := g.count(); n != 1 {
		t.Errorf("%d tokens, want one that is used again", n)
	}
	s.keepsSecrets("s3cret", "eyJhbGci")
}

func TestGitHubAppRenews(t *testing.T) {
	t.Parallel()
	g, _, s := newGitHub(t, nil)
	g.set(5*time.Minute, 0) // less than what a fetch may need
	s.want("corp.example/hello", "v1.0.0")
	g.set(time.Hour, 0)
	s.want("corp.example/hello", "v1.1.0")
	s.want("corp.example/hello", "v1.2.0")
	if n := g.count(); n != 2 {
		t.Errorf("%d tokens, want a second one before the first expires, and no third", n)
	}
	s.keepsSecrets("s3cret", "eyJhbGci")
}

// A token that the host rejects before it expires is not used again.
func TestGitHubAppRevoked(t *testing.T) {
	t.Parallel()
	g, w, s := newGitHub(t, nil)
	s.want("corp.example/hello", "v1.0.0")
	w.Password("x-access-token", "revoked")
	s.wantError("corp.example/hello", "v1.1.0", vcs.ErrCredential)
	s.want("corp.example/hello", "v1.1.0")
	if n := g.count(); n != 2 {
		t.Errorf("%d tokens, want 2", n)
	}
}

// An API that issues no token means that the credential is wrong, or the API is down; it
// never means that there is no module.
func TestGitHubAPIFails(t *testing.T) {
	t.Parallel()
	g, _, s := newGitHub(t, nil)
	for status, want := range map[int]error{401: vcs.ErrCredential, 403: vcs.ErrCredential, 404: vcs.ErrCredential, 429: vcs.ErrUnavailable, 500: vcs.ErrUnavailable, 503: vcs.ErrUnavailable} {
		g.set(time.Hour, status)
		if told := s.wantError("corp.example/hello", "v1.0.0", want); !strings.Contains(told.Error(), apiHost) || !strings.Contains(told.Error(), fmt.Sprint(status)) {
			t.Errorf("%d: %v", status, told)
		}
	}
	g.set(time.Hour, 0)
	s.want("corp.example/hello", "v1.0.0")
	s.keepsSecrets("s3cret", "eyJhbGci", "PRIVATE KEY")
}

// Callers wait for an API that hangs no longer than for a command.
func TestGitHubAPIHangs(t *testing.T) {
	t.Parallel()
	g, _, s := newGitHub(t, func(c *vcs.Config) { c.Timeout = 3 * time.Second })
	back := g.hang()
	begin := time.Now()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, _, err := s.download("corp.example/hello", "v1.0.0"); !isTimeout(err) {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	back()
	waitFor(t, "an API that is back", func() bool {
		_, _, err := s.download("corp.example/hello", "v1.0.0")
		return err == nil
	})
	s.keepsSecrets("s3cret", "eyJhbGci")
}
