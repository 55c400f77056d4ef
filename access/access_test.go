package access_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/watch"
)

// write creates a file that only its owner may read, and returns its name.
func write(t testing.TB, name, text string) string {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(t.TempDir(), name)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// entry returns a line of an htpasswd file.
func entry(t testing.TB, user, password string, cost int) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + string(hash) + "\n"
}

func newAuthenticator(t testing.TB, c access.Config) *access.Authenticator {
	t.Helper()
	a, err := access.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// request returns a request from an address of a test network, with an
// Authorization header unless it is empty.
func request(t testing.TB, authorization string) *http.Request {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/example.com/a/@v/list", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// wantIdentity checks the identity for a header. The groups are one text.
func wantIdentity(t testing.TB, a *access.Authenticator, authorization, kind, name, groups string) {
	t.Helper()
	id, err := a.Identify(request(t, authorization))
	if err != nil || id.Kind != kind || id.Name != name || strings.Join(id.Groups, ",") != groups || id.Anonymous() {
		t.Errorf("%+v, %v; want %s %s in %s", id, err, kind, name, groups)
	}
}

// wantRefused checks that a header is refused with a reason that has the text.
func wantRefused(t testing.TB, a *access.Authenticator, authorization, text string) {
	t.Helper()
	id, err := a.Identify(request(t, authorization))
	if !errors.Is(err, access.ErrRefused) || !strings.Contains(err.Error(), text) || !id.Anonymous() || id.Name != "" || id.Groups != nil {
		t.Errorf("%+v, %v; want it refused with %q", id, err, text)
	}
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// counts returns the counters that are not 0 by "kind result".
func counts(t testing.TB, a *access.Authenticator) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(a.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if v := m.GetCounter().GetValue(); v != 0 && family.GetName() == "assay_access_requests_total" {
				found[labels["kind"]+" "+labels["result"]] = v
			}
		}
	}
	return found
}

func TestNothingConfigured(t *testing.T) {
	t.Parallel()
	a := newAuthenticator(t, access.Config{})
	if a.Configured() {
		t.Error("configured")
	}
	if id, err := a.Identify(request(t, "")); err != nil || !id.Anonymous() || id.Name != "" || id.In("") {
		t.Errorf("without a credential: %+v, %v", id, err)
	}
	wantRefused(t, a, basic("alice", "secret"), "no htpasswd file")
	wantRefused(t, a, "Bearer assay_abc", "unknown token")
	wantRefused(t, a, "Bearer a.b.c", "no OIDC issuer")
}

func TestConfigured(t *testing.T) {
	t.Parallel()
	empty := write(t, "empty", "# nothing\n")
	tokens := filepath.Join(t.TempDir(), "tokens")
	oidc := write(t, "oidc.toml", "[[issuer]]\nurl = \"https://issuer.test\"\naudience = \"a\"\n[[issuer.rule]]\nclaims = { sub = \"x\" }\ngroups = [\"g\"]\n")
	if a := newAuthenticator(t, access.Config{Htpasswd: empty, Groups: empty, Tokens: tokens, OIDC: empty}); a.Configured() {
		t.Error("empty files: configured")
	}
	if _, err := access.CreateToken(tokens, access.Token{Name: "ci"}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]access.Config{
		"htpasswd": {Htpasswd: write(t, "htpasswd", entry(t, "alice", "secret", 4))}, "tokens": {Tokens: tokens},
		"oidc": {OIDC: oidc}, "certificates": {Certificates: true},
	} {
		if !newAuthenticator(t, c).Configured() {
			t.Errorf("%s: not configured", name)
		}
	}
}

func TestMalformedHeaders(t *testing.T) {
	t.Parallel()
	a := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", entry(t, "alice", "secret", 4))})
	secretBytes := "c2VjcmV0LXBhc3N3b3Jk" // of secret-password
	for header, want := range map[string]string{
		"Basic":                                "no credential",
		"Basic ":                               "no credential",
		" ":                                    "no credential",
		secretBytes:                            "no credential",
		"Digest " + secretBytes:                "neither Basic nor Bearer",
		"Basic " + secretBytes + "!":           "not base64",
		"Basic " + secretBytes + "==":          "not base64",
		"Basic YR==":                           "not base64", // a with extra bits
		"Basic " + secretBytes:                 "no colon",
		basic("alice", "sec\x00ret"):           "NUL",
		basic("ali\x00ce", "secret"):           "NUL",
		"Bearer " + secretBytes:                "neither a token of this server nor a JWT",
		"Bearer a.b.c.d":                       "neither a token of this server nor a JWT",
		"Bearer " + strings.Repeat("a", 8<<10): "more than 8192",
		basic("alice", "wrong-password"):       "wrong password for alice",
		basic("secret-password", "alice"):      "unknown user",
		basic("", ""):                          "unknown user",
	} {
		wantRefused(t, a, header, want)
		_, err := a.Identify(request(t, header))
		for _, secret := range []string{secretBytes, "secret-password", "wrong-password"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error contains the credential: %v", err)
			}
		}
	}
	double := request(t, basic("alice", "secret"))
	double.Header.Add("Authorization", basic("alice", "secret"))
	if _, err := a.Identify(double); !errors.Is(err, access.ErrRefused) || !strings.Contains(err.Error(), "2 Authorization headers") {
		t.Errorf("two headers: %v", err)
	}
	empty := request(t, "")
	empty.Header["Authorization"] = []string{""}
	if _, err := a.Identify(empty); !errors.Is(err, access.ErrRefused) {
		t.Errorf("an empty header: %v", err)
	}
	wantIdentity(t, a, "bAsIc  "+strings.TrimPrefix(basic("alice", "secret"), "Basic "), "basic", "alice", "")
}

