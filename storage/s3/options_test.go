package s3_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-proxy/assay/storage/s3"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]s3.Options{
		"s3://modules":           {Bucket: "modules"},
		"s3://modules/":          {Bucket: "modules"},
		"s3://modules/go/assay/": {Bucket: "modules", Prefix: "go/assay"},
		"s3://modules/p?endpoint=https://minio.corp.example:9000&region=eu-1&path-style=true": {
			Bucket: "modules", Prefix: "p", Endpoint: "https://minio.corp.example:9000", Region: "eu-1", PathStyle: true},
		"s3://modules?sse=aws:kms&sse-kms-key=alias/go": {Bucket: "modules", Encryption: "aws:kms", KMSKey: "alias/go"},
		"s3://modules?profile=guard":                    {Bucket: "modules", Profile: "guard"},
	} {
		got, err := s3.ParseURL(url)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("ParseURL(%q), error %v (-want +got):\n%s", url, err, diff)
		}
	}
}

// What is refused is said, and no secret is in it.
func TestParseURLRefuses(t *testing.T) {
	t.Parallel()
	for url, says := range map[string]string{
		"":                                         "want a URL of the form s3://BUCKET/PREFIX",
		"https://modules":                          "want a URL of the form",
		"s3:modules":                               "want a URL of the form",
		"s3:///prefix":                             "want a URL of the form",
		"s3://key:hunter2@modules":                 "credentials do not belong into the URL",
		"s3://modules#x":                           "must be ?NAME=VALUE",
		"s3://modules?secret=hunter2":              `no parameter "secret"`,
		"s3://modules?path-style=yes":              "path-style must be true or false",
		"s3://modules?endpoint=minio":              "endpoint must be an http or https URL",
		"s3://modules?endpoint=ftp://m":            "endpoint must be",
		"s3://modules?sse=rot13":                   "sse is AES256",
		"s3://modules?sse-kms-key=k":               "sse-kms-key is for",
		"s3://modules/a//b":                        "two in a row",
		"s3://modules/../b":                        "..",
		"s3://modules:9000/p":                      "is the name of a bucket",
		"s3://modules?region=a&region=b":           "is there twice",
		"s3://modules?endpoint=http://:80":         "endpoint must be",
		"s3://modules?profile=":                    "profile has no name",
		"s3://mod%zzules":                          "not a URL",
		"s3://modules/" + long:                     "longer than",
		"s3://modules?endpoint=http://a:hunter2@m": "without credentials",
	} {
		_, err := s3.ParseURL(url)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("ParseURL(%.60q) = %v, want %q", url, err, says)
		}
	}
}

var long = strings.Repeat("long/", 30)

// A store with a profile uses its credentials, and those of the environment are for the others. Both are used beside each
// other. A profile that is not there is an error.
func TestProfile(t *testing.T) {
	var used atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		used.Store(r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[guard]\naws_access_key_id = guardaccess\naws_secret_access_key = guardsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	at := func(profile string) s3.Options {
		return s3.Options{Bucket: "bucket", Endpoint: server.URL, PathStyle: true, Profile: profile}
	}
	own, guard := open(t, at("")), open(t, at("guard"))
	for range 2 {
		for want, db := range map[string]*s3.DB{"testaccess": own, "guardaccess": guard} {
			if _, err := db.State(t.Context(), "a"); err == nil || !strings.Contains(used.Load().(string), "Credential="+want+"/") {
				t.Errorf("credentials %v, want %s; %v", used.Load(), want, err)
			}
		}
	}
	if _, err := s3.Open(t.Context(), at("absent")); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a profile that is not there: %v", err)
	}
}
