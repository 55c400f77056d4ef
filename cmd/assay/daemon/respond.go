package daemon

import (
	"net/http"
	"strconv"
	"strings"
)

// The first lines of errors that are answered here; docs/errors.md has them.
const (
	crowded      = "busy: too many open connections"
	unauthorized = "unauthorized: this proxy requires authentication"
)

// headerSize bounds the header of a request: the go command sends some hundred bytes, a
// token some thousand.
const headerSize = 16 << 10

// writeText answers with a text.
func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // if it fails, the client is gone
}

// wrongMethod answers for the fixed paths.
func wrongMethod(w http.ResponseWriter, r *http.Request) {
	allow, use := "GET, HEAD", "GET or HEAD"
	if strings.HasPrefix(r.URL.Path, hooksPath) {
		allow, use = "POST", "POST"
	}
	w.Header().Set("Allow", allow)
	writeText(w, http.StatusMethodNotAllowed, "method not allowed: "+r.Method+"\nuse "+use+"\nrequest id: "+w.Header().Get("X-Request-Id")+"\n")
}

// hooksPath is what the paths of webhooks begin with.
const hooksPath = "/-/hooks/"
