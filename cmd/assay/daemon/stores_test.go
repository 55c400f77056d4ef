package daemon

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/storage/bolt"
)

// A start that fails because of the stored head of a checksum database says so, and names the
// database once.
func TestDamagedHeadStopsTheStart(t *testing.T) {
	t.Parallel()
	c := config.Config{Data: t.TempDir(), SumDB: "sum.golang.org", MemoryBudget: 256}
	store, err := bolt.Open(c.Data, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SetState(t.Context(), "sumdb/sum.golang.org/latest", []byte("no head")); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = openStores(t.Context(), c, newInForce(c), divide(c.MemoryBudget), slog.New(slog.DiscardHandler), nil)
	if err == nil || strings.Count(err.Error(), "checksum database sum.golang.org") != 1 || !strings.Contains(err.Error(), "stored tree head") {
		t.Errorf("error %v", err)
	}
}
