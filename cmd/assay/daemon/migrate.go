package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/storage/bolt"
)

// migration moves the keys of a store that an earlier version has created, before anything uses it,
// and responds for the server meanwhile.
type migration struct {
	refuse       error  // nil: moving is allowed
	prefix       string // of all paths
	listener     *listener
	certificates *certificates // nil: plain http
	log          *logger
	state        atomic.Pointer[bolt.Rekeyed]
}

// errNoMigrate means that the store cannot be used as it is, and must not be changed.
var errNoMigrate = errors.New("the data directory was made by an earlier version, and no-migrate prevents moving its keys to the layout of this version; " +
	"make a backup (assay backup) and start without no-migrate, or use the earlier version; after the move the earlier version cannot open the directory")

// errReadOnly means that the store cannot be used as it is, and must not be written to.
var errReadOnly = errors.New("the data directory was made by an earlier version, and with read-only its keys cannot be moved to the layout of this version; " +
	"start once without read-only, which moves them")

// migrationRefused returns why the settings do not allow moving the keys, nil if they do.
func migrationRefused(c config.Config) error {
	switch {
	case c.NoMigrate:
		return errNoMigrate
	case c.ReadOnly:
		return errReadOnly
	}
	return nil
}

// How long the service manager waits for the next progress: counting reads all keys without any.
const (
	countTime = 30 * time.Minute
	moveTime  = 5 * time.Minute
)

// run moves the keys of a store.
func (m *migration) run(ctx context.Context, store *bolt.Outdated) error {
	if m.refuse != nil {
		return m.refuse
	}
	m.state.Store(&bolt.Rekeyed{})
	defer m.answer()()
	m.log.Info("moving the keys of the store to the layout of this version; earlier versions cannot open it any more")
	tellManager(m.log.Logger, extension(countTime), "STATUS=counting the objects of the store, whose keys are to be moved")
	begin := time.Now()
	err := store.Rekey(ctx, func(r bolt.Rekeyed) {
		m.state.Store(&r)
		m.log.Info("moving the keys of the store", "done", r.Done, "total", r.Total)
		tellManager(m.log.Logger, extension(moveTime), fmt.Sprintf("STATUS=moving the keys of the store: %d of %d are done", r.Done, r.Total))
	})
	if err != nil {
		return fmt.Errorf("%w; the next start continues", err)
	}
	left := m.state.Load().Left
	m.log.Info("the keys of the store are moved", "dur_s", time.Since(begin).Seconds(), "left", left)
	if left > 0 {
		m.log.Warn("objects keep the keys of the earlier version and are not used: run assay verify", "objects", left)
	}
	return nil
}

// ServeHTTP responds with the reason why no request can be served yet.
func (m *migration) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == m.prefix+"/livez" {
		writeText(w, http.StatusOK, "ok\n")
		return
	}
	done := "its objects are being counted"
	if state := m.state.Load(); state.Total > 0 {
		done = fmt.Sprintf("%d of %d are done", state.Done, state.Total)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Retry-After", strconv.Itoa(migrationRetry))
	writeText(w, http.StatusServiceUnavailable, fmt.Sprintf("%s\nan earlier version made the store; %s\ntry again in a few seconds\n", starting, done))
}

// migrationRetry is the number of seconds after which clients should try again.
const migrationRetry = 5

// answer responds to all requests until end is called.
func (m *migration) answer() (end func()) {
	borrowed := &borrowedListener{listener: m.listener}
	server := &http.Server{
		Handler: m, ReadHeaderTimeout: headerTime, WriteTimeout: headerTime, MaxHeaderBytes: headerSize, ConnState: noteState,
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
	}
	server.SetKeepAlivesEnabled(false) // the next request goes to the real server
	served := make(chan struct{})
	go func() {
		defer close(served)
		if m.certificates != nil {
			server.TLSConfig = m.certificates.server()
			_ = server.ServeTLS(borrowed, "", "") // ends with Close
			return
		}
		_ = server.Serve(borrowed)
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close() // its clients would only get a 503
		}
		<-served
		borrowed.giveBack()
	}
}

// borrowedListener is a listener whose Close leaves the underlying one open.
type borrowedListener struct {
	*listener
	closed atomic.Bool
}

// Close ends Accept. Later connections wait for the real server.
func (b *borrowedListener) Close() error {
	b.closed.Store(true)
	return b.Listener.(deadliner).SetDeadline(time.Unix(1, 0))
}

// Accept accepts connections of the underlying listener until Close.
func (b *borrowedListener) Accept() (net.Conn, error) {
	conn, err := b.listener.Accept()
	if err != nil && b.closed.Load() {
		return nil, net.ErrClosed
	}
	return conn, err
}

// giveBack restores the underlying listener.
func (b *borrowedListener) giveBack() { _ = b.Listener.(deadliner).SetDeadline(time.Time{}) }
