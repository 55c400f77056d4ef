package access_test

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/access"
)

// from identifies a request from an address.
func from(t testing.TB, a *access.Authenticator, address, authorization string) (access.Identity, error) {
	r := request(t, authorization)
	r.RemoteAddr = address
	return a.Identify(r)
}

// wantSlowed checks that a password is not tried, and how long the client must wait.
func wantSlowed(t testing.TB, a *access.Authenticator, address, authorization string, wait time.Duration) {
	t.Helper()
	_, err := from(t, a, address, authorization)
	var slowed *access.SlowedError
	if !errors.As(err, &slowed) || !errors.Is(err, access.ErrRefused) || !errors.Is(err, access.ErrSlowed) || errors.Is(err, access.ErrUnavailable) {
		t.Errorf("from %s: %v, want it slowed", address, err)
		return
	}
	if off := slowed.Wait - wait; off < -time.Millisecond || off > time.Millisecond {
		t.Errorf("from %s: wait %v, want %v", address, slowed.Wait, wait)
	}
}

// guess returns a header with a password that was not tried before.
func guess() string { return basic("alice", rand.Text()) }

// wantTried checks that a password is tried, and is wrong.
func wantTried(t testing.TB, a *access.Authenticator, address, authorization string) {
	t.Helper()
	if _, err := from(t, a, address, authorization); !errors.Is(err, access.ErrRefused) || errors.Is(err, access.ErrSlowed) {
		t.Errorf("from %s: %v, want it tried", address, err)
	}
}

// bruteForce runs a test in a bubble with a user alice, whose password is right.
func bruteForce(t *testing.T, test func(t *testing.T, a *access.Authenticator)) {
	t.Helper()
	htpasswd := write(t, "htpasswd", entry(t, "alice", "right", 4))
	synctest.Test(t, func(t *testing.T) { test(t, newAuthenticator(t, access.Config{Htpasswd: htpasswd})) })
}

func TestBruteForce(t *testing.T) {
	t.Parallel()
	bruteForce(t, func(t *testing.T, a *access.Authenticator) {
		work := access.CountWork(a)
		for i := range 10 {
			wantTried(t, a, "192.0.2.1:1", basic([]string{"alice", "bob"}[i%2], fmt.Sprint(i)))
		}
		work.Store(0)
		wantSlowed(t, a, "192.0.2.1:2", guess(), 6*time.Second)
		wantSlowed(t, a, "192.0.2.1:3", basic("alice", "right"), 6*time.Second) // otherwise a client could tell that it is right
		wantSlowed(t, a, "192.0.2.1:3", basic("nobody", "x"), 6*time.Second)
		if n := work.Load(); n != 0 {
			t.Errorf("%d rounds for passwords that are not looked at", n)
		}
		wantTried(t, a, "192.0.2.2:1", guess()) // another address

		// One more every six seconds; a right password costs none.
		time.Sleep(6 * time.Second)
		if id, err := from(t, a, "192.0.2.1:4", basic("alice", "right")); err != nil || id.Name != "alice" {
			t.Errorf("after six seconds: %v, %v", id, err)
		}
		wantTried(t, a, "192.0.2.1:5", guess())
		wantSlowed(t, a, "192.0.2.1:6", guess(), 6*time.Second)
		// The right password is remembered, and other clients cannot lock out a client that knows
		// it.
		if _, err := from(t, a, "192.0.2.1:7", basic("alice", "right")); err != nil {
			t.Errorf("the password that is remembered: %v", err)
		}

		time.Sleep(time.Minute)
		for range 10 {
			wantTried(t, a, "192.0.2.1:8", guess())
		}
		wantSlowed(t, a, "192.0.2.1:9", guess(), 6*time.Second)
		if got := counts(t, a); got["basic slowed"] != 5 || got["basic refused"] != 22 || got["basic ok"] != 2 {
			t.Errorf("counted %v", got)
		}
	})
}

func TestSlowedError(t *testing.T) {
	t.Parallel()
	err := &access.SlowedError{Wait: 5900 * time.Millisecond}
	if want := "access refused: too many wrong passwords from this address, wait 6s"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

// Which addresses count as one: an IPv6 customer has 2^64 of them, and an IPv4 address has a second
// form in IPv6.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, first, second string
		same                bool
	}{
		{"ports", "192.0.2.1:1", "192.0.2.1:2", true},
		{"neighbours", "192.0.2.1:1", "192.0.2.2:1", false},
		{"one /64", "[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff:ffff:ffff:ffff]:2", true},
		{"two /64", "[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", false},
		{"IPv4 in IPv6", "192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		{"another IPv4 in IPv6", "[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1", false},
		{"zones", "[fe80::1%eth0]:1", "[fe80::2%eth1]:1", true},
		{"no port", "192.0.2.1", "192.0.2.1:9", true},
		{"a socket", "@", "@", true},
		{"long and odd", strings.Repeat("a", 300) + "b", strings.Repeat("a", 300) + "c", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bruteForce(t, func(t *testing.T, a *access.Authenticator) {
				for range 10 {
					wantTried(t, a, tt.first, guess())
				}
				if tt.same {
					wantSlowed(t, a, tt.second, guess(), 6*time.Second)
				} else {
					wantTried(t, a, tt.second, guess())
				}
			})
		})
	}
}

