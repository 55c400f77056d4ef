package access_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/access"
)

// reload writes a new version of a file and puts it into force.
func reload(t testing.TB, a *access.Authenticator, file, text string) {
	t.Helper()
	write(t, file, text)
	if err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 36) // 72 bytes, the limit of bcrypt
	text := entry(t, "alice", "correct horse", 4) +
		strings.Replace(entry(t, "bob", "pass:word", 4), "$2a$", "$2y$", 1) +
		strings.Replace(entry(t, "carol", "", 4), "$2a$", "$2b$", 1) +
		"# comment\n\n  " + entry(t, "dän", long, 4)
	a := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", strings.ReplaceAll(text, "\n", "\r\n"))})
	for range 2 { // hashed, then remembered
		wantIdentity(t, a, basic("alice", "correct horse"), "basic", "alice", "")
		wantIdentity(t, a, basic("bob", "pass:word"), "basic", "bob", "")
		wantIdentity(t, a, basic("carol", ""), "basic", "carol", "")
		wantIdentity(t, a, basic("dän", long), "basic", "dän", "")
	}
	wantRefused(t, a, basic("alice", "correct horse "), "wrong password for alice")
	wantRefused(t, a, basic("alice", ""), "wrong password for alice")
	wantRefused(t, a, basic("bob", "pass"), "wrong password for bob")
	wantRefused(t, a, basic("carol", "correct horse"), "wrong password for carol")
	wantRefused(t, a, basic("Alice", "correct horse"), "unknown user")
	wantRefused(t, a, basic("alice ", "correct horse"), "unknown user")
	wantRefused(t, a, basic("", ""), "unknown user")
	wantRefused(t, a, basic("# comment", ""), "unknown user")
}

func TestGroups(t *testing.T) {
	t.Parallel()
	groups := write(t, "groups", "# who\n dev : alice bob\nops:bob\ndev:\tcarol bob\nempty:\n")
	htpasswd := write(t, "htpasswd", entry(t, "alice", "a", 4)+entry(t, "bob", "b", 4)+entry(t, "carol", "c", 4)+entry(t, "dave", "d", 4))
	a := newAuthenticator(t, access.Config{Htpasswd: htpasswd, Groups: groups})
	wantIdentity(t, a, basic("alice", "a"), "basic", "alice", "dev")
	wantIdentity(t, a, basic("bob", "b"), "basic", "bob", "dev,ops")
	wantIdentity(t, a, basic("carol", "c"), "basic", "carol", "dev")
	wantIdentity(t, a, basic("dave", "d"), "basic", "dave", "")
	id, _ := a.Identify(request(t, basic("bob", "b")))
	if !id.In("ops") || id.In("empty") || id.In("") || id.In("de") {
		t.Errorf("%+v", id)
	}
	_ = append(id.Groups, "root") // must not change the groups of another identity
	wantIdentity(t, a, basic("bob", "b"), "basic", "bob", "dev,ops")
	// A token has only the groups of its own line.
	tokens := write(t, "tokens", "")
	secret := create(t, tokens, access.Token{Name: "bob", Groups: []string{"build"}})
	wantIdentity(t, newAuthenticator(t, access.Config{Groups: groups, Tokens: tokens}), "Bearer "+secret, "token", "bob", "build")
}

// The work reveals neither whether a user exists nor whose hash is cheap: a refusal always costs as
// much as the most expensive hash.
func TestRefusalsCostTheSame(t *testing.T) {
	t.Parallel()
	a := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", entry(t, "cheap", "x", 4)+entry(t, "dear", "x", 7))})
	work := access.CountWork(a)
	for _, user := range []string{"cheap", "dear", "nobody", ""} {
		work.Store(0)
		wantRefused(t, a, basic(user, "wrong"), "")
		if n := work.Load(); n != 1<<7 {
			t.Errorf("user %q: %d rounds, want %d", user, n, 1<<7)
		}
	}
	empty := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", "")})
	access.NoWork(empty)
	work = access.CountWork(empty)
	wantRefused(t, empty, basic("anybody", "x"), "unknown user")
	if n := work.Load(); n != 1<<10 {
		t.Errorf("an empty file: %d rounds, want %d", n, 1<<10)
	}
}

// A right password is hashed once in five minutes.
func TestPasswordIsRemembered(t *testing.T) {
	t.Parallel()
	htpasswd := write(t, "htpasswd", entry(t, "alice", "one", 4)+entry(t, "bob", "two", 4))
	synctest.Test(t, func(t *testing.T) {
		a := newAuthenticator(t, access.Config{Htpasswd: htpasswd})
		work := access.CountWork(a)
		ask := func(user, password string, hashes int64) {
			t.Helper()
			work.Store(0)
			_, _ = a.Identify(request(t, basic(user, password)))
			if n := work.Load(); n != hashes<<4 {
				t.Errorf("%s: %d hashes, want %d", user, n>>4, hashes)
			}
		}
		ask("alice", "one", 1)
		ask("alice", "one", 0)
		ask("bob", "one", 1) // the right password of another user
		ask("alice", "two", 1)
		ask("alice", "three", 1)
		ask("alice", "one", 0) // still remembered, whatever else was tried
		time.Sleep(5*time.Minute - time.Millisecond)
		ask("alice", "one", 0)
		time.Sleep(time.Millisecond)
		ask("alice", "one", 1)
		ask("alice", "one", 0)
	})
}

