package vcs_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-proxy/assay/internal/parallel"
)

// TestMain runs more tests in parallel than there are processors, because most of them wait
// for git or for a host that hangs; a flag on the command line has priority. It hides the
// system's 140 authorities, which each git that uses the network would read.
func TestMain(m *testing.M) {
	if err := parallel.Tests("6"); err != nil {
		panic(err)
	}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if err := os.Setenv(name, filepath.Join(os.TempDir(), "no-such-directory")); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
