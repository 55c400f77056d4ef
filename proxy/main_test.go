package proxy_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets more tests run side by side than there are processors: most of them
// wait, for git or for an upstream that hangs. A flag on the command line counts more.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err)
		}
	}
	// The authorities of this machine are many, and git reads all of them each time. Those
	// of the tests are given by name.
	for name, value := range map[string]string{"SSL_CERT_FILE": os.DevNull, "SSL_CERT_DIR": "none"} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
