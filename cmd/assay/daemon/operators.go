package daemon

import (
	"net/http"
	"slices"
	"strings"

	"github.com/assay-proxy/assay/access"
)

// operators are who may see more than other clients.
type operators struct {
	groups  []string // none: clients on this machine
	access  *access.Authenticator
	clients *clients
}

// include reports whether a request may read what is for operators.
func (o *operators) include(r *http.Request) bool {
	if len(o.groups) > 0 {
		id, err := o.access.Identify(r)
		return err == nil && id.Scope == "" && slices.ContainsFunc(o.groups, id.In) // the page names any modules
	}
	proxies := []string{"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") || slices.Contains(proxies, name) {
			return false // a proxy on this machine forwards the request of another one
		}
	}
	// nginx says nothing at all unless it is told to, and calls us by our own name; but
	// it speaks HTTP/1.0 then. Who has named a proxy on this machine has one.
	if !r.ProtoAtLeast(1, 1) || o.clients.proxied(r) {
		return false
	}
	// Some proxies say nothing but the name that they were called by. A page that a
	// browser on this machine shows has to give its own name too.
	return loopback(r.Host) && loopback(o.clients.address(r))
}
