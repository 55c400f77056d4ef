package proxy_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"iter"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// readers are the credentials for a server whose rules restrict corp.example/lib to team.
type readers struct {
	*hosts
	store  *countingStore
	right  []string // values of Authorization that may read it
	wrong  map[string]string
	tokens string
}

func startReaders(t *testing.T) *readers {
	t.Helper()
	r := &readers{}
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	hash := func(password string) string {
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(h)
	}
	r.tokens = filepath.Join(dir, "tokens")
	token := func(tok access.Token) string {
		secret, err := access.CreateToken(r.tokens, tok)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	basic := func(user, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	right := token(access.Token{Name: "ci", Groups: []string{"team"}})
	r.right = []string{basic("alice", "right horse"), "Bearer " + right, basic("whoever", right)}
	revoked := token(access.Token{Name: "gone", Groups: []string{"team"}})
	tokens, err := access.ListTokens(r.tokens)
	if err != nil {
		t.Fatal(err)
	}
	if err := access.RevokeToken(r.tokens, tokens[len(tokens)-1].ID); err != nil {
		t.Fatal(err)
	}
	r.wrong = map[string]string{
		"nobody":         "",
		"wrong password": basic("alice", "wrong horse"),
		"unknown user":   basic("nemo", "right horse"),
		"wrong group":    basic("bob", "his horse"),
		"wrong token":    "Bearer assay_" + strings.Repeat("a", 40),
		"expired token":  "Bearer " + token(access.Token{Name: "old", Groups: []string{"team"}, Expires: time.Now().Add(time.Second)}),
		"revoked token":  "Bearer " + revoked,
		"other's token":  "Bearer " + token(access.Token{Name: "ops", Groups: []string{"ops"}}),
		"out of scope":   "Bearer " + token(access.Token{Name: "narrow", Groups: []string{"team"}, Scope: []string{"corp.example/other"}}),
		"a JWT":          "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
		"no sense":       "Negotiate abc",
	}
	auth, err := access.New(t.Context(), access.Config{
		Htpasswd: write("htpasswd", "alice:"+hash("right horse")+"\nbob:"+hash("his horse")+"\n"),
		Groups:   write("groups", "team: alice\nops: bob\n"), Tokens: r.tokens,
		Remote: func(q *http.Request) string { return q.Header.Get("X-Test-Client") }, // so that no client slows another
	})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // one token has expired then
	r.hosts = startPrivate(t, func(c *proxy.Config, _ *vcs.Config) {
		c.Access, c.Content.Unified = auth, true
		r.store = &countingStore{Store: c.Content.Store}
		c.Content.Store = r.store
		if c.Settings.Policy, err = c.Settings.Policy.Restrict("corp.example/lib=team"); err != nil {
			t.Fatal(err)
		}
	})
	return r
}

// as gets a path with a credential, always with the same request id.
func (r *readers) as(authorization, path string) response {
	r.t.Helper()
	header := []string{"X-Test-Client", fmt.Sprintf("%p", &authorization)}
	if authorization != "" {
		header = append(header, "Authorization", authorization)
	}
	return r.get(path, header...)
}

// endpoints are all requests about lib and the own log, and the same about modules that
// do not exist.
func endpoints(module string) []string {
	var all []string
	for _, version := range []string{"v1.0.0", "v1.9.0"} {
		for _, file := range []string{"info", "mod", "zip"} {
			all = append(all, module+"/@v/"+version+"."+file)
		}
		all = append(all, "sumdb/log.corp.example/lookup/"+module+"@"+version, "sumdb/"+proxytest.Database+"/lookup/"+module+"@"+version)
	}
	all = append(all, module+"/@v/list", module+"/@latest", module+"/@v/main.info", module+"/@v/nosuch.info", module+"/v2/@v/v2.0.0.zip", "sumdb/log.corp.example/tile/8/data/000.p/1")
	for _, path := range slices.Clone(all) {
		all = append(all, "cached-only/"+path)
	}
	return all
}

// refusal is the whole response, except for parts that depend on the requested path.
func (a response) refusal(path string) string {
	header := a.header.Clone()
	header.Del("Date")
	path = strings.TrimPrefix(path, "cached-only/")
	return fmt.Sprint(a.status, header, strings.ReplaceAll(string(a.body), path, "PATH"), len(a.body)-len(path)-len(header.Get("Content-Length")))
}

// A client that may not read a module gets the same response, byte for byte, for each
// request, whether the object exists or not, is stored or not, and whatever is wrong with
// its credential. Nothing is looked up.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	r := startReaders(t)
	r.code.Module("lib", lib)
	check := func(when string) {
		t.Helper()
		r.code.Requests()
		size, looked := r.log.Size(), r.store.looked.Load()
		for who, authorization := range r.wrong {
			seen := map[int]string{} // by length of the path, which the headers depend on
			for _, module := range []string{"corp.example/lib", "corp.example/lib/nothing"} {
				for _, path := range endpoints(module) {
					a := r.as(authorization, path)
					if a.status != http.StatusNotFound || a.header.Get("Cache-Control") != "no-store" {
						t.Errorf("%s, %s: GET %s = %v %v", when, who, path, a, a.header)
						continue
					}
					shown := strings.TrimPrefix(path, "cached-only/")
					got := a.refusal(path)
					if first, ok := seen[len(shown)]; ok && got != first {
						t.Errorf("%s, %s: GET %s is another refusal:\n%s\n%s", when, who, path, got, first)
					}
					seen[len(shown)] = got
				}
			}
		}
		nobody := map[string]string{}
		for who, authorization := range r.wrong {
			for _, path := range endpoints("corp.example/lib") {
				got := r.as(authorization, path).refusal(path)
				if first, ok := nobody[path]; ok && got != first {
					t.Errorf("%s: GET %s tells %s apart:\n%s\n%s", when, path, who, got, first)
				}
				nobody[path] = got
			}
		}
		// So the duration cannot depend on what exists.
		if asked := r.code.Requests(); len(asked) > 0 || r.log.Size() != size || r.store.looked.Load() != looked {
			t.Errorf("%s: somebody who may not read made us ask %q, and look %d times into the store", when, asked, r.store.looked.Load()-looked)
		}
	}
	check("miss")
	for _, authorization := range r.right {
		for _, path := range []string{"corp.example/lib/@v/list", "corp.example/lib/@latest", "corp.example/lib/@v/v1.0.0.info", "corp.example/lib/@v/v1.0.0.mod",
			"corp.example/lib/@v/v1.0.0.zip", "corp.example/lib/@v/main.info", "sumdb/log.corp.example/lookup/corp.example/lib@v1.0.0", "sumdb/log.corp.example/tile/8/data/000.p/1"} {
			if a := r.as(authorization, path); a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Cache-Control"), "private") {
				t.Errorf("with a right: GET %s = %v %v", path, a, a.header)
			}
		}
		if a := r.as(authorization, "corp.example/lib/@v/v1.9.0.info"); a.status != http.StatusNotFound {
			t.Errorf("with a right, what is not there: %v", a)
		}
		if a := r.as(authorization, "sumdb/"+proxytest.Database+"/lookup/corp.example/lib@v1.0.0"); a.status != http.StatusForbidden || !strings.Contains(string(a.body), "GONOSUMDB") {
			t.Errorf("with a right, at the public database: %v", a)
		}
	}
	if r.store.looked.Load() == 0 {
		t.Fatal("the store is not counted")
	}
	check("hit")

	// Every client may read public modules, and private ones without a rule, even with a
	// wrong credential.
	r.code.Module("open", strings.ReplaceAll(lib, "corp.example/lib", "corp.example/open"))
	for who, authorization := range r.wrong {
		for _, path := range []string{"example.com/hello/@v/v1.0.0.zip", "corp.example/open/@v/list", "sumdb/log.corp.example/lookup/corp.example/open@v1.0.0", "sumdb/log.corp.example/latest"} {
			if who == "out of scope" && strings.Contains(path, "open") {
				if a := r.as(authorization, path); a.status != http.StatusNotFound || a.header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: GET %s = %v", who, path, a)
				}
				continue
			}
			if a := r.as(authorization, path); a.status != http.StatusOK {
				t.Errorf("%s: GET %s = %v", who, path, a)
			}
		}
	}
}