func TestFilesThatNewRefuses(t *testing.T) {
	t.Parallel()
	hash := strings.TrimSpace(strings.TrimPrefix(entry(t, "", "x", 4), ":"))
	rule := "[[issuer.rule]]\nclaims = { sub = \"x\" }\n"
	issuer := "[[issuer]]\nurl = \"https://issuer.test\"\naudience = \"a\"\n"
	for _, tt := range []struct{ name, file, text, want string }{
		{"md5", "htpasswd", "# users\n\nalice:$apr1$abc$def\n", "line 3: the password of alice is not hashed with bcrypt; set it again with: htpasswd -B"},
		{"plain text", "htpasswd", "alice:hunter2\n", "line 1: the password of alice is not hashed with bcrypt"},
		{"sha", "htpasswd", "alice:{SHA}ab=\n", "line 1: "},
		{"cut off", "htpasswd", "alice:" + hash[:59] + "\n", "line 1: "},
		{"a third field", "htpasswd", "alice:" + hash + ":x\n", "line 1: "},
		{"old bcrypt", "htpasswd", "alice:$2x" + hash[3:] + "\n", "line 1: "},
		{"too dear", "htpasswd", "alice:" + hash[:4] + "17" + hash[6:] + "\n", "a cost of 17; want 4 to 16"},
		{"too cheap", "htpasswd", "alice:" + hash[:4] + "03" + hash[6:] + "\n", "a cost of 3"},
		{"no colon", "htpasswd", "alice\n", "line 1: there is no colon"},
		{"no name", "htpasswd", ":" + hash + "\n", "the name of the user is empty"},
		{"blank in a name", "htpasswd", "a b:" + hash + "\n", "white space"},
		{"twice", "htpasswd", "alice:" + hash + "\nalice:" + hash + "\n", "line 2: the user alice is listed twice"},
		{"group without a colon", "groups", "dev alice\n", "line 1: there is no colon"},
		{"group with a blank", "groups", "dev ops: alice\n", "line 1: the name of the group"},
		{"group with a comma", "groups", "dev,ops: alice\n", "line 1: the name of the group"},
		{"members with commas", "groups", "dev: alice, bob\n", "line 1: the members of dev are separated by blanks"},
		{"fields", "tokens", "a b c\n", "line 1: there are 3 fields"},
		{"no toml", "oidc", "issuer", "oidc"},
		{"unknown key", "oidc", "[[issuer]]\nurl = \"https://a.test\"\naudiences = \"a\"\n", `unknown key "issuer.audiences"`},
		{"http", "oidc", strings.Replace(issuer, "https", "http", 1) + rule, "url must be https"},
		{"ftp", "oidc", strings.Replace(issuer, "https", "ftp", 1) + rule, "url must be https"},
		{"no url", "oidc", "[[issuer]]\naudience = \"a\"\n" + rule, "url must be"},
		{"url with a password", "oidc", strings.Replace(issuer, "//", "//a:b@", 1) + rule, "url must be"},
		{"no audience", "oidc", "[[issuer]]\nurl = \"https://a.test\"\n" + rule, "audience is empty"},
		{"no rule", "oidc", issuer, "there is no [[issuer.rule]]"},
		{"rule without claims", "oidc", issuer + rule + "[[issuer.rule]]\ngroups = [\"a\"]\n", "rule 2: there are no claims"},
		{"empty claims", "oidc", issuer + "[[issuer.rule]]\nclaims = {}\n", "rule 1: there are no claims"},
		{"any value", "oidc", issuer + "[[issuer.rule]]\nclaims = { sub = \"*\", repository = \"*/*\" }\n", "match any value"},
		{"bad pattern", "oidc", issuer + "[[issuer.rule]]\nclaims = { sub = \"a[\" }\n", "malformed"},
		{"empty pattern", "oidc", issuer + "[[issuer.rule]]\nclaims = { sub = \"\" }\n", "empty"},
		{"claim that is a number", "oidc", issuer + "[[issuer.rule]]\nclaims = { sub = 1 }\n", "sub"},
		{"group of a rule", "oidc", issuer + rule + "groups = [\"a b\"]\n", "the group"},
		{"issuer twice", "oidc", issuer + rule + issuer + rule, "is listed twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, tt.file, tt.text)
			_, err := access.New(t.Context(), config(tt.file, file))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("error %v, want one with %q and the file", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), hash[8:])) {
				t.Errorf("the error contains the secret: %v", err)
			}
		})
	}
}

