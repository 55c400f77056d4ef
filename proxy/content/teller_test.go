package content_test

import (
	"context"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// Other replicas are told of a purge when the bucket takes the news again.
func TestPurgeIsToldAgain(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 1)
	a, b := newReplica(t, server, world, "ok"), newReplica(t, server, world, "ok")
	const path = "example.com/m0/@v/v1.0.0.mod"
	b.want(path)
	b.want(path)
	hot := func() bool { return b.Origin("example.com/m0").Hot(path) != nil }
	var items []content.Item
	for _, name := range server.Keys("o/") {
		if strings.HasSuffix(name, ".mod") {
			items = append(items, content.Item{Key: strings.TrimPrefix(name, "o/")})
		}
	}
	if err := a.Teller().Tell(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the purged file is still in memory", func() bool { return !hot() })
	b.want(path)
	b.want(path)
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && strings.HasSuffix(r.Key, "s/news") {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	if err := a.Teller().Tell(t.Context(), items); err == nil {
		t.Fatal("Tell without a bucket: no error")
	}
	server.Fail(nil)
	if !hot() {
		t.Fatal("nothing is in memory")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Teller().Run(ctx) }()
	defer func() { cancel(); <-done }()
	eventually(t, "the purged file is still in memory", func() bool { return !hot() })
}
