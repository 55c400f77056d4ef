// Package proxy answers the GOPROXY protocol (go.dev/ref/mod#goproxy-protocol)
// from a store, and fills the store on a miss.
//
// Nothing unproved leaves it: a go.mod or a zip is compared with a record whose
// inclusion in the checksum database was proved before a complete copy reaches a
// client or the store. A private module comes from its own repository, and is
// compared with what it was when it was first seen: a log of our own has that for
// ever. A path is taken apart in one place, package request; private modules, and who may
// read them, are decided on the decoded path before anything else is done; an
// error becomes a status and a text in one place, explain.
//
// It is no HTTP server: listening and logging are its caller's.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Config is what a Server is made of. Store, Upstream and Policy are needed;
// the zero value of everything else is its default.
type Config struct {
	Store    storage.Store
	Upstream *fetch.Chain
	Policy   *privacy.Policy

	// Databases are the checksum databases that are served. The first one is
	// what modules are verified with; without any, nothing is verified but
	// that it is well-formed.
	Databases []*sumdb.Mirror

	// VCS fetches private modules, and what the upstream list leaves to
	// direct. Without it a private module is served only if it is stored.
	VCS *vcs.Source

	// Log is our own checksum database, in which the first content of each
	// private version is pinned. It is needed with VCS; without it private
	// modules are not served at all.
	Log *pinlog.Log

	// Unified serves Log as a checksum database that covers public modules
	// too: what the first of Databases has proved is copied into it.
	Unified bool

	// Access says who a request is from. Without it every client is anonymous.
	Access *access.Authenticator

	// Remote returns the address of the client. Default: that of the
	// connection.
	Remote func(*http.Request) string

	Spool    string // directory for transfers under way; its content is removed by New
	Evidence string // directory for what was found to be wrong

	// Answer is how long a client waits for its answer, or for the first
	// bytes of a large one. Default 28 s: the go command waits for ever, a
	// person and a CI job do not.
	Answer time.Duration

	// Fresh is how long a list, a latest version or the commit of a branch
	// counts as current. Default 1 min, as the public mirror has it.
	Fresh time.Duration

	// Stale is how long such an answer is given when no upstream can be
	// asked. Default 7 days.
	Stale time.Duration

	// Patience is how long a client waits for a new answer when there is such an
	// old one to give. Default 5 s.
	Patience time.Duration

	// Fills and ZipFills are how many objects, and how many zips, are fetched
	// at the same time. Default 64 and 16. Hits never wait for them.
	Fills, ZipFills int

	// Memory bounds what is held in memory.
	Memory Memory

	// Via is our name in Via headers; a request that carries it has come
	// round in a circle.
	Via string

	Logger *slog.Logger // default: discard
}

// Server is an http.Handler for the whole protocol.
type Server struct {
	config  Config
	store   storage.Store
	log     *slog.Logger
	metrics *metrics

	settings atomic.Pointer[settings]
	reloads  atomic.Uint64

	fills      fills
	refreshing flights[*mutableAnswer]
	lookups    flights[sumdb.Record]
	files      flights[[]byte] // of checksum databases
	databases  databasePlaces
	strays     strays
	versions   singleflight.Group // being fetched from version control
	checking   singleflight.Group // of stored private objects, by key
	absent     absent
	absences   *absences
	hot        hot // public
	hotPrivate hot
	reading    chan struct{} // a place for each kept answer that is being read
	suspects   suspects
	checked    checked
	pushes     pushes
	infos      *infos
	leaks      leaks
	bindings   *bindings.Table

	// ctx is the scope of work that is shared by clients. It ends when Close
	// has waited long enough for running.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// settings is what can change while the server runs.
type settings struct {
	upstream *fetch.Chain
	privacy  *privacy.Policy
	vcs      *vcs.Source // nil: none
	number   uint64      // of the reload that brought them

	protections protections
}

// New makes a Server. It fails if its directories cannot be made, and with
// bindings.ErrLost if it cannot tell any more what its access rules protect.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.Upstream == nil || c.Policy == nil {
		return nil, errors.New("proxy: Store, Upstream and Policy are needed")
	}
	if c.VCS != nil && c.Log == nil || c.Unified && (c.Log == nil || len(c.Databases) == 0) {
		return nil, errors.New("proxy: VCS needs Log, Unified needs Log and Databases")
	}
	if c.Remote == nil {
		c.Remote = func(r *http.Request) string { return hostOf(r.RemoteAddr) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.Answer, 28*time.Second)
	setDefault(&c.Fresh, time.Minute)
	setDefault(&c.Stale, 7*24*time.Hour)
	setDefault(&c.Patience, 5*time.Second)
	setDefault(&c.Fills, 64)
	setDefault(&c.ZipFills, 16)
	setDefault(&c.Memory.Hot, 16<<20)
	if err := clearSpool(c.Spool); err != nil {
		return nil, err
	}
	infos, err := newInfos(context.Background(), c.Store)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, infos: infos, store: c.Store, log: c.Logger, fills: newFills(c.Fills, c.ZipFills), databases: newDatabasePlaces()}
	s.metrics = newMetrics(s.allPlaces())
	s.absences = newAbsences(c.Store, c.Logger, c.Stale)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.loadBindings(s.ctx); err != nil {
		s.cancel()
		return nil, err
	}
	s.hot.limit, s.hotPrivate.limit = int(c.Memory.Hot/2), int(c.Memory.Hot/2)
	s.reading = make(chan struct{}, parallelReads)
	s.Reload(c.Upstream, c.Policy, c.VCS)
	return s, nil
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}

