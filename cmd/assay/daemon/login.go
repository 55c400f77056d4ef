package daemon

import (
	"net/http"
	"strings"

	"github.com/assay-proxy/assay/access"
)

// login requires that clients authenticate.
type login struct {
	access  *access.Authenticator
	clients *clients
	log     *logger
}

// required lets authenticated clients through, and everyone to the paths that machines request.
func (l *login) required(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/livez" || r.URL.Path == "/readyz" || r.URL.Path == "/metrics" || strings.HasPrefix(r.URL.Path, hooksPath):
		default:
			id, err := l.access.Identify(r)
			if err != nil || id.Anonymous() {
				if err != nil {
					l.log.Info("credential refused", "request", w.Header().Get("X-Request-Id"), "client", l.clients.address(r), "err", err)
				}
				w.Header().Set("WWW-Authenticate", `Basic realm="Assay", charset="UTF-8"`)
				w.Header().Set("Cache-Control", "no-store")
				writeText(w, http.StatusUnauthorized, unauthorized+"\n"+
					"give the go command a token: go help goauth, assay goauth --help\nrequest id: "+w.Header().Get("X-Request-Id")+"\n")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
