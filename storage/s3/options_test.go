package s3_test

import (
	"strings"
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
