package bolt_test

import (
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// openDB opens the store in dir and closes it with the test, unless the test did.
func openDB(t testing.TB, dir string) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestContract(t *testing.T) {
	t.Parallel()
	storagetest.Test(t, func(t *testing.T) storage.Store { return openDB(t, t.TempDir()) })
}
