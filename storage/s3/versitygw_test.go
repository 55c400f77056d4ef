package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

func TestVersitygw(t *testing.T) {
	t.Parallel()
	url := s3test.Versitygw(t)
	var stores atomic.Int64
	storagetest.Test(t, func(t *testing.T) storage.Store {
		return open(t, s3.Options{Bucket: "bucket", Prefix: fmt.Sprintf("store-%d", stores.Add(1)), Endpoint: url, PathStyle: true, Spool: t.TempDir()})
	})
}

// A gateway over a directory keeps its promises too.
func TestVersitygwProbe(t *testing.T) {
	t.Parallel()
	report, err := open(t, s3.Options{Bucket: "bucket", Endpoint: s3test.Versitygw(t), PathStyle: true}).Probe(t.Context())
	if err != nil || report.Err() != nil || report.Left != 0 {
		t.Errorf("Probe = %+v, %v, want nothing broken", report, err)
	}
}
