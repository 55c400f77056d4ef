package access_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/watch"
)

func create(t testing.TB, file string, token access.Token) string {
	t.Helper()
	secret, err := access.CreateToken(file, token)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func list(t testing.TB, file string) []access.Token {
	t.Helper()
	all, err := access.ListTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTokens(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	if _, err := access.ListTokens(file); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("list no file: %v", err)
	}
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	ci := create(t, file, access.Token{Name: "ci", Groups: []string{"build", "ops"}, Expires: expires})
	bob := create(t, file, access.Token{Name: "bob@corp.example", ID: "mine", Revoked: true, Created: expires}) // CreateToken ignores these fields
	if form := regexp.MustCompile(`^assay_[a-z2-7]{40}$`); !form.MatchString(ci) || !form.MatchString(bob) || ci == bob {
		t.Errorf("secrets %q and %q", ci, bob)
	}

	all := list(t, file)
	want := []access.Token{{Name: "ci", Groups: []string{"build", "ops"}, Expires: expires}, {Name: "bob@corp.example"}}
	ignore := cmpopts.IgnoreFields(access.Token{}, "ID", "Created")
	if diff := cmp.Diff(want, all, ignore, cmpopts.IgnoreUnexported(access.Token{}), cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("the list (-want +got):\n%s", diff)
	}
	for i, token := range all {
		if age := time.Since(token.Created); age < 0 || age > time.Minute || len(token.ID) != 8 || token.ID == all[1-i].ID {
			t.Errorf("created %v, id %s", token.Created, token.ID)
		}
		if token.Matches(ci) != (i == 0) || token.Matches(bob) != (i == 1) || token.Matches("") {
			t.Errorf("token %d matches the wrong secret", i)
		}
	}

	a := newAuthenticator(t, access.Config{Tokens: file})
	wantIdentity(t, a, "Bearer "+ci, "token", "ci", "build,ops")
	wantIdentity(t, a, "bearer "+bob, "token", "bob@corp.example", "")
	wantIdentity(t, a, basic("anything", ci), "token", "ci", "build,ops") // .netrc
	wantIdentity(t, a, basic("", bob), "token", "bob@corp.example", "")
	for _, secret := range []string{ci[:len(ci)-1], ci + "a", strings.ToUpper(ci), "assay_", "assay_" + strings.Repeat("a", 40)} {
		_, err := a.Identify(request(t, "Bearer "+secret))
		if !errors.Is(err, access.ErrRefused) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", secret, err)
		}
	}
}