func TestRemoteIsConfigured(t *testing.T) {
	t.Parallel()
	htpasswd := write(t, "htpasswd", entry(t, "alice", "right", 4))
	remote := func(r *http.Request) string { return r.Header.Get("X-Client") }
	a := newAuthenticator(t, access.Config{Htpasswd: htpasswd, Remote: remote})
	access.NoWork(a)
	ask := func(client string) error {
		r := request(t, guess())
		r.Header.Set("X-Client", client)
		_, err := a.Identify(r)
		return err
	}
	for range 10 {
		if err := ask("192.0.2.7"); errors.Is(err, access.ErrSlowed) {
			t.Fatal(err)
		}
	}
	if err := ask("192.0.2.7"); !errors.Is(err, access.ErrSlowed) {
		t.Errorf("the same client: %v", err)
	}
	if err := ask("192.0.2.8"); errors.Is(err, access.ErrSlowed) {
		t.Errorf("another one behind the same proxy: %v", err)
	}
}

// Fifty concurrent guesses count as ten.
func TestBruteForceAtOnce(t *testing.T) {
	t.Parallel()
	bruteForce(t, func(t *testing.T, a *access.Authenticator) {
		work := access.CountWork(a)
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				if _, err := from(t, a, "192.0.2.1:1", basic("alice", fmt.Sprint(i))); !errors.Is(err, access.ErrRefused) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := work.Load(); n != 10<<4 {
			t.Errorf("%d passwords were tried, want 10", n>>4)
		}
	})
}

// A site with many addresses delays the logins of others by at most one password.
func TestSiteOfManyAddresses(t *testing.T) {
	t.Parallel()
	bruteForce(t, func(t *testing.T, a *access.Authenticator) {
		access.SlowWork(a, time.Second)
		var all sync.WaitGroup
		for i := range 60 {
			all.Go(func() { wantTried(t, a, fmt.Sprintf("[2001:db8:1:%x::1]:1", i), guess()) })
		}
		time.Sleep(1500 * time.Millisecond)
		begin := time.Now()
		wantTried(t, a, "192.0.2.1:1", guess())
		if took := time.Since(begin); took > 5*time.Second { // alice's hash, and a running one; each takes several steps
			t.Errorf("a log-in from elsewhere took %v", took)
		}
		all.Wait()
	})
}

// A go command with an old password sends it twice for each file. That does not count as guessing,
// and does not slow down other clients at its address; a new password counts.
func TestTheSameWrongPassword(t *testing.T) {
	t.Parallel()
	file := write(t, "htpasswd", entry(t, "alice", "right", 4)+entry(t, "bob", "bobs", 4))
	a := newAuthenticator(t, access.Config{Htpasswd: file})
	work := access.CountWork(a)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			wantTried(t, a, "192.0.2.1:1", basic("alice", "old"))
			wantTried(t, a, "192.0.2.1:1", basic("nobody", "old"))
		})
	}
	all.Wait()
	if n := work.Load(); n != 2<<4 {
		t.Errorf("%d hashes, want 2", n>>4)
	}
	wantRefused(t, a, basic("alice", "old"), "wrong password for alice")
	wantRefused(t, a, basic("nobody", "old"), "unknown user")
	if _, err := from(t, a, "192.0.2.1:2", basic("bob", "bobs")); err != nil {
		t.Errorf("a neighbour: %v", err)
	}
	wantTried(t, a, "192.0.2.2:1", basic("alice", "old")) // another address has not sent this password yet
	if n := work.Load(); n != 4<<4 {
		t.Errorf("%d hashes, want 4", n>>4)
	}
	// When this password becomes the right one, it is accepted.
	reload(t, a, file, entry(t, "alice", "old", 4)+entry(t, "nobody", "old", 4))
	wantIdentity(t, a, basic("alice", "old"), "basic", "alice", "")
	wantIdentity(t, a, basic("nobody", "old"), "basic", "nobody", "")
}

