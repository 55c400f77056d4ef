package proxy_test

import (
	"os"
	"testing"

	"github.com/assay-proxy/assay/internal/parallel"
)

// TestMain runs more tests in parallel than there are processors: most of them wait for
// git or for an upstream that hangs. A flag on the command line takes precedence.
func TestMain(m *testing.M) {
	if err := parallel.Tests("8"); err != nil {
		panic(err)
	}
	// This machine has many authorities, and git would read all of them each time. The
	// tests name theirs explicitly.
	for name, value := range map[string]string{"SSL_CERT_FILE": os.DevNull, "SSL_CERT_DIR": "none"} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
