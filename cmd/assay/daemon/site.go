package daemon

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// site is the URL below which the server serves: as it knows it, and as clients see it.
type site struct {
	scheme  string // of the listener
	prefix  string // "" or /go
	clients *clients
}

// below passes requests below the prefix to next, which sees their paths without it. It changes the
// requests themselves: a copy would cost more than the rest of a hit allocates.
func (s *site) below(next http.Handler) http.Handler {
	if s.prefix == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutPrefix(r.URL.Path, s.prefix)
		if !ok || path != "" && path[0] != '/' {
			writeText(w, http.StatusNotFound, outside+"\nall paths of this server begin with "+s.prefix+"/\nrequest id: "+w.Header().Get("X-Request-Id")+"\n")
			return
		}
		raw, ok := strings.CutPrefix(r.URL.RawPath, s.prefix)
		if !ok {
			raw = "" // the prefix itself is encoded
		}
		if path == "" {
			path = "/"
		}
		r.URL.Path, r.URL.RawPath = path, raw
		next.ServeHTTP(w, r)
	})
}

// url returns the URL of the server for the client that sent a request, without a slash at the end.
// It consists of characters that need no quotes in a page, a log or a shell; see isAuthority. An
// error says why the request does not tell the URL, without quoting it.
func (s *site) url(r *http.Request) (scheme, url string, err error) {
	scheme, host, prefix := s.scheme, r.Host, ""
	if s.clients.proxied(r) {
		for name, value := range map[string]*string{"X-Forwarded-Proto": &scheme, "X-Forwarded-Host": &host, "X-Forwarded-Prefix": &prefix} {
			switch lines := r.Header[name]; len(lines) {
			case 0:
			case 1:
				*value = lines[0]
			default:
				return "", "", errors.New(name + " has several values")
			}
		}
	}
	scheme = strings.ToLower(scheme)
	prefix = strings.TrimSuffix(prefix, "/")
	switch {
	case scheme != "http" && scheme != "https":
		return "", "", errors.New("X-Forwarded-Proto is neither http nor https")
	case !isAuthority(host):
		return "", "", errors.New("the host is not host[:port]")
	case !config.IsPrefix(prefix):
		return "", "", errors.New("X-Forwarded-Prefix is not a path")
	}
	return scheme, scheme + "://" + host + prefix + s.prefix, nil
}

// maxHost is the length of the longest name of a host.
const maxHost = 253

// isAuthority reports whether text is host or host:port, as in a URL: a name of letters, digits,
// dots, hyphens and underscores, an IPv4 address, or an IPv6 address in brackets.
func isAuthority(text string) bool {
	host := text
	if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
		port := text[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
			return false
		}
		host = text[:i]
	}
	if inside, ok := strings.CutPrefix(host, "["); ok {
		address, err := netip.ParseAddr(strings.TrimSuffix(inside, "]"))
		return err == nil && strings.HasSuffix(inside, "]") && address.Is6() && address.Zone() == ""
	}
	return host != "" && len(host) <= maxHost && host[0] != '-' && !strings.ContainsFunc(host, notInHost)
}

func notInHost(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '.' && r != '_'
}

// clientAddr returns the address by which a client on this machine reaches addr, host:port.
func clientAddr(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.String()
	}
	if tcp.IP.IsUnspecified() || tcp.IP.IsLoopback() {
		return net.JoinHostPort("localhost", strconv.Itoa(tcp.Port))
	}
	return tcp.String()
}