// Only the last few wrong passwords are remembered; repeating more of them counts as guessing.
func TestManyWrongPasswords(t *testing.T) {
	t.Parallel()
	bruteForce(t, func(t *testing.T, a *access.Authenticator) {
		for i := range 10 {
			wantTried(t, a, "192.0.2.1:1", basic("alice", fmt.Sprint(i%5)))
		}
		wantSlowed(t, a, "192.0.2.1:1", basic("alice", "0"), 6*time.Second)
		wantTried(t, a, "192.0.2.1:1", basic("alice", "4"))
	})
}

// Tokens cannot be guessed, so wrong ones do not slow down an address, and good ones are accepted
// from a slowed address.
func TestTokensAreNotSlowed(t *testing.T) {
	t.Parallel()
	tokens := write(t, "tokens", "")
	secret := create(t, tokens, access.Token{Name: "ci"})
	a := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", entry(t, "alice", "right", 4)), Tokens: tokens})
	access.NoWork(a)
	for range 11 {
		_, _ = a.Identify(request(t, guess()))
	}
	if _, err := a.Identify(request(t, guess())); !errors.Is(err, access.ErrSlowed) {
		t.Fatal(err)
	}
	wantIdentity(t, a, "Bearer "+secret, "token", "ci", "")
	wantIdentity(t, a, basic("x", secret), "token", "ci", "")
	for range 20 {
		wantRefused(t, a, "Bearer assay_wrong", "unknown token")
	}
}

// A flood of addresses does not fill the memory, and does not make the table forget the addresses
// that guess.
func TestAddressesAreBounded(t *testing.T) {
	t.Parallel()
	bruteForce(t, func(t *testing.T, a *access.Authenticator) {
		access.NoWork(a)
		for range 10 {
			wantTried(t, a, "192.0.2.1:1", guess())
		}
		header := guess()
		for i := range 1<<16 + 1000 {
			_, _ = from(t, a, fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), header)
		}
		if n := access.Addresses(a); n != 1<<16 {
			t.Errorf("%d addresses are known, want %d", n, 1<<16)
		}
		wantSlowed(t, a, "192.0.2.1:1", guess(), 6*time.Second)
	})
}

// An address without recent wrong passwords is not in the table.
func TestAddressesAreForgotten(t *testing.T) {
	t.Parallel()
	bruteForce(t, func(t *testing.T, a *access.Authenticator) {
		if _, err := from(t, a, "192.0.2.1:1", basic("alice", "right")); err != nil || access.Addresses(a) != 0 {
			t.Errorf("%v, %d addresses after a right password", err, access.Addresses(a))
		}
		wantTried(t, a, "192.0.2.1:1", guess())
		if n := access.Addresses(a); n != 1 {
			t.Errorf("%d addresses after a wrong password", n)
		}
	})
}

// For any header, the result is an identity, or a refusal that contains no part of the header.
func FuzzAuthorization(f *testing.F) {
	tokens := write(f, "tokens", "")
	secret := create(f, tokens, access.Token{Name: "ci"})
	oidc := write(f, "oidc.toml", "[[issuer]]\nurl = \"https://issuer.test\"\naudience = \"a\"\n[[issuer.rule]]\nclaims = { sub = \"x\" }\n")
	a := newAuthenticator(f, access.Config{Htpasswd: write(f, "htpasswd", entry(f, "alice", "right", 4)), Tokens: tokens, OIDC: oidc,
		Client: &http.Client{Transport: offline{}}})
	access.NoWork(a)
	encode := base64.RawURLEncoding.EncodeToString
	for _, seed := range []string{"", "Basic", basic("alice", "right"), basic("a", secret), "Bearer " + secret, "bearer  " + secret, "Bearer assay_", "Bearer a.b.c",
		"Bearer " + encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(`{"iss":"https://issuer.test"}`)) + ".",
		"Bearer " + encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(`{"iss":"https://issuer.test","sub":"x","aud":"a","exp":9999999999}`)) + ".AAAA",
		"Basic " + base64.StdEncoding.EncodeToString([]byte("no colon")), "Basic !", "Digest x", "Basic\tx", " ", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := request(t, "")
		r.Header["Authorization"] = []string{header}
		id, err := a.Identify(r)
		if err == nil {
			if id.Kind != "token" || id.Name != "ci" || !strings.Contains(header, secret) && !strings.HasPrefix(strings.ToLower(header), "basic ") {
				t.Errorf("%q is %+v", header, id)
			}
			return
		}
		if !id.Anonymous() || id.Name != "" || errors.Is(err, access.ErrRefused) == errors.Is(err, access.ErrUnavailable) {
			t.Errorf("%q: %+v, %v", header, id, err)
		}
		if _, value, _ := strings.Cut(header, " "); len(value) > 30 && strings.Contains(err.Error(), value) {
			t.Errorf("the error has the credential: %v", err)
		}
	})
}

// offline is a transport whose requests fail.
type offline struct{}

func (offline) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no network here")
}
