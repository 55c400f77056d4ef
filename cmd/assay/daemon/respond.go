package daemon

import (
	"net/http"
	"strconv"
	"strings"
)

// The first lines of errors of this package; docs/errors.md has them.
const (
	crowded      = "busy: too many open connections"
	starting     = "starting: the keys of the store are being moved"
	outside      = "not found: outside of the prefix of this server"
	unauthorized = "unauthorized: this proxy requires authentication"
)

// headerSize bounds the header of a request: the go command sends some hundred bytes, a token has
// some thousand.
const headerSize = 16 << 10

// writeText writes a response with a text.
func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // an error means that the client is gone
}

// wrongMethod is the response of the fixed paths to other methods.
func wrongMethod(w http.ResponseWriter, r *http.Request) {
	allow, use := "GET, HEAD", "GET or HEAD"
	if strings.HasPrefix(r.URL.Path, hooksPath) {
		allow, use = "POST", "POST"
	}
	w.Header().Set("Allow", allow)
	writeText(w, http.StatusMethodNotAllowed, "method not allowed: "+r.Method+"\nuse "+use+"\nrequest id: "+w.Header().Get("X-Request-Id")+"\n")
}

// hooksPath is the prefix of the paths of webhooks.
const hooksPath = "/-/hooks/"
