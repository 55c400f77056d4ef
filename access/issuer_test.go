package access_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/assay-proxy/assay/access"
)

// A key that the issuer has made since is fetched, without a restart.
func TestOIDCRotatedKey(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *access.Authenticator, i *fakeIssuer, old jose.JSONWebKey) {
		fresh := newKey(t, "fresh")
		wantIdentity(t, a, "Bearer "+sign(t, old, i.claims()), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		token := sign(t, fresh, i.claims())
		synctest.Wait() // otherwise the next request may share the fetch of the previous one
		refusedKey(t, a, token)
		synctest.Wait()
		i.setKeys(old, fresh)
		wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		wantIdentity(t, a, "Bearer "+sign(t, old, i.claims("jti", "2")), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		if d, f := i.discoveries.Load(), i.fetches.Load(); d != 1 || f != 3 {
			t.Errorf("%d discoveries and %d fetches of keys, want 1 and 3", d, f)
		}
	})
}

// refusedKey checks that a token is refused because of its key.
func refusedKey(t testing.TB, a *access.Authenticator, token string) {
	t.Helper()
	wantRefused(t, a, "Bearer "+token, "its key is not known to the issuer")
}

// Any client can make tokens with an unknown key; they do not cause one request to the issuer each.
func TestOIDCKeyStorm(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1")
	i := newIssuer(t, key)
	a := believer(t, i, nil)
	good := sign(t, key, i.claims())
	var all sync.WaitGroup
	for n := range 60 {
		token := sign(t, newKey(t, fmt.Sprint("unknown", n)), i.claims())
		all.Go(func() { refusedKey(t, a, token) })
	}
	all.Wait()
	if d, f := i.discoveries.Load(), i.fetches.Load(); d != 1 || f == 0 || f > 4 {
		t.Errorf("%d discoveries and %d fetches of keys", d, f)
	}
	wantIdentity(t, a, "Bearer "+good, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
}

func TestOIDCIssuerIsDown(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1")
	i := &fakeIssuer{Server: &httptest.Server{URL: "https://issuer.test"}}
	i.setKeys(key)
	file := write(t, "oidc.toml", rules(i.URL))
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		a := newAuthenticator(t, access.Config{OIDC: file, Client: &http.Client{Transport: inBubble{i}}, Logger: log.logger()})
		token := sign(t, key, i.claims())
		i.setAnswer(status(http.StatusInternalServerError))
		for range 5 {
			wantUnavailable(t, a, token, "500 Internal Server Error")
		}
		time.Sleep(3*time.Second - time.Nanosecond)
		wantUnavailable(t, a, token, "500 Internal Server Error")
		if n := i.discoveries.Load(); n != 1 {
			t.Errorf("an issuer that is down was asked %d times in three seconds", n)
		}
		if strings.Contains(log.String(), token) || strings.Count(log.String(), "cannot be discovered") != 1 {
			t.Errorf("the log:\n%s", log.String())
		}
		i.setAnswer(nil)
		time.Sleep(time.Nanosecond)
		wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build")

		// Its earlier response is used while it is down again.
		i.setAnswer(status(http.StatusBadGateway))
		wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		wantIdentity(t, a, "Bearer "+sign(t, key, i.claims("jti", "2")), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		synctest.Wait() // otherwise the next request may share the fetch of the previous one
		wantUnavailable(t, a, sign(t, newKey(t, "2"), i.claims()), i.URL)
		if got := counts(t, a); got["oidc unavailable"] != 7 || got["oidc ok"] != 3 {
			t.Errorf("counted %v", got)
		}
	})
}

// An issuer that cannot be reached.
func TestOIDCIssuerIsGone(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1")
	i := newIssuer(t, key)
	a := believer(t, i, nil)
	i.Close()
	wantUnavailable(t, a, sign(t, key, i.claims()), "issuer "+i.URL)
}

