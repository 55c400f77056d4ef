package fetch

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds how long an upstream can make us wait, or what we pass on: a day is as good
// as forever, and no arithmetic overflows.
const maxRetryAfter = 24 * time.Hour

// parseRetryAfter returns how long after now the value of a Retry-After header (RFC 9110, section
// 10.2.3: seconds, or a date) asks to wait, 0 if it does not.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// contentRange is the value of a Content-Range header.
type contentRange struct {
	first, last int64 // bytes, inclusive
	total       int64 // -1 if not known
}

var errContentRange = errors.New("malformed Content-Range")

// parseContentRange parses the Content-Range of a 206 (RFC 9110, section 14.4):
// bytes 0-99/1234, bytes 0-99/*.
func parseContentRange(value string) (contentRange, error) {
	unit, rest, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, errContentRange
	}
	span, size, ok := strings.Cut(rest, "/")
	from, to, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return contentRange{}, errContentRange
	}
	r := contentRange{first: parseDigits(from), last: parseDigits(to), total: -1}
	if size != "*" {
		if r.total = parseDigits(size); r.total < 0 {
			return contentRange{}, errContentRange
		}
	}
	if r.first < 0 || r.last < r.first || r.total >= 0 && r.last >= r.total {
		return contentRange{}, errContentRange
	}
	return r, nil
}

// parseDigits returns the value of the decimal digits s, -1 if s has anything else.
func parseDigits(s string) int64 {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return -1
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// validator identifies one state of an object at a server.
type validator struct {
	etag, lastModified string
}

func validatorOf(h http.Header) validator {
	return validator{h.Get("Etag"), h.Get("Last-Modified")}
}

// strong reports whether equal validators mean equal bytes.
func (v validator) strong() bool { return len(v.etag) > 2 && v.etag[0] == '"' }

// ifRange returns the value for If-Range, "" if there is none that may be used.
func (v validator) ifRange() string {
	if v.strong() {
		return v.etag
	}
	return v.lastModified
}

// same reports whether v and w may be of the same object.
func (v validator) same(w validator) bool {
	if v.etag != "" && w.etag != "" {
		return v.etag == w.etag
	}
	return v.lastModified == "" || w.lastModified == "" || v.lastModified == w.lastModified
}
