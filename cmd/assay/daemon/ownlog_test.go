package daemon_test

import (
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A guard in the store that it guards is refused, whatever the address by which the bucket is named. Another prefix in it
// is another store.
func TestGuardElsewhere(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "testaccess")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "testsecret123")
	server := s3test.Start(t)
	url := func(prefix, endpoint string) string {
		return "s3://bucket/" + prefix + "?path-style=true&endpoint=" + endpoint
	}
	elsewhere := strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	for guard, same := range map[string]bool{
		url("store", server.URL): true, url("store", elsewhere): true, url("guard", server.URL): false, url("guard", elsewhere): false,
	} {
		c := config.Config{Data: t.TempDir(), Store: url("store", server.URL), LogGuard: guard}
		bucket, err := daemon.OpenBucket(t.Context(), c, s3.Options{})
		if err == nil {
			_, err = bucket.Identity(t.Context(), true)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer bucket.Close()
		_, closer, err := daemon.SharedLogConfig(t.Context(), c, bucket)
		if same != (err != nil && strings.Contains(err.Error(), "it is the store itself")) {
			t.Errorf("guard %s: %v, want a refusal: %v", guard, err, same)
		}
		if closer != nil {
			closer.Close()
		}
	}
}
