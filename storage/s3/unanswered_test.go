package s3_test

import (
	"os"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage/s3"
)

// A request without an answer says why in one short line, and what to do.
func TestUnanswered(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "",
	} {
		t.Setenv(name, value)
	}
	for key, want := range map[string]string{"": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "testaccess": "refused; check the endpoint"} {
		t.Setenv("AWS_ACCESS_KEY_ID", key)
		t.Setenv("AWS_SECRET_ACCESS_KEY", key)
		store, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: "http://127.0.0.1:1", PathStyle: true, Spool: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.State(t.Context(), "a")
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 250 {
			t.Errorf("key %q: %v, want a short text with %q", key, err, want)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}
