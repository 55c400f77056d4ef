package access_test

import (
	"os"
	"testing"

	"github.com/assay-proxy/assay/internal/parallel"
)

// Some tests wait until a changed file is read.
func TestMain(m *testing.M) {
	if err := parallel.Tests("8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
