package main_test

import (
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
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"
)

// requestCredential is the credential with which a job of GitHub Actions requests its tokens.
const requestCredential = "request-credential"

// A jobIssuer issues tokens of jobs like GitHub Actions: for its audience signed ones, of which the
// first has expired, like the token of a long job; otherwise for the audience assay job-1, job-2 and
// so on.
type jobIssuer struct {
	issued   atomic.Int64
	url      string
	audience string
	key      *ecdsa.PrivateKey
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
	case r.FormValue("audience") == i.audience:
		token, err := i.sign("acme/app", i.issued.Add(1) == 1)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"count":1,"value":%q}`, token)
	case r.FormValue("audience") == "assay":
		fmt.Fprintf(w, `{"count":1,"value":"job-%d"}`, i.issued.Add(1))
	default:
		http.Error(w, "not like that", http.StatusBadRequest)
	}
}

// sign returns a token of a job of a repository.
func (i *jobIssuer) sign(repository string, expired bool) (string, error) {
	until := time.Now().Add(5 * time.Minute)
	if expired {
		until = time.Now().Add(-time.Minute)
	}
	claims := fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"repo:%s:ref:refs/heads/main","repository":%q,"exp":%d}`, i.url, i.audience, repository, repository, until.Unix())
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

// issuerCmd starts the issuer for an audience, and writes an OIDC file that puts its jobs of acme
// into the group team.
func issuerCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: issuer file audience")
	}
	i := ts.Value(issuerKey{}).(*jobIssuer)
	i.audience = args[1]
	i.start(ts)
	text := fmt.Sprintf("[[issuer]]\nurl = %q\naudience = %q\n\n[[issuer.rule]]\nclaims = { repository = \"acme/*\" }\ngroups = [\"team\"]\n", i.url, i.audience)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// issueCmd writes a token of a job of a repository, which has not expired.
func issueCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: issue file repository")
	}
	token, err := ts.Value(issuerKey{}).(*jobIssuer).sign(args[1], false)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(token), 0o600))
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