func TestPasswordIsForgotten(t *testing.T) {
	t.Parallel()
	alice := entry(t, "alice", "one", 4)
	file := write(t, "htpasswd", alice)
	a := newAuthenticator(t, access.Config{Htpasswd: file})
	wantIdentity(t, a, basic("alice", "one"), "basic", "alice", "")
	reload(t, a, file, alice+entry(t, "bob", "two", 4)) // her line has not changed
	work := access.CountWork(a)
	wantIdentity(t, a, basic("alice", "one"), "basic", "alice", "")
	if n := work.Load(); n != 0 {
		t.Errorf("%d rounds though her line is the same", n)
	}
	reload(t, a, file, entry(t, "bob", "two", 4))
	wantRefused(t, a, basic("alice", "one"), "unknown user")
	reload(t, a, file, entry(t, "alice", "two", 4))
	wantRefused(t, a, basic("alice", "one"), "wrong password")
	wantIdentity(t, a, basic("alice", "two"), "basic", "alice", "")
	reload(t, a, file, alice) // as before; the remembered password is forgotten
	wantRefused(t, a, basic("alice", "two"), "wrong password")
}

// A client that opens forty connections at once causes one hash.
func TestPasswordOfManyAtOnce(t *testing.T) {
	t.Parallel()
	a := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", entry(t, "alice", "one", 6))})
	work := access.CountWork(a)
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() { wantIdentity(t, a, basic("alice", "one"), "basic", "alice", "") })
	}
	all.Wait()
	if n := work.Load(); n != 1<<6 {
		t.Errorf("%d rounds, want %d", n, 1<<6)
	}
}

func TestPasswordOfARequestThatEnded(t *testing.T) {
	t.Parallel()
	a := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", entry(t, "alice", "secret one", 4))})
	work := access.CountWork(a)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	for range 40 { // select chooses at random, so one may be tried; then it gets a normal answer
		id, err := a.Identify(request(t, guess()).WithContext(ctx))
		if err == nil || !id.Anonymous() || errors.Is(err, access.ErrUnavailable) && !strings.Contains(err.Error(), "gone") {
			t.Fatalf("%+v, %v", id, err)
		}
	}
	if got := counts(t, a); got["basic unavailable"] == 0 || work.Load() > 10<<4 {
		t.Errorf("%v, after %d rounds", got, work.Load())
	}
}

// The most expensive accepted hash is accepted; computing it would take seconds.
func TestCostLimits(t *testing.T) {
	t.Parallel()
	hash := entry(t, "alice", "one", 4)
	for cost, ok := range map[int]bool{3: false, 4: true, 16: true, 17: false, 31: false} {
		text := strings.Replace(hash, "$04$", fmt.Sprintf("$%02d$", cost), 1)
		_, err := access.New(t.Context(), access.Config{Htpasswd: write(t, "htpasswd", text)})
		if (err == nil) != ok {
			t.Errorf("cost %d: %v", cost, err)
		}
	}
}

// No file makes the parser panic, or accept an empty name; no error contains a hash.
func FuzzHtpasswd(f *testing.F) {
	hash := "$2a$04$" + strings.Repeat("a", 53)
	for _, seed := range []string{"", "alice:" + hash + "\n", "alice:" + hash, "# c\n\nalice:" + hash + "\r\nbob:" + hash, ":" + hash, "alice:" + hash + ":x", "a:b:c", "a b:" + hash, "alice:{SHA}x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file := write(t, "htpasswd", text)
		a, err := access.New(t.Context(), access.Config{Htpasswd: file})
		if err != nil {
			write(t, file, otherHashes(text))
			if _, other := access.New(t.Context(), access.Config{Htpasswd: file}); other == nil || other.Error() != err.Error() {
				t.Errorf("the error depends on a hash: %v; with other hashes it is: %v", err, other)
			}
			return
		}
		access.NoWork(a)
		wantRefused(t, a, basic("alice", "x"), "")
		wantRefused(t, a, basic("", ""), "unknown user")
	})
}

// otherHashes returns the file with the letters of each hash in the other case, but for its version
// and cost. A text is a bcrypt hash afterwards if and only if it was one before.
func otherHashes(file string) string {
	other := []byte(file)
	start := 0
	for line := range strings.Lines(file) {
		if user, hash, ok := strings.Cut(line, ":"); ok {
			first := start + len(user) + 1 + min(len(hash), len("$2a$04$"))
			for i := first; i < start+len(line); i++ {
				if c := other[i] | 0x20; 'a' <= c && c <= 'z' {
					other[i] ^= 0x20
				}
			}
		}
		start += len(line)
	}
	return string(other)
}

// A file that can be parsed assigns valid group names to valid user names.
func FuzzGroups(f *testing.F) {
	hash := entry(f, "alice", "x", 4)
	for _, seed := range []string{"", "dev: alice bob\n", "dev: alice\r\nops:alice", "dev:alice\ndev:alice", ":alice", "a b: alice", "-: alice", "a,b: alice", "# dev: alice", "dev alice"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := access.New(t.Context(), access.Config{Htpasswd: write(t, "htpasswd", hash), Groups: write(t, "groups", text)})
		if err != nil {
			return
		}
		id, err := a.Identify(request(t, basic("alice", "x")))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, group := range id.Groups {
			if seen[group] || group == "" || group == "-" || strings.ContainsAny(group, ", \t\r\n\x00") || !strings.Contains(text, group) || !id.In(group) {
				t.Errorf("group %q of %q", group, text)
			}
			seen[group] = true
		}
	})
}
