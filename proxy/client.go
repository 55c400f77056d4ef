package proxy

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/privacy"
)

// client is the sender of a request. It is identified only when needed: a hit must not
// check a credential.
type client struct {
	r       *http.Request
	header  http.Header // of the response
	clients *clients

	identity *access.Identity // set by identify
	key      string           // "" until Key needs it
	held     memory.Hold      // memory in use until the client has received the response
}

// clients identifies clients, and notes those that are not configured for private modules.
type clients struct {
	access  *access.Authenticator // nil: every client is anonymous
	remote  func(*http.Request) string
	log     *slog.Logger
	metrics *metrics
	leaks   leaks

	leakState *leakState // nil: there are no other replicas
}

// Key returns the key of the client, by which places are shared: the user if the client
// is authenticated, else its address.
func (c *client) Key() string {
	if c.key == "" {
		c.key = clientKey(c.identify(), c.remote())
	}
	return c.key
}

// Site returns the site of the client's address; unread bytes are counted for it. It does
// not identify the client.
func (c *client) Site() string { return access.SiteOf(c.remote()) }

// Request returns the id of the request.
func (c *client) Request() string { return c.header.Get("X-Request-Id") }

// Keep counts n more bytes in memory until the client has received the response. The
// error is memory.ErrFull.
func (c *client) Keep(n int) error {
	if n <= smallResponse {
		return nil
	}
	if c.held.Bytes() == 0 {
		c.held.Own(c.Site())
	}
	return c.held.Try(c.held.Bytes() + int64(n))
}

// HasCredential reports whether the client sent a credential.
func (c *client) HasCredential() bool { return c.r.Header["Authorization"] != nil }

// Covers reports whether the credential of the client is valid for a module.
func (c *client) Covers(modulePath string) bool { return c.identify().Covers(modulePath) }

// Limited reports whether the credential of the client is valid for some modules only.
func (c *client) Limited() bool { return c.identify().Scope != "" }

// In reports whether the client is in a group that a policy names.
func (c *client) In(group string) bool {
	id := c.identify()
	return group == privacy.Authenticated && !id.Anonymous() || id.In(group)
}

func (c *client) remote() string { return c.clients.remote(c.r) }

// identify returns the identity of the client. A client whose credential is wrong, or
// cannot be checked, is anonymous; identify logs the reason.
func (c *client) identify() *access.Identity {
	if c.identity == nil {
		id := c.identifyOnce()
		c.identity = &id
	}
	return c.identity
}

func (c *client) identifyOnce() access.Identity {
	if c.clients.access == nil {
		return access.Identity{}
	}
	id, err := c.clients.access.Identify(c.r)
	if err == nil {
		return id
	}
	log := c.clients.log.With("request", c.Request(), "client", c.remote())
	if errors.Is(err, access.ErrUnavailable) {
		log.Warn("credential could not be checked", "err", err)
	} else {
		log.Info("credential refused", "err", err)
	}
	return id
}

// noteUnread notes that the client may not read the module that it requested. An
// identified client is configured correctly.
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
	c.clients.metrics.leaks[kind].Inc()
	c.clients.leaks.note(name, kind, modulePath, time.Now())
	c.clients.leakState.changed()
}

// userKey begins the key of an authenticated client.
const userKey = "user "

// clientKey returns the key for an identity at an address.
func clientKey(id *access.Identity, remote string) string {
	if id.Anonymous() {
		return access.ClientOf(remote)
	}
	return userKey + id.Kind + " " + id.Name
}

// siteOf returns the site of the client with a key. Every user is a site of its own.
func siteOf(key string) string {
	if strings.HasPrefix(key, userKey) {
		return key
	}
	return access.SiteOf(key)
}

// hostOf returns the host of an address host:port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return strings.TrimPrefix(host, "::ffff:")
}