// The file contains no secret, and only its owner can read it.
func TestTokenFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	secret := create(t, file, access.Token{Name: "ci"})
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), secret) || strings.Contains(string(data), secret[len("assay_"):]) || !strings.HasPrefix(string(data), "# ") {
		t.Errorf("the file:\n%s", data)
	}
	if runtime.GOOS == "windows" {
		return
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// An edit keeps the file's permissions, for example that the server's group may read it.
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	create(t, file, access.Token{Name: "two"})
	if info, err = os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	_, createErr := access.CreateToken(file, access.Token{Name: "three"})
	_, listErr := access.ListTokens(file)
	for _, err := range []error{createErr, listErr, access.RevokeToken(file, "any")} {
		if err == nil || !strings.Contains(err.Error(), "chmod o-rwx "+file) {
			t.Errorf("a file that all can read: %v", err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 2 { // the file and its lock
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestTokenFileThatIsALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	create(t, file, access.Token{Name: "one"})
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	create(t, link, access.Token{Name: "two"})
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 || len(list(t, file)) != 2 {
		t.Errorf("the link is %v, %v; the file has %d tokens", info.Mode(), err, len(list(t, file)))
	}
}

func TestCreateTokenRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	for want, token := range map[string]access.Token{
		`the name ""`:      {},
		`the name "a b"`:   {Name: "a b"},
		`the name "a\n"`:   {Name: "a\n"},
		"1 to 255 bytes":   {Name: strings.Repeat("a", 256)},
		`the group ""`:     {Name: "a", Groups: []string{"b", ""}},
		`the group "b,c"`:  {Name: "a", Groups: []string{"b,c"}},
		`the group "-"`:    {Name: "a", Groups: []string{"-"}},
		"the year 10000":   {Name: "a", Expires: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"expired on 2001-": {Name: "a", Expires: time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if secret, err := access.CreateToken(file, token); err == nil || secret != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %q, %v; want %q", token, secret, err, want)
		}
	}
	if _, err := access.ListTokens(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	if _, err := access.CreateToken(filepath.Join(file, "no", "directory"), access.Token{Name: "a"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	write(t, file, "this is no token file\n")
	if _, err := access.CreateToken(file, access.Token{Name: "a"}); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("into a broken file: %v", err)
	}
}

func TestRevokeToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	one := create(t, file, access.Token{Name: "one"})
	two := create(t, file, access.Token{Name: "two"})
	before := list(t, file)
	for range 2 { // the second time is not an error
		if err := access.RevokeToken(file, before[0].ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := access.RevokeToken(file, "none"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"none"`) {
		t.Errorf("one that there is not: %v", err)
	}
	if err := access.RevokeToken(filepath.Join(t.TempDir(), "none"), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	want := slices.Clone(before)
	want[0].Revoked = true
	if diff := cmp.Diff(want, list(t, file), cmpopts.IgnoreUnexported(access.Token{})); diff != "" {
		t.Errorf("after it was revoked (-want +got):\n%s", diff)
	}
	a := newAuthenticator(t, access.Config{Tokens: file})
	wantRefused(t, a, "Bearer "+one, "token "+before[0].ID+" of one is revoked")
	wantIdentity(t, a, "Bearer "+two, "token", "two", "")
}

// Manual changes of the file are kept.
func TestTokenFileEditedByHand(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("0", 63)
	text := "# ours\n\n  a " + hash + "1  ann  x,y  -  - -\n# a " + hash + "1 ann - - - -\nb " + hash + "2 bob - 2026-01-01T00:00:00+01:00 - -"
	file := write(t, "tokens", text)
	if err := access.RevokeToken(file, "a"); err != nil {
		t.Fatal(err)
	}
	create(t, file, access.Token{Name: "new"})
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := "# ours\n\na\t" + hash + "1\tann\tx,y\t-\t-\trevoked\n# a " + hash + "1 ann - - - -\nb " + hash + "2 bob - 2026-01-01T00:00:00+01:00 - -\n"
	if rest, ok := strings.CutPrefix(string(data), want); !ok || strings.Count(rest, "\n") != 1 {
		t.Errorf("the file:\n%s\nwant it to begin with:\n%s", data, want)
	}
	if all := list(t, file); len(all) != 3 || !all[0].Revoked || all[1].Created.UTC().Hour() != 23 {
		t.Errorf("the list: %+v", all)
	}
}

// A scope restricts a token, and survives a change of the file.
func TestTokenScope(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	secret := create(t, file, access.Token{Name: "narrow", Groups: []string{"g"}, Scope: []string{"corp.example/lib", "*.team.example"}})
	create(t, file, access.Token{Name: "wide"})
	if all := list(t, file); strings.Join(all[0].Scope, ",") != "corp.example/lib,*.team.example" || all[1].Scope != nil {
		t.Errorf("the list: %+v", all)
	}
	a, err := access.New(t.Context(), access.Config{Tokens: file})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+secret)
	id, err := a.Identify(r)
	if err != nil {
		t.Fatal(err)
	}
	for path, covered := range map[string]bool{"corp.example/lib": true, "corp.example/lib/v2": true, "a.team.example/x": true, "corp.example/library": false, "other.example": false} {
		if id.Covers(path) != covered {
			t.Errorf("%s: covered %v, want %v", path, id.Covers(path), covered)
		}
	}
	if !(access.Identity{}).Covers("corp.example/lib") {
		t.Error("without a scope nothing is covered")
	}
	if err := access.RevokeToken(file, list(t, file)[0].ID); err != nil {
		t.Fatal(err)
	}
	if all := list(t, file); len(all[0].Scope) != 2 || !all[0].Revoked {
		t.Errorf("after it was revoked: %+v", all[0])
	}
	for _, scope := range [][]string{{""}, {"a b"}, {"[x"}, {"a,b"}, {"-"}} {
		if _, err := access.CreateToken(file, access.Token{Name: "x", Scope: scope}); err == nil {
			t.Errorf("scope %q: no error", scope)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	synctest.Test(t, func(t *testing.T) {
		expires := time.Now().Add(time.Hour)
		secret := create(t, file, access.Token{Name: "ci", Expires: expires})
		a := newAuthenticator(t, access.Config{Tokens: file})
		time.Sleep(time.Hour - time.Nanosecond)
		wantIdentity(t, a, "Bearer "+secret, "token", "ci", "")
		token := list(t, file)[0]
		time.Sleep(time.Nanosecond)
		wantRefused(t, a, "Bearer "+secret, "token "+token.ID+" of ci expired on "+expires.UTC().Format(time.RFC3339))
		if !token.ExpiredAt(expires) || token.ExpiredAt(expires.Add(-1)) || (access.Token{}).ExpiredAt(expires) {
			t.Error("ExpiredAt is not exact")
		}
	})
}

// The file is read again when it changes, is replaced or is removed; it need not exist at first.
func TestTokenFileIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "tokens")
		a := newAuthenticator(t, access.Config{Tokens: file})
		one := create(t, file, access.Token{Name: "one"})
		another := filepath.Join(dir, "another")
		two := create(t, another, access.Token{Name: "two"})
		wantLater(t, a, one, "one", true)
		if err := os.Rename(another, file); err != nil {
			t.Fatal(err)
		}
		wantLater(t, a, two, "two", true)
		wantRefused(t, a, "Bearer "+one, "unknown token")
		if err := access.RevokeToken(file, list(t, file)[0].ID); err != nil {
			t.Fatal(err)
		}
		wantLater(t, a, two, "two", false)
		if err := os.WriteFile(file, []byte("broken\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(watch.Every)
		wantRefused(t, a, "Bearer "+two, "is revoked") // from the last good version
	})
}

// wantLater waits until a token is accepted, or refused.
func wantLater(t testing.TB, a *access.Authenticator, secret, name string, accepted bool) {
	t.Helper()
	for range 60 {
		id, err := a.Identify(request(t, "Bearer "+secret))
		if (err == nil) == accepted && (!accepted || id.Name == name) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("after three seconds the token of %s is still not accepted=%v", name, accepted)
}

// Concurrent calls of CreateToken lose no token.
func TestCreateTokensAtOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	first := create(t, file, access.Token{Name: "first"})
	id := list(t, file)[0].ID
	var mu sync.Mutex
	secrets := map[string]string{}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			name := fmt.Sprintf("t%d", i)
			secret, err := access.CreateToken(file, access.Token{Name: name})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			secrets[name] = secret
			mu.Unlock()
			if _, err := access.ListTokens(file); err != nil { // a reader always sees a complete file
				t.Error(err)
			}
			if i%5 == 0 {
				if err := access.RevokeToken(file, id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	a := newAuthenticator(t, access.Config{Tokens: file})
	if n := len(list(t, file)); n != 21 {
		t.Errorf("%d tokens, want 21", n)
	}
	for name, secret := range secrets {
		wantIdentity(t, a, "Bearer "+secret, "token", name, "")
	}
	wantRefused(t, a, "Bearer "+first, "is revoked")
}

func FuzzTokenFile(f *testing.F) {
	hash := strings.Repeat("0", 63)
	for _, seed := range []string{"", "# c\n", "a " + hash + "1 n g - - - x.example,y/*\n", "a " + hash + "1 n g,h 2026-01-01T00:00:00Z - -\n", "a\t" + hash + "1\tn\t-\t-\t-\trevoked",
		"a " + hash + "1 n - - - -\na " + hash + "2 n - - - -\n", "a " + hash + "1 n - - - -\r\nb " + hash + "2 n - - - -\r\n", "a b c d e f g", "# # n - - - -"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file := write(t, "tokens", text)
		before, err := access.ListTokens(file)
		if err != nil {
			if _, err := access.CreateToken(file, access.Token{Name: "n"}); err == nil {
				t.Error("a token was made in a file that cannot be read")
			}
			return
		}
		// Every file that can be read can be edited, and nothing else in it changes.
		secret := create(t, file, access.Token{Name: "n", Groups: []string{"g"}})
		after := list(t, file)
		same := cmpopts.IgnoreUnexported(access.Token{})
		if diff := cmp.Diff(before, after[:len(after)-1], same, cmpopts.EquateEmpty()); diff != "" || !after[len(after)-1].Matches(secret) {
			t.Errorf("after a token was made (-before +after):\n%s", diff)
		}
		for i := range after {
			if err := access.RevokeToken(file, after[i].ID); err != nil {
				t.Fatalf("revoke %q: %v", after[i].ID, err)
			}
			after[i].Revoked = true
		}
		if diff := cmp.Diff(after, list(t, file), same, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("after all were revoked (-want +got):\n%s", diff)
		}
	})
}