// Reload makes the server use another upstream, another policy and another access
// to version control from the next request on, which joins nothing that is under way.
// It forgets what it believed to be absent, and what it has in memory: a public module
// may be private now.
func (s *Server) Reload(upstream *fetch.Chain, policy *privacy.Policy, vcs *vcs.Source) {
	s.settings.Store(&settings{upstream: upstream, privacy: policy, vcs: vcs, number: s.reloads.Add(1)})
	s.absent.clear()
	s.hot.clear()
	s.hotPrivate.clear()
}

// Close waits for what is being fetched, at most until ctx ends; then it aborts
// what is left and waits for that. The store is not closed.
func (s *Server) Close(ctx context.Context) error {
	idle := make(chan struct{})
	go func() { s.running.Wait(); s.absences.close(); close(idle) }()
	defer s.cancel()
	select {
	case <-idle:
		s.saveBindings(context.WithoutCancel(ctx))
		return nil
	case <-ctx.Done():
		s.cancel()
		<-idle
		s.saveBindings(context.WithoutCancel(ctx))
		return ctx.Err()
	}
}

// database returns the mirror that modules are verified with, or nil.
func (s *Server) database() *sumdb.Mirror {
	if len(s.config.Databases) == 0 {
		return nil
	}
	return s.config.Databases[0]
}

// still returns the settings in force, or errReloaded if they have made a module
// private, or public, since it was asked for as what it was before. It comes right
// before a name is sent anywhere, and before anything is stored: what runs when the
// settings change, or waits for its turn, has been decided on by the old ones.
func (s *Server) still(modulePath string, private bool) (*settings, error) {
	now := s.settings.Load()
	if _, is := now.privacy.Private(modulePath); is != private {
		return nil, errReloaded
	}
	return now, nil
}

// isolated reports whether there is no upstream at all.
func (s *Server) isolated() bool { return s.settings.Load().upstream.Offline() }

// ServeHTTP answers one request. It panics with http.ErrAbortHandler when the
// client must notice that its answer broke off.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{ResponseWriter: w, r: r, kind: request.NumKinds, remote: s.config.Remote, held: s.config.Memory.Answers.Hold()}
	defer a.held.Free()
	if err := s.serve(a); err != nil {
		s.writeError(a, err)
	}
	s.metrics.count(a.kind, a.result)
}

// answer is a response and what is known about it. There is one for each
// request.
type answer struct {
	http.ResponseWriter
	r        *http.Request
	path     string // of the protocol; once it is parsed, the key of what was asked for
	kind     request.Kind
	result   result
	heldOnly bool // the client wants nothing to be fetched for it
	private  bool // what was asked for is private
	unsure   bool // where that is, and so which clients may read it, is not known yet
	located  bool // it is known for this request, and the client may have it
	started  bool // the status is sent, an error can only break off

	identity *access.Identity // of the client, once it was asked for
	held     memory.Hold      // what is in memory until the client has it
	client   string           // see Server.client; "" if nothing has needed it
	remote   func(*http.Request) string
}

func (s *Server) serve(a *answer) error {
	if a.r.Method != http.MethodGet && a.r.Method != http.MethodHead {
		a.Header().Set("Allow", "GET, HEAD")
		return &failure{status: http.StatusMethodNotAllowed, what: "method not allowed: " + a.r.Method, next: "use GET or HEAD"}
	}
	if s.config.Via != "" && strings.Contains(strings.Join(a.r.Header.Values("Via"), ","), s.config.Via) {
		return errLoop
	}
	path := strings.TrimPrefix(a.r.URL.Path, "/")
	if rest, ok := strings.CutPrefix(path, "cached-only/"); ok {
		path, a.heldOnly = rest, true
	}
	if a.r.Header.Get("Disable-Module-Fetch") == "true" {
		a.heldOnly = true
	}
	if served, err := s.serveHot(a, path); served || err != nil {
		return err
	}
	req, err := request.Parse(path)
	if err != nil {
		return err
	}
	a.kind, a.path = req.Kind, path
	if req.Database != "" {
		return s.serveSumDB(a, req)
	}
	return s.serveModule(a, req)
}

// serveModule answers for a module, if the client may have it.
func (s *Server) serveModule(a *answer, req request.Request) error {
	asked, begin := s.settings.Load(), time.Now()
	if err := s.admit(a, req); err != nil {
		return err
	}
	serve := s.serveMutable
	if req.Immutable() {
		serve = s.serveImmutable
	}
	return s.bridge(a, req, asked, begin, serve(a, req))
}

// admit returns an error if the client may not have the module here.
func (s *Server) admit(a *answer, req request.Request) error {
	settings := s.settings.Load()
	if pattern, private := settings.privacy.Private(req.Module); private {
		a.private = true
		if err := s.admitReader(a, req, settings); err != nil {
			return err
		}
		if s.config.Log == nil {
			return notFetched(req, pattern)
		}
		return nil
	}
	if s.judge(settings, req.Module, false, noGroup) == refused {
		return s.refuse(a, req)
	}
	if req.Module == toolchain && s.database() == nil && req.Kind != request.List && req.Kind != request.Latest {
		return &failure{
			status: http.StatusForbidden,
			what:   "cannot verify: toolchains need a checksum database, and it is off",
			next:   "start the proxy with a checksum database: --sumdb sum.golang.org",
		}
	}
	return nil
}

// reachable reports whether there is anywhere to get what is not stored from.
func (s *Server) reachable(a *answer) bool {
	settings := s.settings.Load()
	switch {
	case a.heldOnly:
		return false
	case a.private:
		return settings.vcs != nil
	}
	return !settings.upstream.Offline()
}

// toolchain is the module of Go toolchains.
const toolchain = "golang.org/toolchain"
