package daemon_test

import (
	"os"
	"testing"

	"github.com/assay-proxy/assay/internal/parallel"
)

// Most tests wait, for a timeout of the server or for a file that is read each second.
func TestMain(m *testing.M) {
	if err := parallel.Tests("8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
