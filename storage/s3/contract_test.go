package s3_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// TestMain gives all stores credentials of their own, and hides those of the user that runs the tests.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "testaccess", "AWS_SECRET_ACCESS_KEY": "testsecret123", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "", "AWS_SESSION_TOKEN": "",
	} {
		os.Setenv(name, value)
	}
	os.Exit(m.Run())
}

// open opens a store and closes it with the test, unless the test did.
func open(t testing.TB, o s3.Options) *s3.DB {
	t.Helper()
	db, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// options are those of a store in the bucket of a server.
func options(server *s3test.Server) s3.Options {
	return s3.Options{Bucket: "bucket", Prefix: "store", Endpoint: server.URL, PathStyle: true}
}

// expectEmpty checks that no draft is left.
func expectEmpty(t *testing.T, dir string) {
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("%q, %v, want nothing in the spool", left, err)
	}
}