// config returns a Config with one file.
func config(kind, file string) access.Config {
	switch kind {
	case "htpasswd":
		return access.Config{Htpasswd: file}
	case "groups":
		return access.Config{Groups: file}
	case "tokens":
		return access.Config{Tokens: file}
	default:
		return access.Config{OIDC: file}
	}
}

func TestFilesOpenToOthers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("modes mean nothing here")
	}
	for kind, modes := range map[string]map[fs.FileMode]string{
		"htpasswd": {0o644: "chmod o-rwx ", 0o602: "chmod o-rwx ", 0o640: ""},
		"tokens":   {0o604: "chmod o-rwx ", 0o601: "chmod o-rwx ", 0o660: ""},
		"groups":   {0o666: "chmod o-w ", 0o644: ""},
		"oidc":     {0o602: "chmod o-w ", 0o644: ""},
	} {
		file := write(t, kind, "")
		for mode, want := range modes {
			if err := os.Chmod(file, mode); err != nil {
				t.Fatal(err)
			}
			_, err := access.New(t.Context(), config(kind, file))
			if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want+file) {
				t.Errorf("%s with mode %o: %v, want %q", kind, mode, err, want)
			}
		}
	}
}

func TestFilesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"htpasswd", "groups", "oidc"} {
		if _, err := access.New(t.Context(), config(kind, filepath.Join(t.TempDir(), "absent"))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s that is absent: %v", kind, err)
		}
	}
	for _, kind := range []string{"htpasswd", "groups", "tokens", "oidc"} {
		if _, err := access.New(t.Context(), config(kind, t.TempDir())); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s that is a directory: %v", kind, err)
		}
	}
}

