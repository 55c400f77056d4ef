package vcs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// gitProxy is the HTTP proxy, on the loopback interface, that the go command and git use.
// It tells the go command which repository was found before, and connects git with the host
// of that repository. Each run has passwords of its own.
type gitProxy struct {
	network  *guard.Network
	listener net.Listener
	server   *http.Server

	mu     sync.Mutex
	grants map[string]grant // by the value of Proxy-Authorization
}

// grant is what one of the two programs of a run may do.
type grant struct {
	repo  *repository
	reach Reach
	git   bool   // connect with host; else request the go-import page
	host  string // host:port of the repository
}

func openGitProxy(n *guard.Network) (*gitProxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("loopback interface: %w", err)
	}
	p := &gitProxy{network: n, listener: listener, grants: map[string]grant{}}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
	go func() { _ = p.server.Serve(listener) }() // ends with close
	return p, nil
}

func (p *gitProxy) close() error { return p.server.Close() }

// address returns host:port of the proxy.
func (p *gitProxy) address() string { return p.listener.Addr().String() }

// issue returns the URL of the proxy with a new password for g, and a function that
// revokes it.
func (p *gitProxy) issue(g grant) (proxyURL string, revoke func()) {
	token := rand.Text()
	key := guard.BasicAuth("assay", token)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grants[key] = g
	return "http://assay:" + token + "@" + p.address(), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.grants, key)
	}
}

func (p *gitProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	g, ok := p.grants[r.Header.Get("Proxy-Authorization")]
	p.mu.Unlock()
	switch {
	case !ok:
		w.Header().Set("Proxy-Authenticate", `Basic realm="assay"`)
		http.Error(w, "proxy authentication required", http.StatusProxyAuthRequired)
	case g.git && r.Method == http.MethodConnect && strings.EqualFold(r.Host, g.host):
		p.connect(w, r, g)
	case !g.git && r.Method == http.MethodGet && r.URL.Query().Get("go-get") == "1":
		g.answer(w, r)
	default:
		// The go command sends CONNECT first and then, because GOINSECURE names the
		// module, a plain request; git has no reason for any other request.
		http.Error(w, "not allowed", http.StatusForbidden)
	}
}

// answer sends the go-import page of the repository.
func (g grant) answer(w http.ResponseWriter, r *http.Request) {
	if path := r.URL.Host + strings.TrimSuffix(r.URL.Path, "/"); path != g.repo.root && !strings.HasPrefix(path, g.repo.root+"/") {
		http.Error(w, "not allowed", http.StatusForbidden)
		return
	}
	content := strings.TrimSpace(strings.Join([]string{g.repo.root, g.repo.system, g.repo.url.String(), g.repo.subdir}, " "))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<html><head><meta name=\"go-import\" content=\"%s\"></head></html>\n", html.EscapeString(content))
}

// connect connects git with the host of its repository.
func (p *gitProxy) connect(w http.ResponseWriter, r *http.Request, g grant) {
	ctx, cancel := context.WithTimeout(r.Context(), guard.DialTime)
	defer cancel()
	out, err := p.network.Connect(ctx, g.host, g.reach)
	if errors.Is(err, ErrForbidden) {
		http.Error(w, "not allowed", http.StatusForbidden)
		return
	}
	if err != nil {
		http.Error(w, "no connection", http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	join(in, buffered, out)
}

// join copies between git, whose first bytes may be in buffered, and its host. It ends
// when git does: the host might never end the connection.
func join(git net.Conn, buffered io.Reader, host net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(host, buffered) // the other direction notices an error
		_ = host.Close()
	}()
	_, _ = io.Copy(git, host)
	_ = closeWrite(git)
	<-done
}

// closeWrite ends one direction of a connection.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}
