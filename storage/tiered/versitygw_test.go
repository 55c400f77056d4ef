package tiered_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// The contract holds before a gateway over a directory, which VERSITYGW names; see docs/design/bucket.md.
func TestVersitygw(t *testing.T) {
	t.Parallel()
	url := s3test.Versitygw(t)
	var stores atomic.Int64
	storagetest.Brief(t, func(t *testing.T) storage.Store {
		remote, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Prefix: fmt.Sprintf("store-%d", stores.Add(1)), Endpoint: url, PathStyle: true, Spool: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return open(t, tiered.Options{Local: local(t), Remote: remote})
	})
}
