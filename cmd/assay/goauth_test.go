package main

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"
)

// requestCredential is what a job of GitHub Actions requests its tokens with.
const requestCredential = "request-credential"

// jobIssuer issues tokens of jobs as GitHub Actions does: job-1, job-2 and so on.
type jobIssuer struct{ issued atomic.Int64 }

func (i *jobIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Authorization") != "Bearer "+requestCredential:
		http.Error(w, "who is there?", http.StatusUnauthorized)
	case r.FormValue("api-version") != "2.0" || r.FormValue("audience") != "assay":
		http.Error(w, "not like that", http.StatusBadRequest)
	default:
		fmt.Fprintf(w, `{"count":1,"value":"job-%d"}`, i.issued.Add(1))
	}
}

type issuerKey struct{}

// guardedCmd starts a proxy with TLS that wants one of the tokens, and whose
// /open must never be sent a credential. It has an issuer beside it.
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
	issuerServer := httptest.NewServer(ts.Value(issuerKey{}).(*jobIssuer))
	ts.Defer(issuerServer.Close)
	ts.Setenv("GUARDED", server.URL)
	ts.Setenv("SSL_CERT_FILE", authority)
	ts.Setenv("ISSUER", issuerServer.URL+"?api-version=2.0")
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