// countingStore counts look-ups.
type countingStore struct {
	storage.Store
	looked atomic.Int64
}

func (s *countingStore) Open(ctx context.Context, key string) (storage.Object, error) {
	s.looked.Add(1)
	return s.Store.Open(ctx, key)
}

func (s *countingStore) Stat(ctx context.Context, key string) (storage.Info, error) {
	s.looked.Add(1)
	return s.Store.Stat(ctx, key)
}

func (s *countingStore) State(ctx context.Context, key string) ([]byte, error) {
	s.looked.Add(1)
	return s.Store.State(ctx, key)
}

func (s *countingStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	s.looked.Add(1)
	return s.Store.List(ctx, prefix)
}

func (s *countingStore) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	s.looked.Add(1)
	return s.Store.Keys(ctx, prefix)
}

// The list of misconfigured clients names users, or addresses of anonymous clients.
func TestLeaks(t *testing.T) {
	t.Parallel()
	r := startReaders(t)
	r.as("", "corp.example/lib/@v/list")
	r.as("", "corp.example/lib/@latest")
	r.as(r.wrong["wrong group"], "corp.example/lib/@v/list") // configured correctly, but not allowed: no leak
	r.as(r.right[0], "sumdb/"+proxytest.Database+"/lookup/corp.example/lib@v1.0.0")
	var got []string
	for _, leak := range r.server.Leaks() {
		got = append(got, fmt.Sprint(leak.Client, " ", leak.Kind, " ", leak.Requests, " ", leak.Module))
	}
	want := []string{"alice public_database 1 corp.example/lib", "127.0.0.1 no_credential 2 corp.example/lib"}
	if !slices.Equal(got, want) {
		t.Errorf("leaks %q, want %q", got, want)
	}
	for i := range 1100 {
		r.server.NoteLeak(fmt.Sprint("client", i))
	}
	if n := len(r.server.Leaks()); n != 1000 {
		t.Errorf("%d rows are kept, want 1000", n)
	}
}

