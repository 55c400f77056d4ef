package content_test

import (
	"context"
	"testing"

	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A client that leaves while its fetch asks for a lease does not end the leases of others.
func TestLeaseOfClientThatLeaves(t *testing.T) {
	r := newReplica(t, s3test.Start(t), proxytest.New(t), "ok")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r.TakeLease(ctx, "a") {
		t.Fatal("a lease of a request that has ended")
	}
	if !r.TakeLease(t.Context(), "b") {
		t.Error("no lease for the next one")
	}
}
