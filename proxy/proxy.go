// Package proxy answers the GOPROXY protocol (go.dev/ref/mod#goproxy-protocol) over HTTP.
//
// It parses, admits, answers and explains errors; package content holds, fetches and proves
// modules. Only package request parses paths. Whether a module is private, and which clients
// may read it, is decided on the decoded path before anything else; only explain turns an
// error into a status and a text.
//
// It is not an HTTP server: its caller listens and logs.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/request"
)

// Config is what a Server is made of. The zero value of a field is its default, except for the
// store, the upstream and the policy, which are needed.
type Config struct {
	Content  content.Config   // its Logger is the logger of the Server, too
	Settings content.Settings // those that Reload changes

	// Predict fetches what clients will probably request next. It changes no answer.
	Predict bool

	// Access says who a request is from. Without it every client is anonymous.
	Access *access.Authenticator

	// Remote returns the address of the client. Default: that of the
	// connection.
	Remote func(*http.Request) string

	// FirstByte returns the time from a request to the first byte of its response, and whether there was one.
	// Nil: it is not measured.
	FirstByte func(http.ResponseWriter) (time.Duration, bool)

	// Answers limits the memory for responses that clients have not received yet. A response
	// that does not fit is a 503. Nil is no limit.
	Answers *memory.Budget

	// Via is our name in Via headers; a request with it is in a loop.
	Via string
}

// Server is an http.Handler for the whole protocol.
type Server struct {
	content *content.Library
	clients *clients
	log     *slog.Logger
	metrics *metrics
	via     string
	budget  *memory.Budget // see Config.Answers

	firstByte func(http.ResponseWriter) (time.Duration, bool)
}

// New makes a Server. It fails if its directories cannot be made, and with
// bindings.ErrLost if it does not know any more what its access rules protect.
func New(c Config) (*Server, error) {
	holds, now := &c.Content, c.Settings
	if holds.Store == nil || now.Upstream == nil || now.Policy == nil {
		return nil, errors.New("proxy: Store, Upstream and Policy are needed")
	}
	if now.VCS != nil && holds.Log == nil || holds.Unified && (holds.Log == nil || len(holds.Databases) == 0) {
		return nil, errors.New("proxy: VCS needs Log, Unified needs Log and Databases")
	}
	if c.Remote == nil {
		c.Remote = func(r *http.Request) string { return hostOf(r.RemoteAddr) }
	}
	if c.FirstByte == nil {
		c.FirstByte = func(http.ResponseWriter) (time.Duration, bool) { return 0, false }
	}
	if holds.Logger == nil {
		holds.Logger = slog.New(slog.DiscardHandler)
	}
	holds.Site = siteOf
	library, err := content.New(context.Background(), *holds, now)
	if err != nil {
		return nil, err
	}
	if c.Predict {
		library.Predict()
	}
	m := newMetrics()
	s := &Server{content: library, log: holds.Logger, metrics: m, via: c.Via, budget: c.Answers, firstByte: c.FirstByte}
	s.clients = &clients{access: c.Access, remote: c.Remote, log: holds.Logger, metrics: m}
	if holds.News != nil && holds.News.Shared() {
		s.clients.leakState = newLeakState(holds.Store, &s.clients.leaks, holds.Logger)
	}
	return s, nil
}

// Content returns what the server holds.
func (s *Server) Content() *content.Library { return s.content }

// Reload makes the server use other settings from the next request on. New requests join no
// work that began before.
func (s *Server) Reload(now content.Settings) { s.content.Reload(now) }

// Close waits for fetches under way, at most until ctx ends; then it aborts the remaining
// ones and waits for them. It does not close the store.
func (s *Server) Close(ctx context.Context) error {
	s.clients.leakState.close()
	return s.content.Close(ctx)
}

// Pushed says that a repository, which has each of these URLs, has changed. The next
// request for a list, a latest version or a branch of its modules asks the repository,
// even if an answer is stored; other replicas know it within two seconds. After an error other replicas
// do not know it, and the caller should call Pushed again.
func (s *Server) Pushed(ctx context.Context, urls ...string) error {
	return s.content.Pushed(ctx, urls...)
}

// Metrics returns the server's collectors.
func (s *Server) Metrics() []prometheus.Collector {
	return append(s.content.Metrics(), s.metrics.requests, s.metrics.firstBytes, s.metrics.leakRequests)
}

// Leaks returns the clients that looked up private names in a public checksum database,
// or requested private modules without a credential, since the start, the latest first,
// at most 1000.
func (s *Server) Leaks() []Leak { return s.clients.leaks.list() }

// AllLeaks is Leaks with those of other replicas, up to a half minute ago, which it reads from the store: the latest
// 200 of each.
func (s *Server) AllLeaks(ctx context.Context) ([]Leak, error) {
	others, err := s.clients.leakState.others(ctx)
	return merged(append(s.Leaks(), others...)), err
}

// ServeHTTP answers one request. It panics with http.ErrAbortHandler when the client must
// notice that the response was aborted.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resp := &response{ResponseWriter: w, r: r, client: client{r: r, header: w.Header(), clients: s.clients, held: s.budget.Hold()}}
	resp.ask.Client, resp.ask.Req.Kind = &resp.client, request.NumKinds
	defer resp.client.held.Free()
	if err := s.serve(resp); err != nil {
		s.writeError(resp, err)
	}
	s.count(resp)
}

