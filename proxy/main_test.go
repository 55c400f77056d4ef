package proxy_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain runs more tests in parallel than there are processors: most of them wait for
// git or for an upstream that hangs. A flag on the command line takes precedence.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err)
		}
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
