package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

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
		{"no file in the environment", options("https://proxy.test", "", "", ""), map[string]string{"ASSAY_TOKEN_FILE": file + "2"}, "token file: open"},
		{"both", options("https://proxy.test", "", "", ""), map[string]string{"ASSAY_TOKEN_FILE": file, "ASSAY_TOKEN": "secret"}, "ASSAY_TOKEN and ASSAY_TOKEN_FILE are both set"},
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
			env := environ(map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": issuer.URL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-credential"})
			var out bytes.Buffer
			err := goAuth(t.Context(), options("https://proxy.test", "", "", "a"), "", env, strings.NewReader(""), &out)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "request-credential") || out.Len() > 0 {
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