// A new version of any file takes effect within a second; a broken one does not, and is logged
// once.
func TestFilesChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		htpasswd := write(t, filepath.Join(dir, "htpasswd"), entry(t, "alice", "one", 4))
		groups := write(t, filepath.Join(dir, "groups"), "dev: alice bob\nops: bob\ndev: carol\n")
		tokens := filepath.Join(dir, "tokens")
		var log logBuffer
		a := newAuthenticator(t, access.Config{Htpasswd: htpasswd, Groups: groups, Tokens: tokens, Logger: log.logger()})
		wantIdentity(t, a, basic("alice", "one"), "basic", "alice", "dev")

		secret, err := access.CreateToken(tokens, access.Token{Name: "ci", Groups: []string{"build"}})
		if err != nil {
			t.Fatal(err)
		}
		write(t, htpasswd, entry(t, "alice", "two", 4)+entry(t, "bob", "three", 5))
		write(t, groups, "dev ops\n")
		time.Sleep(watch.Every)
		wantRefused(t, a, basic("alice", "one"), "wrong password") // although it was remembered
		wantIdentity(t, a, basic("alice", "two"), "basic", "alice", "dev")
		wantIdentity(t, a, basic("bob", "three"), "basic", "bob", "dev,ops")
		wantIdentity(t, a, "Bearer "+secret, "token", "ci", "build")

		write(t, htpasswd, "alice:two\n")
		if err := os.Remove(tokens); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			time.Sleep(watch.Every)
			wantIdentity(t, a, basic("alice", "two"), "basic", "alice", "dev")
			wantRefused(t, a, "Bearer "+secret, "unknown token")
		}
		for _, want := range []string{"groups file " + groups, "htpasswd file " + htpasswd} {
			if n := strings.Count(log.String(), want); n != 1 {
				t.Errorf("%q is logged %d times", want, n)
			}
		}
		if !strings.Contains(log.String(), "file="+tokens) || strings.Contains(log.String(), "two") {
			t.Errorf("the log:\n%s", log.String())
		}
	})
}

func TestReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testReload) // otherwise a slow machine would read the changed files because a second has passed
}

func testReload(t *testing.T) {
	htpasswd := write(t, "htpasswd", entry(t, "alice", "one", 4))
	groups := write(t, "groups", "dev: alice\n")
	a := newAuthenticator(t, access.Config{Htpasswd: htpasswd, Groups: groups})
	wantIdentity(t, a, basic("alice", "one"), "basic", "alice", "dev")
	write(t, htpasswd, entry(t, "alice", "two", 4))
	write(t, groups, "ops: alice\n")
	if err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantIdentity(t, a, basic("alice", "two"), "basic", "alice", "ops")

	// All or nothing: the valid file does not take effect either.
	write(t, htpasswd, entry(t, "alice", "three", 4))
	write(t, groups, "ops alice\n")
	if err := a.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), groups+": line 1") {
		t.Errorf("reload of a broken file: %v", err)
	}
	wantIdentity(t, a, basic("alice", "two"), "basic", "alice", "ops")
}

func TestConcurrency(t *testing.T) {
	t.Parallel()
	htpasswd := write(t, "htpasswd", entry(t, "alice", "one", 4)+entry(t, "bob", "two", 4))
	tokens := filepath.Join(t.TempDir(), "tokens")
	secret, err := access.CreateToken(tokens, access.Token{Name: "ci"})
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthenticator(t, access.Config{Htpasswd: htpasswd, Tokens: tokens})
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			for range 20 {
				switch i % 4 {
				case 0:
					wantIdentity(t, a, basic("alice", "one"), "basic", "alice", "")
				case 1:
					wantIdentity(t, a, basic("bob", "two"), "basic", "bob", "")
				case 2:
					wantIdentity(t, a, "Bearer "+secret, "token", "ci", "")
				default:
					if err := a.Reload(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if got := counts(t, a); got["basic ok"] != 200 || got["token ok"] != 100 || len(got) != 2 {
		t.Errorf("counted %v", got)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	a := newAuthenticator(t, access.Config{Htpasswd: write(t, "htpasswd", entry(t, "alice", "one", 4))})
	for _, header := range []string{"", basic("alice", "one"), basic("alice", "two"), "Digest x", "Bearer assay_x", "Bearer a.b.c"} {
		a.Identify(request(t, header))
	}
	want := []string{"basic ok", "basic refused", "none ok", "oidc refused", "other refused", "token refused"}
	got := counts(t, a)
	var keys []string
	for key, n := range got {
		keys = append(keys, key)
		if n != 1 {
			t.Errorf("%s is %v", key, n)
		}
	}
	if slices.Sort(keys); !slices.Equal(keys, want) {
		t.Errorf("counted %v, want %v", keys, want)
	}
}
