package sumdb_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// The upstream can be removed and set again while the mirror runs.
func TestCurrentFetch(t *testing.T) {
	t.Parallel()
	log := sumdbtest.NewLog(t, "sum.test.example")
	log.Fill(10)
	m, setFetch := openChanging(t, log, newMemory(t), "")
	mod := sumdbtest.Filler(3)
	if _, err := m.Lookup(t.Context(), mod); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without upstream: %v", err)
	}
	setFetch(log.Fetch)
	if _, err := m.Lookup(t.Context(), mod); err != nil {
		t.Errorf("with upstream: %v", err)
	}
	setFetch(nil)
	if _, err := m.Lookup(t.Context(), mod); err != nil {
		t.Errorf("held: %v", err)
	}
	if _, err := m.Lookup(t.Context(), sumdbtest.Filler(4)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not held: %v", err)
	}
	if err := m.Refresh(t.Context()); err == nil {
		t.Error("refreshed from nowhere")
	}
}
