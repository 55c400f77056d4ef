package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// requestCredential is the credential with which a job of GitHub Actions requests its tokens.
const requestCredential = "request-credential"

// A jobIssuer issues tokens of jobs like GitHub Actions: for the audience assay job-1, job-2 and so
// on; for the audience proxy signed ones, of which the first has expired, like the token of a long
// job.
type jobIssuer struct {
	issued atomic.Int64
	url    string
	key    *ecdsa.PrivateKey
}

// start starts the issuer and sets ISSUER to its URL.
func (i *jobIssuer) start(ts *testscript.TestScript) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	server := httptest.NewServer(i)
	ts.Defer(server.Close)
	i.url, i.key = server.URL, key
	ts.Setenv("ISSUER", server.URL+"?api-version=2.0")
}

func (i *jobIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, i.url, i.url+"/keys")
	case r.URL.Path == "/keys":
		keys := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}}
		_ = json.NewEncoder(w).Encode(keys)
	case r.Header.Get("Authorization") != "Bearer "+requestCredential:
		http.Error(w, "who is there?", http.StatusUnauthorized)
	case r.FormValue("api-version") != "2.0":
		http.Error(w, "not like that", http.StatusBadRequest)
	case r.FormValue("audience") == "assay":
		fmt.Fprintf(w, `{"count":1,"value":"job-%d"}`, i.issued.Add(1))
	case r.FormValue("audience") == "proxy":
		token, err := i.sign(i.issued.Add(1) == 1)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"count":1,"value":%q}`, token)
	default:
		http.Error(w, "not like that", http.StatusBadRequest)
	}
}

// sign returns a token of a job of acme/app.
func (i *jobIssuer) sign(expired bool) (string, error) {
	until := time.Now().Add(5 * time.Minute)
	if expired {
		until = time.Now().Add(-time.Minute)
	}
	claims := fmt.Sprintf(`{"iss":%q,"aud":"proxy","sub":"repo:acme/app:ref:refs/heads/main","repository":"acme/app","exp":%d}`, i.url, until.Unix())
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "1"}}, nil)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign([]byte(claims))
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// issuerCmd starts the issuer and writes an OIDC file that puts its jobs of acme into the group
// team.
func issuerCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: issuer file")
	}
	i := ts.Value(issuerKey{}).(*jobIssuer)
	i.start(ts)
	text := fmt.Sprintf("[[issuer]]\nurl = %q\naudience = \"proxy\"\n\n[[issuer.rule]]\nclaims = { repository = \"acme/*\" }\ngroups = [\"team\"]\n", i.url)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// netrcCmd gives the go command a netrc with the password in a file, for a machine or for that of
// GOPROXY.
func netrcCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: netrc login passwordfile [machine]")
	}
	machine := strings.TrimPrefix(ts.Getenv("GOPROXY"), "https://")
	if len(args) == 3 {
		machine = args[2]
	}
	file := filepath.Join(ts.Getenv("WORK"), "netrc")
	text := fmt.Sprintf("machine %s login %s password %s\n", machine, args[0], strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(os.WriteFile(file, []byte(text), 0o600))
	ts.Setenv("NETRC", file)
}

type issuerKey struct{}

// guardedCmd starts a proxy with TLS that requires one of the tokens, and whose /open must never
// get a credential. It has an issuer beside it.
func guardedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: guarded token...")
	}
	upstream, err := url.Parse(ts.Getenv("UPSTREAM"))
	ts.Check(err)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(upstream) }}
	guarded := func(w http.ResponseWriter, r *http.Request) {
		for _, token := range args {
			if r.Header.Get("Authorization") == "Bearer "+token {
				forward.ServeHTTP(w, r)
				return
			}
		}
		http.Error(w, "who is there?", http.StatusUnauthorized)
	}
	mux := http.NewServeMux()
	mux.Handle("/mod/", http.StripPrefix("/mod", http.HandlerFunc(guarded)))
	mux.HandleFunc("/open/", func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Authorization"]) > 0 {
			http.Error(w, "a credential went astray", http.StatusInternalServerError)
			return
		}
		http.NotFound(w, r)
	})
	server := httptest.NewTLSServer(mux)
	ts.Defer(server.Close)
	authority := filepath.Join(ts.Getenv("WORK"), "ca.pem")
	ts.Check(os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	ts.Value(issuerKey{}).(*jobIssuer).start(ts)
	ts.Setenv("GUARDED", server.URL)
	ts.Setenv("SSL_CERT_FILE", authority)
}

// tokensCmd checks how many tokens the issuer has issued.
func tokensCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tokens n")
	}
	if n := ts.Value(issuerKey{}).(*jobIssuer).issued.Load(); strconv.FormatInt(n, 10) != args[0] {
		ts.Fatalf("%d tokens were issued, want %s", n, args[0])
	}
}

// options returns the options that flags are parsed into.
func options(url, file, env, audience string) goAuthOptions {
	return goAuthOptions{config.FlagText{Text: url}, config.FlagText{Text: file}, config.FlagText{Text: env}, config.FlagText{Text: audience}}
}

// environ returns a getenv for a map.
func environ(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func TestGoAuthURLs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ url, failed, want string }{
		{"https://proxy.test", "", "https://proxy.test"},
		{"https://proxy.test/", "https://proxy.test/a/@v/list", "https://proxy.test"},
		{"https://proxy.test/go/", "https://proxy.test/go/a/@v/list", "https://proxy.test/go"},
		{"https://proxy.test/go", "https://proxy.test/go", "https://proxy.test/go"},
		{"https://proxy.test:8443", "https://proxy.test:8443/a", "https://proxy.test:8443"},
		{"https://proxy.test:443", "https://proxy.test/a", "https://proxy.test:443"},
		{"https://[::1]:8443", "https://[::1]:8443/a", "https://[::1]:8443"},
		{"https://proxy.test", "https://PROXY.test/a", "https://proxy.test"},
		{"https://proxy.test/go", "https://proxy.test/gopher/a", ""},
		{"https://proxy.test/go", "https://proxy.test/", ""},
		{"https://proxy.test", "https://proxy.test.evil.test/a", ""},
		{"https://proxy.test", "https://evil.test/proxy.test", ""},
		{"https://proxy.test", "https://proxy.test@evil.test/a", ""},
		{"https://proxy.test", "https://proxy.test:8443/a", ""},
		{"https://proxy.test", "http://proxy.test/a", ""},
		{"https://proxy.test", "https://proxy.test/%zz", ""},
	} {
		want := ""
		if tt.want != "" {
			want = tt.want + "\n\nAuthorization: Bearer secret\n\n"
		}
		var out bytes.Buffer
		err := goAuth(t.Context(), options(tt.url, "", "", ""), tt.failed, environ(map[string]string{"ASSAY_TOKEN": "secret"}), strings.NewReader(""), &out)
		if err != nil || out.String() != want {
			t.Errorf("%s after %q: %q, %v; want %q", tt.url, tt.failed, out.String(), err, want)
		}
	}
}

func TestGoAuthRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("secret", maxToken)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		options goAuthOptions
		env     map[string]string
		want    string
	}{
		{"no url", options("", file, "", ""), nil, "--url is missing"},
		{"http", options("http://localhost:3000", file, "", ""), nil, "--url must be https"},
		{"no scheme", options("proxy.test", file, "", ""), nil, "--url must be https"},
		{"a password", options("https://me:secret@proxy.test", file, "", ""), nil, "without a user"},
		{"no host", options("https:///a", file, "", ""), nil, "must have a host"},
		{"a query", options("https://proxy.test?a=secret", file, "", ""), nil, "neither a query"},
		{"two lines", options("https://proxy.test\nhttps://evil.test", file, "", ""), nil, "not a URL"},
		{"nothing", options("https://proxy.test", "", "", ""), nil, "set ASSAY_TOKEN"},
		{"empty", options("https://proxy.test", "", "JOB", ""), nil, "JOB: it is empty"},
		{"a header more", options("https://proxy.test", "", "JOB", ""), map[string]string{"JOB": "secret\nCookie: secret"}, "JOB: it is not a token"},
		{"no file", options("https://proxy.test", file+"2", "", ""), nil, "token file: open"},
		{"a long file", options("https://proxy.test", file, "", ""), nil, "more than 8192 bytes"},
		{"no permission", options("https://proxy.test", "", "", "a"), nil, "id-token: write"},
		{"a request over http", options("https://proxy.test", "", "", "a"),
			map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": "http://192.0.2.1/secret", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "secret"}, "not an https URL"},
		{"a malformed credential", options("https://proxy.test", "", "", "a"),
			map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": "http://localhost:1/secret", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "secret\n"}, "localhost:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			err := goAuth(t.Context(), tt.options, "", environ(tt.env), strings.NewReader(""), &out)
			if err == nil || !strings.Contains(err.Error(), tt.want) || out.Len() > 0 {
				t.Errorf("%v, want %q; printed %q", err, tt.want, out.String())
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

// An issuer that misbehaves gets no second request, and no other server gets one. The error
// contains nothing of its response.
func TestGoAuthIssuers(t *testing.T) {
	t.Parallel()
	var elsewhere, asked int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	for _, tt := range []struct{ name, answer, want string }{
		{"redirect", "", "307 Temporary Redirect"},
		{"no json", "secret", "unexpected response: not the expected JSON"},
		{"another type", `{"value":{"secret":"secret"}}`, "unexpected response: not the expected JSON"},
		{"empty", `{}`, "it is empty"},
		{"two lines", `{"value":"secret\nsecret"}`, "not a token"},
		{"long", `{"value":"` + strings.Repeat("secret", 4*maxToken) + `"}`, "unexpected response: not the expected JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				if tt.answer == "" {
					http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
				}
				fmt.Fprint(w, tt.answer)
			}))
			defer issuer.Close()
			env := environ(map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": issuer.URL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": requestCredential})
			var out bytes.Buffer
			err := goAuth(t.Context(), options("https://proxy.test", "", "", "a"), "", env, strings.NewReader(""), &out)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), requestCredential) || out.Len() > 0 {
				t.Errorf("%v, want %q; printed %q", err, tt.want, out.String())
			}
		})
	}
	if asked != 6 || elsewhere != 0 {
		t.Errorf("asked %d times, and %d times elsewhere", asked, elsewhere)
	}
}

func TestGoAuthAnswers(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{
		"HTTP/1.1 401 Unauthorized\n\n": true, "HTTP/2.0 403 Forbidden\nA: b\n\n": true, "HTTP/1.1 404 Not Found\n\n": true,
		"": true, "HTTP/1.1 many\n": true, "HTTP/1.1 429 Too Many Requests\n\n": false, "HTTP/1.1 410 Gone\n\n": false,
	} {
		if got := mayBeAuth(strings.NewReader(answer)); got != want {
			t.Errorf("%q: %v", answer, got)
		}
	}
}
