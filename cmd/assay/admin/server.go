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
	"path/filepath"
	"time"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/budget"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/sumdb"
)

// Server performs the requests of a Client.
type Server struct {
	Data    string // the data directory
	Store   storage.Store
	Place   string                     // of a store in a bucket, as s3.DB.Place returns it; "": the store is in the data directory
	Forget  func([]content.Item) error // drops purged objects from memory, here and at other servers; nil: nothing is in memory
	Version string                     // of the program
	Logger  *slog.Logger

	// Thaw clears the evidence of forks of a checksum database for the mirror that runs, and returns the paths of the
	// files. With nil none runs, and the evidence in Data is cleared.
	Thaw thawFunc
	News *news.Board // of the replicas that share Store; nil: there are none

	Collect      collectFunc                   // of the bucket; nil: the store is in the data directory
	KeepsChanged func(context.Context) error   // makes the orders of Keep apply where there are servers; nil: there are none
	Limit        func() (budget.Report, error) // how the limit of the disk is used; nil: there is none

	turn turn // of backups and compactions
}

// Handler returns the handler of a Client's requests.
func (s *Server) Handler() http.Handler {
	mux, export := http.NewServeMux(), &exporter{s.Store}
	mux.HandleFunc("GET /place", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Place, nil) })
	mux.HandleFunc("GET /keys", export.serveKeys)
	mux.HandleFunc("GET /object", export.serveObject)
	mux.HandleFunc("GET /states", export.serveStates)
	mux.HandleFunc("GET /state", export.serveState)
	mux.HandleFunc("GET /backup", s.serveBackup)
	mux.HandleFunc("GET /items", s.serveItems)
	mux.HandleFunc("POST /purge", s.servePurge)
	mux.HandleFunc("GET /purges", s.servePurges)
	mux.HandleFunc("POST /compact", s.serveCompact)
	mux.HandleFunc("POST /collect", s.serveCollect)
	mux.HandleFunc("POST /keep", s.serveKeep)
	mux.HandleFunc("GET /keeps", s.serveKeeps)
	mux.HandleFunc("GET /limit", s.serveLimit)
	mux.HandleFunc("POST /thaw", s.serveThaw)
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

func (s *Server) purger() *purger { return &purger{s.Store, s.News, s.Forget, s.Logger} }

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

func (s *Server) serveThaw(w http.ResponseWriter, r *http.Request) {
	var order Thaw
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	thaw := s.Thaw
	if thaw == nil {
		thaw = thawStored(sumdb.Config{Store: s.Store, News: s.News, Evidence: filepath.Join(s.Data, evidenceDir), Logger: s.Logger})
	}
	// A thaw that has begun is finished, even if the client leaves.
	done, err := order.do(context.WithoutCancel(r.Context()), thaw)
	reply(w, done, err)
}

func (s *Server) serveCollect(w http.ResponseWriter, r *http.Request) {
	var wait time.Duration
	if err := json.NewDecoder(r.Body).Decode(&wait); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.Collect == nil {
		reply(w, nil, errors.New("the store is in the data directory and needs no gc"))
		return
	}
	done, err := s.Collect(r.Context(), wait)
	reply(w, done, err)
}

func (s *Server) serveKeep(w http.ResponseWriter, r *http.Request) {
	var order Keep
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// What has begun is finished, even if the client leaves.
	reply(w, order, keep(context.WithoutCancel(r.Context()), order, s.Store, s.KeepsChanged))
}

func (s *Server) serveKeeps(w http.ResponseWriter, r *http.Request) {
	all, err := content.Keeps(r.Context(), s.Store)
	reply(w, all, err)
}

func (s *Server) serveLimit(w http.ResponseWriter, _ *http.Request) {
	if s.Limit == nil {
		reply(w, nil, errors.New("there is no running server with disk-limit or disk-age"))
		return
	}
	report, err := s.Limit()
	reply(w, report, err)
}

func newHTTPServer(s *Server) *http.Server {
	return &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
}
