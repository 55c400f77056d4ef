package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/assay-proxy/assay/storage"
)

// readiness reports whether requests can be answered.
type readiness struct {
	ready atomic.Bool // it has started, and is not stopping
	store storage.Store
	log   *slog.Logger
}

// ServeHTTP reports whether requests can be answered. The state of the upstream does not matter:
// stored objects are served without it.
func (d *readiness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.ready.Load() {
		writeText(w, http.StatusServiceUnavailable, "stopping\n")
		return
	}
	if _, err := d.store.State(r.Context(), "readyz"); !errors.Is(err, fs.ErrNotExist) {
		d.log.Error("store is not ready", "err", err)
		writeText(w, http.StatusServiceUnavailable, "the store is not available\n")
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}
