package fetch

import (
	"context"
	"net"
	"net/http"
)

// Parsers of what upstreams send, for their tables and fuzz targets.
var (
	ParseRetryAfter = parseRetryAfter
	Printable       = printable
	MaxRetryAfter   = maxRetryAfter
	Escape          = escape
)

// ParseContentRange is parseContentRange with its results spread out.
func ParseContentRange(value string) (first, last, total int64, err error) {
	r, err := parseContentRange(value)
	return r.first, r.last, r.total, err
}

// FormatList is formatList.
func FormatList(entries []Entry) string { return formatList(entries) }

// SetDial makes c use a network of the test.
func (c *Chain) SetDial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	for _, t := range []*http.Transport{c.client.transport, c.client.fresh} {
		t.DialContext = dial
		t.Proxy = nil
	}
}
