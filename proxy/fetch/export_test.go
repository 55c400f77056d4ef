package fetch

import (
	"context"
	"net"
	"net/http"
	"net/url"
)

// Parsers of what upstreams send, for their tables and fuzz targets.
var (
	ParseRetryAfter = parseRetryAfter
	Printable       = printable
	MaxRetryAfter   = maxRetryAfter
	Escape          = escape
)

// ParseContentRange is parseContentRange with separate results.
func ParseContentRange(value string) (first, last, total int64, err error) {
	r, err := parseContentRange(value)
	return r.first, r.last, r.total, err
}

// FormatList is formatList.
func FormatList(entries []Entry) string { return formatList(entries) }

// SetDial makes c use the network of a test.
func (c *Chain) SetDial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	t := c.client.transports
	for _, transport := range []*http.Transport{t.named, t.other, t.fresh, t.freshOther} {
		transport.DialContext = dial
		transport.Proxy = nil
	}
}

// SetNamedDial makes c use dial for hosts that the administrator has named, and its own
// dialer for others.
func (c *Chain) SetNamedDial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.client.transports.named.DialContext = dial
	c.client.transports.fresh.DialContext = dial
}

// SetProxy makes c use a proxy as if it were in the environment.
func (c *Chain) SetProxy(proxy func(*http.Request) (*url.URL, error)) {
	c.client.transports.named.Proxy = proxy
}

// Remembered returns how many failed paths c remembers.
func (c *Chain) Remembered() (n int) {
	for _, u := range c.hosts {
		n += u.failures.byPath.Used()
	}
	return n
}
