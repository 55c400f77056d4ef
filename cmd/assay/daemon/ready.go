package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/assay-proxy/assay/storage"
)

// The phases of the program.
const (
	phaseStarting = iota
	phaseReady
	phaseStopping
)

// readiness reports whether requests can be answered.
type readiness struct {
	phase atomic.Int32
	store storage.Store
	log   *slog.Logger
}

// ServeHTTP reports whether requests can be answered. The state of the upstream does not matter:
// stored objects are served without it.
func (d *readiness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if phase := d.phase.Load(); phase != phaseReady {
		writeText(w, http.StatusServiceUnavailable, map[int32]string{phaseStarting: "starting\n", phaseStopping: "stopping\n"}[phase])
		return
	}
	if _, err := d.store.State(r.Context(), "readyz"); !errors.Is(err, fs.ErrNotExist) {
		d.log.Error("store is not ready", "err", err)
		writeText(w, http.StatusServiceUnavailable, "the store is not available\n")
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}
