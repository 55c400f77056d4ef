package vcs_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

// TestMain lets more tests run side by side than there are processors: most of them
// wait, for git or for a host that hangs. A flag on the command line counts more. And it
// hides the system's authorities, 140 of them, which each git that asks a host would read.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err)
		}
	}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if err := os.Setenv(name, filepath.Join(os.TempDir(), "no-such-directory")); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