// A code host that ignores case, or a .git suffix, has other names for a module than the
// one in the rule.
func TestAccessOtherNames(t *testing.T) {
	t.Parallel()
	r := startReaders(t)
	r.code.Module("lib", lib)
	r.code.Page("Lib", "corp.example/Lib git https://git.corp.example/lib")
	r.code.Page("lib.git", "corp.example/lib.git git https://git.corp.example/lib")
	for _, name := range []string{"corp.example/!lib", "corp.example/lib.git", "corp.example/!l!i!b.git"} {
		for _, path := range endpoints(name) {
			if a := r.as("", path); a.status != http.StatusNotFound || !strings.Contains(string(a.body), "if it is private, check") {
				t.Errorf("GET %s = %v", path, a)
			}
		}
	}
	if asked := r.code.Requests(); len(asked) > 0 {
		t.Errorf("somebody who may not read made us ask %q", asked)
	}
}

// Refusing an object in memory costs as much as refusing one that is not held: a stranger
// cannot distinguish them by time either.
func TestRefusalCosts(t *testing.T) {
	r := startReaders(t)
	r.code.Module("lib", lib)
	const here, missing = "corp.example/lib/@v/v1.0.0.mod", "corp.example/lib/@v/v1.9.0.mod"
	for range 2 { // the second request brings it into memory
		if a := r.as(r.right[0], here); a.status != http.StatusOK {
			t.Fatal(a)
		}
	}
	for who, authorization := range r.wrong {
		if !strings.HasPrefix(authorization, "Bearer") && authorization != "" {
			continue // passwords are slow in another way
		}
		cost := func(path string) float64 {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/"+path, nil)
			if authorization != "" {
				req.Header.Set("Authorization", authorization)
			}
			return testing.AllocsPerRun(100, func() {
				w := httptest.NewRecorder()
				if r.server.ServeHTTP(w, req); w.Code != http.StatusNotFound {
					t.Errorf("%s: %d", who, w.Code)
				}
			})
		}
		// Parsing a path takes five. The race detector makes it one more or less at
		// random.
		if a, b := cost(here), cost(missing); math.Abs(a-b) > 2 {
			t.Errorf("%s: %v allocations for what is here, %v for what is not", who, a, b)
		}
	}
}