// count counts a request that was answered.
func (s *Server) count(resp *response) {
	if resp.result == resultUnknown {
		resp.result = resultHit // a response that needs no store
	}
	s.metrics.count(resp.ask.Req.Kind, resp.result)
	if took, ok := s.firstByte(resp.ResponseWriter); ok && resp.result != resultGone {
		s.metrics.observe(resp.ask.Req.Kind, resp.result, took)
	}
	resp.trace()
}

func (s *Server) serve(resp *response) error {
	if resp.r.Method != http.MethodGet && resp.r.Method != http.MethodHead {
		resp.Header().Set("Allow", "GET, HEAD")
		return &failure{status: http.StatusMethodNotAllowed, what: "method not allowed: " + resp.r.Method, next: "use GET or HEAD"}
	}
	if s.via != "" && strings.Contains(strings.Join(resp.r.Header.Values("Via"), ","), s.via) {
		return errLoop
	}
	path := strings.TrimPrefix(resp.r.URL.Path, "/")
	if rest, ok := strings.CutPrefix(path, "cached-only/"); ok {
		path, resp.ask.HeldOnly = rest, true
	}
	if resp.r.Header.Get("Disable-Module-Fetch") == "true" {
		resp.ask.HeldOnly = true
	}
	if served, err := s.serveHot(resp, path); served || err != nil {
		return err
	}
	req, err := request.Parse(path)
	if err != nil {
		return err
	}
	resp.ask.Req, resp.ask.Path = req, path
	if req.Database != "" {
		return databases{s.content}.serve(resp)
	}
	return s.serveModule(resp)
}

// serveHot answers with an object in memory, if there is one, and reports whether it did.
// It asks both origins before the path is parsed: a module may have moved from one to the
// other.
func (s *Server) serveHot(resp *response, path string) (served bool, err error) {
	for _, origin := range s.content.Origins() {
		hot := origin.Hot(path)
		if hot == nil {
			continue
		}
		resp.ask.Req, resp.ask.Path = hot.Req, path
		if hot.Req.Database != "" { // every client may read it
			resp.origin, resp.result = origin, resultHit
			return true, resp.serveHot(hot)
		}
		if err := s.admit(resp); err != nil {
			// A refusal must take as long as that of an object that is not held.
			_, _ = request.Parse(path)
			return false, err
		}
		if resp.client.Keep(len(hot.Content)) != nil {
			continue // the store can be read in pieces
		}
		if resp.origin == origin && resp.ask.Sure() { // a reload may just have changed it
			resp.result = resultHit
			if answered := s.content.Expect(origin, &resp.ask, true); answered != nil {
				answered() // the object is held
			}
			origin.Served(hot)
			return true, resp.serveHot(hot)
		}
	}
	return false, nil
}

// admit chooses the origin of the requested module, and returns an error if the client
// may not read it.
func (s *Server) admit(resp *response) error {
	resp.origin = s.content.Origin(resp.ask.Req.Module)
	return resp.origin.Admit(resp.r.Context(), &resp.ask)
}

// serveModule answers for a module, if the client may read it.
func (s *Server) serveModule(resp *response) error {
	begin := time.Now()
	if err := s.admit(resp); err != nil {
		return err
	}
	serve := resp.serveMutable
	if resp.ask.Req.Immutable() {
		serve = resp.serveImmutable
	}
	answered := s.content.Expect(resp.origin, &resp.ask, false)
	err := serve()
	if err == nil && answered != nil {
		answered()
	}
	if resp.started {
		return err
	}
	return resp.origin.Bridge(resp.r.Context(), &resp.ask, begin, content.Result(resp.result), err)
}

// statusClientGone is the status in the access log for a client that left; the number is
// nginx's.
const statusClientGone = 499

// writeError answers with err, or aborts the response if it has begun.
func (s *Server) writeError(resp *response, err error) {
	gone := resp.r.Context().Err() != nil
	if resp.started {
		if !gone {
			s.log.LogAttrs(resp.r.Context(), levelOf(err), "response aborted", resp.attrs(err)...)
		}
		resp.result = resultAborted
		s.count(resp)
		panic(http.ErrAbortHandler)
	}
	if gone {
		resp.result = resultGone
		resp.WriteHeader(statusClientGone)
		return
	}
	f := explain(&resp.ask, s.hide(resp, err))
	f.noStore = f.noStore || resp.origin != nil && !resp.origin.Caching.Errors // a push can end the error, and no shared cache may have it
	if isShed(err) {
		spans.Note(resp.r.Context(), spans.Shed)
	}
	if f.status >= 500 && f.status != http.StatusLoopDetected || f.status == http.StatusForbidden {
		s.log.LogAttrs(resp.r.Context(), levelOf(err), "request refused", resp.attrs(err)...)
	}
	var old *content.OldAbsenceError
	if errors.As(err, &old) {
		resp.result = resultStale
		resp.Header()["Cache-Status"] = cacheStatus[resultStale]
	}
	if resp.result == resultUnknown {
		resp.result = resultOf(f.status)
	}
	f.write(resp, resp.r.Method)
}

// hide returns err, or the response for a client that may not see it; it notes this
// client.
func (s *Server) hide(resp *response, err error) error {
	if resp.origin != nil {
		err = resp.origin.Veil(&resp.ask, err)
	}
	var leak *content.LeakError
	if errors.As(err, &leak) {
		s.log.Warn("a client looked up a private module in the checksum database", "module", leak.Module, "pattern", leak.Pattern, "client", resp.client.remote())
		resp.client.noteLeak(PublicDatabase, leak.Module)
	}
	if !errors.Is(err, content.ErrHidden) {
		return err
	}
	if resp.ask.Req.Module != "" {
		resp.client.noteUnread(resp.ask.Req.Module)
	}
	return hidden(resp.ask.Path)
}
