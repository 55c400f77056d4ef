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

// door is the HTTP proxy, on the loopback interface, that the go command and git
// are given. To the go command it answers where a repository is, as was found out
// before; git it connects with the host of that repository. Nobody else has the
// words that open it.
type door struct {
	network  *guard.Network
	listener net.Listener
	server   *http.Server

	mu     sync.Mutex
	passes map[string]pass // by the value of Proxy-Authorization
}

// pass is what one of the two programs of a run may do.
type pass struct {
	repo  *repository
	reach Reach
	git   bool   // connect to host; else ask for the repository
	host  string // host:port of the repository
}

func openDoor(n *guard.Network) (*door, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("loopback interface: %w", err)
	}
	d := &door{network: n, listener: listener, passes: map[string]pass{}}
	d.server = &http.Server{Handler: d, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
	go func() { _ = d.server.Serve(listener) }() // ends with close
	return d, nil
}

func (d *door) close() error { return d.server.Close() }

// admit makes a pass and returns the URL of the proxy that has it, and what takes
// it back.
func (d *door) admit(p pass) (proxyURL string, revoke func()) {
	word := rand.Text()
	key := guard.BasicAuth("assay", word)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passes[key] = p
	return "http://assay:" + word + "@" + d.listener.Addr().String(), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.passes, key)
	}
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	p, ok := d.passes[r.Header.Get("Proxy-Authorization")]
	d.mu.Unlock()
	switch {
	case !ok:
		w.Header().Set("Proxy-Authenticate", `Basic realm="assay"`)
		http.Error(w, "proxy authentication required", http.StatusProxyAuthRequired)
	case p.git && r.Method == http.MethodConnect && strings.EqualFold(r.Host, p.host):
		d.connect(w, r, p)
	case !p.git && r.Method == http.MethodGet && r.URL.Query().Get("go-get") == "1":
		p.answer(w, r)
	default:
		// The go command comes with CONNECT first and then, because it is told
		// that the module is insecure, without; git has nothing else to ask.
		http.Error(w, "not allowed", http.StatusForbidden)
	}
}

// answer says where the repository is.
func (p pass) answer(w http.ResponseWriter, r *http.Request) {
	if path := r.URL.Host + strings.TrimSuffix(r.URL.Path, "/"); path != p.repo.root && !strings.HasPrefix(path, p.repo.root+"/") {
		http.Error(w, "not allowed", http.StatusForbidden)
		return
	}
	content := strings.TrimSpace(strings.Join([]string{p.repo.root, p.repo.system, p.repo.url.String(), p.repo.subdir}, " "))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<html><head><meta name=\"go-import\" content=\"%s\"></head></html>\n", html.EscapeString(content))
}

// connect joins git with the host of its repository.
func (d *door) connect(w http.ResponseWriter, r *http.Request, p pass) {
	ctx, cancel := context.WithTimeout(r.Context(), guard.DialTime)
	defer cancel()
	out, err := d.network.Connect(ctx, p.host, p.reach)
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

// join passes bytes between git, whose first ones may be in buffered, and its host. When
// git is gone nothing waits for the host, which may never end the connection.
func join(git net.Conn, buffered io.Reader, host net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(host, buffered) // how it ends, the other side sees
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
