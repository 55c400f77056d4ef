package daemon

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/assay-proxy/assay/internal/spans"
)

// Timeouts of the server. There is none for a whole request: a zip may take as long as its bytes
// keep moving, which the proxy checks.
const (
	headerTime = 10 * time.Second // to send a request's header
	idleTime   = 2 * time.Minute  // between two requests of a connection
	writeSlack = 60 * time.Second // to receive a response once it is there
)

// http2Memory bounds the unread request bodies of a connection: only webhooks have bodies that are
// read. Each request has its own memory, see boundStreams.
const http2Memory = 128 << 10

// front is the part that clients connect to. It authenticates them, serves the fixed paths, and
// passes all others to the protocol.
type front struct {
	log         *logger
	observer    *observer
	clients     *clients
	connections *connections
	login       *login // nil: clients need not authenticate
	site        *site
	setup       *setup

	ready    *readiness
	metrics  http.Handler // nil: at another address
	webhooks *webhooks    // nil: webhooks are off
	leaks    *leaksPage
	protocol http.Handler
}

// newServer returns the HTTP server of the front.
func (f *front) newServer(answerTimeout time.Duration) *http.Server {
	return &http.Server{
		Handler:           f.routes(),
		ReadHeaderTimeout: headerTime,
		WriteTimeout:      answerTimeout + writeSlack,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headerSize,
		HTTP2:             &http.HTTP2Config{MaxReceiveBufferPerConnection: http2Memory, MaxReceiveBufferPerStream: http2Memory},
		ConnState:         noteState,
		ConnContext:       withConnection,
		ErrorLog:          slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
	}
}

// routes passes the fixed paths to a router, and all others to the protocol.
func (f *front) routes() http.Handler {
	all := chi.Chain(f.observer.middleware, f.site.below)
	if f.site.scheme == "https" { // HTTP/2 needs TLS
		all = append(all, f.connections.boundStreams(f.clients.address))
	}
	if f.login != nil {
		all = append(all, f.login.required)
	}
	fixed := f.fixed()
	return all.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; strings.LastIndexByte(p, '/') <= 0 || strings.HasPrefix(p, "/-/") {
			fixed.ServeHTTP(w, r)
			return
		}
		f.protocol.ServeHTTP(w, r) // directly, because the router copies the request
	})
}

// routed says in the span of a request which of the fixed paths it has.
func routed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		if pattern := chi.RouteContext(r.Context()).RoutePattern(); pattern != "" {
			spans.Routed(r.Context(), pattern)
		}
	})
}

// fixed mounts the fixed paths, which have at most one element or begin with /-/.
func (f *front) fixed() http.Handler {
	r := chi.NewRouter()
	r.Use(routed)
	for _, get := range []func(string, http.HandlerFunc){r.Get, r.Head} { // some load balancers send HEAD
		get("/livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
		get("/readyz", f.ready.ServeHTTP)
		if f.metrics != nil {
			get("/metrics", f.metrics.ServeHTTP)
		}
		get("/", f.setup.page)
		for _, sh := range shells() {
			get(setupPath+sh.end, f.setup.script(sh))
		}
	}
	if f.webhooks != nil {
		r.Method(http.MethodPost, hooksPath+"{kind:(github|gitlab|gitea)}", f.webhooks)
	}
	r.Handle("/-/leaks", f.leaks)
	r.MethodNotAllowed(wrongMethod)
	r.NotFound(f.protocol.ServeHTTP) // not "/*", which would copy the path into an unused variable
	return r
}
