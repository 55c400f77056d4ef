package daemon

import (
	"context"
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
	if err := d.check(r.Context()); err != nil {
		writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}

// check returns why requests cannot be answered, nil if they can.
func (d *readiness) check(ctx context.Context) error {
	switch d.phase.Load() {
	case phaseStarting:
		return errStarting
	case phaseStopping:
		return errStopping
	}
	if _, err := d.store.State(ctx, "readyz"); !errors.Is(err, fs.ErrNotExist) {
		d.log.Error("store is not ready", "err", err)
		return errNoStore
	}
	return nil
}

var (
	errStarting = errors.New("starting")
	errStopping = errors.New("stopping")
	errNoStore  = errors.New("the store is not available")
)
