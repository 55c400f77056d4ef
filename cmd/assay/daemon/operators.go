package daemon

import (
	"net/http"
	"slices"
	"strings"

	"github.com/assay-proxy/assay/access"
)

// operators are the clients that may see more than others.
type operators struct {
	groups  []string // none: clients on this machine
	access  *access.Authenticator
	clients *clients
}

// include reports whether a request may read pages for administrators.
func (o *operators) include(r *http.Request) bool {
	if len(o.groups) > 0 {
		id, err := o.access.Identify(r)
		return err == nil && id.Scope == "" && slices.ContainsFunc(o.groups, id.In) // the page may name modules outside of any scope
	}
	proxies := []string{"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") || slices.Contains(proxies, name) {
			return false // a proxy on this machine forwards it for another client
		}
	}
	// With its default configuration, nginx adds no header and calls us by our own name; but it
	// speaks HTTP/1.0 then. A trusted proxy on this machine forwards requests of other clients, too.
	if !r.ProtoAtLeast(1, 1) || o.clients.proxied(r) {
		return false
	}
	// Some proxies add no header, but pass on the host name of the original request. A page of
	// another site in a browser on this machine sends that site's name.
	return loopback(r.Host) && loopback(o.clients.address(r))
}