// For any spelling of a path, and any kind of request, a restricted module looks like one
// that does not exist.
func TestAccessSpellings(t *testing.T) {
	t.Parallel()
	r := startReaders(t)
	r.code.Module("lib", lib)
	for _, file := range []string{"@v/list", "@latest", "@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/main.info"} {
		for range 2 { // the second one comes from memory
			if a := r.as(r.right[0], "corp.example/lib/"+file); a.status != http.StatusOK {
				t.Fatal(a)
			}
		}
	}
	etag := r.as(r.right[0], "corp.example/lib/@v/v1.0.0.mod").header.Get("Etag")
	var requests [][]string
	for _, header := range [][]string{nil, {"Range", "bytes=0-3"}, {"If-None-Match", etag}, {"If-None-Match", "*"}, {"If-Match", etag}, {"If-Range", etag},
		{"If-Modified-Since", "Sat, 21 Nov 2026 00:00:00 GMT"}, {"Disable-Module-Fetch", "true"}, {"Accept-Encoding", "gzip"}} {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "DELETE"} {
			requests = append(requests, append([]string{method}, header...))
		}
	}
	for _, path := range []string{
		"corp.example/NAME/@v/v1.0.0.mod", "corp.example/NAME/@v/v1.0.0.zip", "corp.example/NAME/@v/v1.0.0.info", "corp.example/NAME/@latest", "corp.example/NAME/@v/list",
		"corp.example/NAME/@v/v1.0.0.mod/", "/corp.example/NAME/@v/v1.0.0.mod", "corp.example//NAME/@v/v1.0.0.mod", "corp.example/NAME//@v/v1.0.0.mod", "corp.example/NAME/@v//v1.0.0.mod",
		"corp.example%2FNAME/@v/v1.0.0.mod", "corp.example/NAME/%40v/v1.0.0.mod", "%63orp.example/NAME/@v/v1.0.0.mod", "corp.example/NAME/@v/v1%2e0.0.mod", "corp.example/NAME%2F@v%2Fv1.0.0.mod",
		"corp.example%252FNAME/@v/v1.0.0.mod", "corp.example/./NAME/@v/v1.0.0.mod", "corp.example/x/../NAME/@v/v1.0.0.mod", "corp.example/NAME/@v/v1.0.0.MOD", "corp.example/NAME/@v/v1.0.mod",
		"corp.example/NAME/@v/v1.info", "corp.example/NAME/@v/v1.0.0+incompatible.info", "corp.example/NAME/@v/!main.info", "corp.example/NAME/@v/", "corp.example/NAME/", "corp.example/NAME",
		"cached-only/corp.example/NAME/@v/v1.0.0.mod", "cached-only//corp.example/NAME/@v/v1.0.0.mod", "cached-only/cached-only/corp.example/NAME/@v/v1.0.0.mod", "mod/corp.example/NAME/@v/v1.0.0.mod",
		"corp.example/NAME/@v/v1.0.0.mod?x=y", "corp.example/NAME/@v/v1.0.0.ziphash", "corp.example/NAME/v2/@v/list", "corp.example/NAME/sub/@latest",
		"sumdb/log.corp.example/lookup/corp.example/NAME@v1.0.0", "sumdb/log.corp.example/lookup/corp.example/NAME@v1.0.0/", "sumdb//log.corp.example/lookup/corp.example/NAME@v1.0.0",
		"sumdb/log.corp.example/lookup/corp.example%2FNAME%40v1.0.0", "sumdb/" + proxytest.Database + "/lookup/corp.example/NAME@v1.0.0", "sumdb/nosuch.example/lookup/corp.example/NAME@v1.0.0",
	} {
		for _, request := range requests {
			ask := func(name string) string {
				header := append([]string{"Authorization", r.wrong["wrong group"], "X-Test-Client", path}, request[1:]...)
				a := r.do(request[0], strings.ReplaceAll(path, "NAME", name), header...)
				if a.err != nil || a.status < 400 {
					t.Errorf("%q %s of %s: %v", request, path, name, a)
				}
				a.header.Del("Date")
				a.header.Del("Content-Length") // it depends on the name
				return strings.ReplaceAll(fmt.Sprint(a.status, a.header, string(a.body)), name, "NAME")
			}
			if there, not := ask("lib"), ask("lib/nothing"); there != not {
				t.Errorf("%q %s is told apart:\n%s\n%s", request, path, there, not)
			}
		}
	}
}
