package sumdb_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/mod/sumdb/tlog"

	budgets "github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// A data tile takes memory from the budget as it arrives. A database that hangs takes none from the
// other requests that wait for this budget.
func TestDataTileMemory(t *testing.T) {
	log, store := newLog(t, 5000), newStore(t)
	synctest.Test(t, func(t *testing.T) {
		budget, answer := budgets.New(4<<20), make(chan struct{})
		m, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: store, Memory: budget,
			Fetch: func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if strings.Contains(path, "/data/") {
					<-answer
				}
				return log.Fetch(ctx, path, limit)
			}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		lookup(t, m, sumdbtest.Filler(4000))
		var wg sync.WaitGroup
		for n := range int64(10) {
			wg.Go(func() {
				if _, err := m.Tile(t.Context(), tlog.Tile{H: 8, L: -1, N: n, W: 256}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if used := budget.Used(); used != 0 {
			t.Errorf("tiles that have not come have %d bytes", used)
		}
		close(answer)
		wg.Wait()
		if used := budget.Used(); used != 0 {
			t.Errorf("%d bytes are lost", used)
		}
		if !budget.Try(4 << 20) {
			t.Fatal("the budget is not free")
		}
		if _, err := m.Tile(t.Context(), tlog.Tile{H: 8, L: -1, N: 12, W: 256}); err == nil {
			t.Error("a tile for which there is no memory is answered")
		}
	})
}