// Responses of an issuer that must not be trusted.
func TestOIDCIssuerThatLies(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1")
	plain := httptest.NewServer(status(http.StatusOK))
	defer plain.Close()
	for _, tt := range []struct {
		name, want string
		answer     func(i *fakeIssuer) http.HandlerFunc
	}{
		{"another issuer", "issuer", func(*fakeIssuer) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, `{"issuer":"https://evil.test","jwks_uri":"https://evil.test/keys"}`)
			}
		}},
		{"no place for keys", "no jwks_uri", func(i *fakeIssuer) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"issuer":%q}`, i.URL) }
		}},
		{"keys over http", "is not https", func(i *fakeIssuer) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://192.0.2.1/keys"}`, i.URL)
			}
		}},
		{"a redirect to http", "is not https", func(*fakeIssuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
			}
		}},
		{"a page", "", func(*fakeIssuer) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }
		}},
		{"without end", "more than 1048576 bytes", func(*fakeIssuer) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				for range 3 << 10 {
					_, _ = w.Write(make([]byte, 1<<10))
				}
			}
		}},
		{"no keys", "404 Not Found", func(i *fakeIssuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/keys" {
					http.NotFound(w, r)
					return
				}
				fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"%s/keys"}`, i.URL, i.URL)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := newIssuer(t, key)
			i.setAnswer(tt.answer(i))
			wantUnavailable(t, believer(t, i, nil), sign(t, key, i.claims()), tt.want)
		})
	}
}

// Concurrent requests share one discovery, and none of them waits beyond its own context.
func TestOIDCIssuerIsSlow(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1")
	i := newIssuer(t, key)
	i.wait = make(chan struct{})
	a := believer(t, i, nil)
	token := sign(t, key, i.claims())

	impatient := request(t, "Bearer "+token)
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient = impatient.WithContext(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := a.Identify(impatient); !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), "left") {
			t.Errorf("who left: %v", err)
		}
	})
	for i.discoveries.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel(errors.New("left"))
	for range 10 { // the discovery continues for these requests
		all.Go(func() { wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build") })
	}
	time.Sleep(50 * time.Millisecond)
	close(i.wait)
	all.Wait()
	if d, f := i.discoveries.Load(), i.fetches.Load(); d != 1 || f != 1 {
		t.Errorf("%d discoveries and %d fetches of keys", d, f)
	}
}

// A token is remembered until it expires, and no longer.
func TestOIDCTokenExpires(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *access.Authenticator, i *fakeIssuer, key jose.JSONWebKey) {
		token := sign(t, key, i.claims())
		wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		time.Sleep(time.Minute)
		if n := access.Remembered(a); n != 1 {
			t.Errorf("%d tokens are remembered", n)
		}
		wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		time.Sleep(time.Nanosecond)
		refusedJWT(t, a, token, "expired")
	})
}

// inBubble is a client that calls an issuer without a network, so that hours pass in no time.
type inBubble struct{ http.Handler }

func (b inBubble) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Result(), nil
}

// bubble runs a test with an issuer in a bubble.
func bubble(t *testing.T, test func(t *testing.T, a *access.Authenticator, i *fakeIssuer, key jose.JSONWebKey)) {
	t.Helper()
	key := newKey(t, "1")
	i := &fakeIssuer{Server: &httptest.Server{URL: "https://issuer.test"}}
	i.setKeys(key)
	file := write(t, "oidc.toml", rules(i.URL))
	synctest.Test(t, func(t *testing.T) {
		test(t, newAuthenticator(t, access.Config{OIDC: file, Client: &http.Client{Transport: inBubble{i}}}), i, key)
	})
}

// After a storm the keys are fetched again within 15 seconds.
func TestOIDCKeyStormEnds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *access.Authenticator, i *fakeIssuer, key jose.JSONWebKey) {
		for n := range 10 {
			refusedKey(t, a, sign(t, newKey(t, fmt.Sprint("unknown", n)), i.claims()))
			synctest.Wait() // otherwise the next request may share its fetch
		}
		if n := i.fetches.Load(); n != 4 {
			t.Errorf("%d fetches of keys, want 4", n)
		}
		fresh := newKey(t, "fresh")
		i.setKeys(key, fresh)
		token := sign(t, fresh, i.claims("exp", time.Now().Add(time.Hour).Unix()))
		refusedKey(t, a, token)
		synctest.Wait()
		time.Sleep(15 * time.Second)
		wantIdentity(t, a, "Bearer "+token, "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		if n := i.fetches.Load(); n != 5 {
			t.Errorf("%d fetches of keys, want 5", n)
		}
	})
}

// A key that the issuer has withdrawn is removed after an hour. During the new discovery, and if it
// fails, the old keys stay in use.
func TestOIDCWithdrawnKey(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *access.Authenticator, i *fakeIssuer, key jose.JSONWebKey) {
		day := time.Now().Add(24 * time.Hour).Unix()
		tokens := map[string]string{}
		ask := func(id string) string {
			tokens[id] = sign(t, key, i.claims("exp", day, "jti", id))
			return tokens[id]
		}
		wantIdentity(t, a, "Bearer "+ask("1"), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		i.setKeys(newKey(t, "2"))
		time.Sleep(59 * time.Minute)
		wantIdentity(t, a, "Bearer "+ask("2"), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		if n := i.discoveries.Load(); n != 1 {
			t.Errorf("%d discoveries in the first hour", n)
		}
		time.Sleep(time.Minute)
		i.setAnswer(status(http.StatusBadGateway))
		wantIdentity(t, a, "Bearer "+ask("3"), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		synctest.Wait()
		wantIdentity(t, a, "Bearer "+ask("4"), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		if n := i.discoveries.Load(); n != 2 {
			t.Errorf("%d discoveries, want 2", n)
		}
		i.setAnswer(nil)
		time.Sleep(3 * time.Second)
		wantIdentity(t, a, "Bearer "+ask("5"), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		synctest.Wait() // for the discovery
		refusedKey(t, a, ask("6"))
		for _, id := range []string{"1", "2", "3", "4", "5"} { // that a token was valid before changes nothing
			if id, err := a.Identify(request(t, "Bearer "+tokens[id])); err == nil {
				t.Errorf("a token that was judged by a withdrawn key is good: %+v", id)
			}
		}
	})
}

// The number of remembered tokens is bounded.
func TestOIDCRemembersSome(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *access.Authenticator, i *fakeIssuer, key jose.JSONWebKey) {
		first := sign(t, key, i.claims("jti", "first"))
		for n := range 4096 + 100 {
			_, _ = a.Identify(request(t, "Bearer "+sign(t, key, i.claims("jti", n))))
		}
		if n := access.Remembered(a); n != 4096 {
			t.Errorf("%d tokens are remembered, want 4096", n)
		}
		time.Sleep(2 * time.Minute) // they all expire
		i.setAnswer(nil)
		wantRefused(t, a, "Bearer "+first, "expired")
		wantIdentity(t, a, "Bearer "+sign(t, key, i.claims()), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		if n := access.Remembered(a); n != 1 {
			t.Errorf("%d tokens are remembered after all others have expired", n)
		}
	})
}

// A reload of unchanged files keeps the keys: the issuer may be down.
func TestOIDCReloadKeepsKeys(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *access.Authenticator, i *fakeIssuer, key jose.JSONWebKey) {
		wantIdentity(t, a, "Bearer "+sign(t, key, i.claims("jti", "1")), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
		i.setAnswer(status(http.StatusBadGateway))
		if err := a.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantIdentity(t, a, "Bearer "+sign(t, key, i.claims("jti", "2")), "oidc", "repo:acme/app:ref:refs/heads/main", "build")
	})
}
