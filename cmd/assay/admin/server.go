// Package admin is what an administrator does to a data directory: back it up and restore a backup,
// list its contents, purge some of them, and return free space to the disk.
//
// Only one process at a time can use a store, so a Server does all of it: that of a running assay
// serve, on a socket in the data directory that only its owner can open, or one that a command
// creates for itself while no server runs. A Client uses both in the same way.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
)

// Server performs the requests of a Client.
type Server struct {
	Data    string // the data directory
	Store   storage.Store
	Forget  func([]content.Item) // drops purged objects from memory; nil: nothing is in memory
	Version string               // of the program
	Logger  *slog.Logger

	turn turn // of backups and compactions
}

// Handler returns the handler of a Client's requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /backup", s.serveBackup)
	mux.HandleFunc("GET /items", s.serveItems)
	mux.HandleFunc("POST /purge", s.servePurge)
	mux.HandleFunc("GET /purges", s.servePurges)
	mux.HandleFunc("POST /compact", s.serveCompact)
	return mux
}

// reply responds with a value or an error.
func reply(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(value) // the client sees that the response is incomplete
}

func (s *Server) source() *source { return &source{s.Data, s.Store, s.Version} }

func (s *Server) serveBackup(w http.ResponseWriter, r *http.Request) {
	err := s.turn.take(r.Context(), "a backup", func(running string) { sayWaits(w, running) })
	if err != nil {
		return // the client has left
	}
	defer s.turn.end()
	began := time.Now()
	err = stream(w, func(out io.Writer) error { return s.source().write(r.Context(), out) })
	if err != nil {
		s.Logger.Error("backup failed", "err", err)
		return
	}
	s.Logger.Info("backup made", "dur_s", time.Since(began).Seconds())
}

func (s *Server) serveItems(w http.ResponseWriter, r *http.Request) {
	_ = stream(w, func(out io.Writer) error { // the response contains the error
		encoder := json.NewEncoder(out)
		for item, err := range content.Inventory(r.Context(), s.Store, r.FormValue("module")) {
			if err == nil {
				err = encoder.Encode(item)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Server) serveCompact(w http.ResponseWriter, r *http.Request) {
	err := s.turn.take(r.Context(), "a compaction", func(running string) { sayWaits(w, running) })
	if err != nil {
		return // the client has left
	}
	defer s.turn.end()
	freed, err := s.compact(r.Context())
	if err == nil {
		s.Logger.Info("store compacted", "freed_bytes", freed)
	}
	reply(w, freed, err)
}

func (s *Server) compact(ctx context.Context) (freed int64, err error) {
	store, ok := s.Store.(storage.Compactor)
	if !ok {
		return 0, errors.New("this kind of store cannot be compacted")
	}
	freed, err = store.Compact(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return freed, fmt.Errorf("%w; a backup that is restored takes no more space than what is stored: assay backup, assay restore", err)
	}
	return freed, err
}

func (s *Server) purger() *purger { return &purger{s.Store, s.Forget, s.Logger} }

func (s *Server) servePurge(w http.ResponseWriter, r *http.Request) {
	var order Purge
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// A purge that has begun is finished, even if the client leaves.
	done, err := s.purger().purge(context.WithoutCancel(r.Context()), order)
	reply(w, done, err)
}

func (s *Server) servePurges(w http.ResponseWriter, r *http.Request) {
	lines, err := s.purger().all(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(lines) // the client sees that they are incomplete
}

func newHTTPServer(s *Server) *http.Server {
	return &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
}
