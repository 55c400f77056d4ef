package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/content"
)

// failure is an error with the text and the status that the client sees. What the client
// does next depends on the status alone: after a 404 or 410 the go command tries the next
// proxy of a comma list, or the repository; every other error stops it.
type failure struct {
	status     int
	what       string // what happened
	why        string // the reason, if it is known
	next       string // what the user can do
	retryAfter time.Duration
	noStore    bool // the client must not cache it at all
	err        error
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.what + ": " + f.err.Error()
	}
	return f.what
}

func (f *failure) Unwrap() error { return f.err }

// Errors that this package decides on.
var (
	errLoop = &failure{
		status: http.StatusLoopDetected,
		what:   "loop detected: this proxy received its own request",
		why:    "an upstream of this proxy forwards requests back to it",
		next:   "remove the proxy's own address from its --upstream list",
	}

	errNotUnified = &failure{
		status: http.StatusForbidden, noStore: true,
		what: "this proxy does not serve its private checksum log as a checksum database",
		next: "start the proxy with --unified, or set GOSUMDB to another database and GONOSUMDB to the private patterns",
	}

	// errClient says that a write to the client failed.
	errClient = errors.New("the client does not read the response")
)

// clientError wraps err, of a write to a client, in errClient; nil stays nil.
func clientError(err error) error {
	if err == nil || errors.Is(err, errClient) {
		return err
	}
	return fmt.Errorf("%w: %w", errClient, err)
}

// hidden is the response for a module that the client may not read. It must depend on the
// path alone.
func hidden(path string) error {
	return &failure{
		status: http.StatusNotFound, noStore: true,
		what: "not found: " + text.Clip(path, 200),
		next: "if it is private, check the credentials that the go command sends: go help goauth",
		err:  content.ErrHidden,
	}
}

// write answers a request with f.
func (f failure) write(w http.ResponseWriter, method string) {
	h := w.Header()
	for _, name := range []string{"Etag", "Content-Length", "Accept-Ranges", "Age"} {
		h.Del(name)
	}
	switch {
	case f.noStore:
		h.Set("Cache-Control", "no-store")
	case f.status == http.StatusNotFound:
		h.Set("Cache-Control", "public, max-age=10")
	default:
		h.Set("Cache-Control", "no-cache")
	}
	if f.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((f.retryAfter+time.Second-1)/time.Second)))
	}
	body := f.body(h.Get("X-Request-Id"))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	if method != http.MethodHead {
		_, _ = w.Write([]byte(body)) // the client has left
	}
}

// The go command shows at most 8 lines and 648 bytes of an error's text, up to
// the first empty line, and nothing at all if a rune of it cannot be printed
// (cmd/go/internal/web, formatDetail).
const (
	maxErrorLines = 8
	maxErrorBytes = 640
)

// body returns the text that the client sees. The last line is the request id. If the
// text is too long, the lines about what happened and why are cut before the next step.
func (f failure) body(requestID string) string {
	last := ""
	if requestID != "" {
		last = "request id: " + requestID + "\n"
	}
	var b strings.Builder
	lines := 0
	write := func(several string, reserved int) {
		for part := range strings.SplitSeq(several, "\n") {
			part = strings.TrimSpace(printable(part))
			room := maxErrorBytes - len(last) - b.Len() - 1 - reserved
			if part == "" || room <= 0 || lines == maxErrorLines-1 {
				continue
			}
			b.WriteString(text.Clip(part, room))
			b.WriteByte('\n')
			lines++
		}
	}
	reserved := min(len(f.next)+1, maxErrorBytes/2)
	write(f.what, reserved)
	write(f.why, reserved)
	write(f.next, 0)
	return b.String() + last
}

// printable replaces runes that the go command would not show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
