package proxy

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/privacy"
)

// client is who a request is from. It is asked for no more than is needed: a hit must not
// check a credential.
type client struct {
	r       *http.Request
	header  http.Header // of the answer
	readers *readers

	identity *access.Identity // once it was asked for
	key      string           // "" if nothing has needed it
	held     memory.Hold      // what is in memory until the client has it
}

// readers tells who clients are.
type readers struct {
	access  *access.Authenticator // nil: everybody is anonymous
	remote  func(*http.Request) string
	log     *slog.Logger
	metrics *metrics
	leaks   leaks
}

// Key returns the key of the client, by which places are shared: the
// user if they have proved who they are, else their address.
func (c *client) Key() string {
	if c.key == "" {
		c.key = clientKey(c.identify(), c.remote())
	}
	return c.key
}

// Site returns the site that the address of the client is at, for which what it does not
// read is counted. It does not ask who the client is.
func (c *client) Site() string { return SiteOf(c.remote()) }

// Request returns the id of the request.
func (c *client) Request() string { return c.header.Get("X-Request-Id") }

// Keep counts n more bytes that are held until the client has taken the answer. The
// error is memory.ErrFull.
func (c *client) Keep(n int) error {
	if n <= smallAnswer {
		return nil
	}
	if c.held.Bytes() == 0 {
		c.held.Own(c.Site())
	}
	return c.held.Try(c.held.Bytes() + int64(n))
}

// HasCredential reports whether the client has sent a credential.
func (c *client) HasCredential() bool { return c.r.Header["Authorization"] != nil }

// Covers reports whether the credential of the client is good for a module.
func (c *client) Covers(modulePath string) bool { return c.identify().Covers(modulePath) }

// Limited reports whether the credential of the client is good for some modules only.
func (c *client) Limited() bool { return c.identify().Scope != "" }

// In reports whether the client is in a group that a policy names.
func (c *client) In(group string) bool {
	id := c.identify()
	return group == privacy.Authenticated && !id.Anonymous() || id.In(group)
}

func (c *client) remote() string { return c.readers.remote(c.r) }

// identify returns who the client is. One whose credential is wrong, or cannot
// be judged, is anonymous; why is for the log.
func (c *client) identify() *access.Identity {
	if c.identity == nil {
		id := c.identifyOnce()
		c.identity = &id
	}
	return c.identity
}

func (c *client) identifyOnce() access.Identity {
	if c.readers.access == nil {
		return access.Identity{}
	}
	id, err := c.readers.access.Identify(c.r)
	if err == nil {
		return id
	}
	log := c.readers.log.With("request", c.Request(), "client", c.remote())
	if errors.Is(err, access.ErrUnavailable) {
		log.Warn("credential could not be checked", "err", err)
	} else {
		log.Info("credential refused", "err", err)
	}
	return id
}

// noteUnread notes that the client may not read what it asked for. One that we know
// is set up well enough.
func (c *client) noteUnread(modulePath string) {
	if c.identify().Anonymous() {
		c.noteLeak(NoCredential, modulePath)
	}
}

func (c *client) noteLeak(kind LeakKind, modulePath string) {
	name := c.identify().Name
	if c.identify().Anonymous() {
		name = c.remote()
	}
	c.readers.metrics.leaks[kind].Inc()
	c.readers.leaks.note(name, kind, modulePath, time.Now())
}

// clientKey returns the key for an identity at an address. Of an IPv6 address it is the
// /64 prefix: a host that has one address of it has all of them.
func clientKey(id *access.Identity, remote string) string {
	if !id.Anonymous() {
		return "user " + id.Kind + " " + id.Name
	}
	address, err := netip.ParseAddr(remote)
	if err != nil {
		return cmp.Or(text.Clip(remote, 100), "unknown")
	}
	address = address.Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	prefix, _ := address.Prefix(64) // valid for every IPv6 address
	return prefix.String()
}

// siteOf returns the site that a client is at: of IPv6 prefixes the first 48 bits, which
// one customer of a provider has and takes as many clients from as it likes; all others
// are sites of their own.
func siteOf(client string) string {
	if !strings.HasSuffix(client, "::/64") {
		return client
	}
	prefix, err := netip.ParsePrefix(client)
	if err != nil {
		return client // the name of a user
	}
	site, _ := prefix.Addr().Prefix(48) // valid for every IPv6 address
	return site.String()
}

// SiteOf returns the site of a client's address: memory is counted for it.
func SiteOf(remote string) string { return siteOf(clientKey(new(access.Identity), remote)) }

// hostOf returns the host of an address host:port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return strings.TrimPrefix(host, "::ffff:")
}
