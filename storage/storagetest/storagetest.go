// Package storagetest is the contract of storage.Store as a test that every engine passes.
// It does not test how an engine stores objects, or its files: each engine tests its own
// damage and crashes.
package storagetest

import (
	"testing"

	"github.com/assay-proxy/assay/storage"
)

// Test checks that the stores that open returns keep the contract. Each subtest opens an
// empty store of its own, which open closes with t.Cleanup. They run in parallel.
func Test(t *testing.T, open func(t *testing.T) storage.Store) {
	Brief(t, open)
	run(t, "Bulk", bulkTests(), open)
}

// Brief is Test without what takes many bytes or objects, for a further way to use an engine that passes Test.
func Brief(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, group := range []struct {
		name  string
		tests []contract
	}{
		{"Create", createTests()},
		{"Object", objectTests()},
		{"Draft", draftTests()},
		{"Commit of a draft", draftCommitTests()},
		{"Delete", deleteTests()},
		{"Replace", replaceTests()},
		{"Move", moveTests()},
		{"Batch", batchTests()},
		{"Batch in order", inOrderTests()},
		{"List", listTests()},
		{"State", stateTests()},
		{"Concurrency", concurrencyTests()},
	} {
		run(t, group.name, group.tests, open)
	}
}

func run(t *testing.T, group string, tests []contract, open func(t *testing.T) storage.Store) {
	t.Run(group, func(t *testing.T) {
		t.Parallel()
		for _, c := range tests {
			t.Run(c.promise, func(t *testing.T) {
				t.Parallel()
				c.check(t, Strict(t, open(t)))
			})
		}
	})
}
