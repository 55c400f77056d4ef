package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// network is an internet in memory. It is used in a synctest bubble, where the real time
// budgets take no time.
type network struct {
	t testing.TB

	mu      sync.Mutex // guards the fields below
	hosts   map[string]func(net.Conn)
	dials   map[string]int
	refused map[string]error // the errors of dials
}

func newNetwork(t testing.TB) *network {
	return &network{t: t, hosts: map[string]func(net.Conn){}, dials: map[string]int{}, refused: map[string]error{}}
}

// dial connects to a host of the network; others refuse the connection.
func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[address]++
	accept, ok := n.hosts[address]
	refused := n.refused[address]
	n.mu.Unlock()
	if refused != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: refused}
	}
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	if accept == nil { // a black hole, and a dialer that gives up as ours does
		select {
		case <-time.After(5 * time.Second):
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	client, server := net.Pipe()
	accept(server)
	return client, nil
}

func (n *network) host(address string, accept func(net.Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[address] = accept
}

// refuse makes dials of a host fail with err.
func (n *network) refuse(address string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused[address] = err
}

// serve starts an HTTP server at host, port 80. A handler that is still busy when the
// test ends, or a goroutine of the chain, is a deadlock to synctest: leaks fail.
func (n *network) serve(host string, handler http.HandlerFunc) {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	n.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	n.host(host+":80", func(c net.Conn) {
		select {
		case l.conns <- c:
		case <-l.closed:
			_ = c.Close()
		}
	})
}

// raw starts a server at host, port 80, that reads the head of each request, answers with
// bytes, and closes the connection.
func (n *network) raw(host string, answer func(head string) string) {
	n.host(host+":80", func(c net.Conn) {
		go func() {
			defer c.Close()
			head := make([]byte, 8<<10)
			k, _ := c.Read(head)
			_, _ = io.WriteString(c, answer(string(head[:k])))
		}()
	})
}

// chain makes a chain that uses the network.
func (n *network) chain(config fetch.Config) *fetch.Chain {
	n.t.Helper()
	c, err := fetch.New(config)
	if err != nil {
		n.t.Fatalf("New(%q): %v", config.List, err)
	}
	c.SetDial(n.dial)
	n.t.Cleanup(c.Close)
	return c
}

// list makes a chain of a list with the defaults.
func (n *network) list(list string) *fetch.Chain {
	n.t.Helper()
	return n.chain(fetch.Config{List: list})
}

type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// counter counts requests, and names them by number to a handler.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}

func (c *counter) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// abort breaks the connection of a request after the bytes written, at least the headers.
func abort(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// lives makes an upstream answer its probe, and everything else with next.
func lives(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" && r.URL.Path != supported {
			next(w, r)
		}
	}
}

// hang answers nothing until the client leaves.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, strings.ToLower(http.StatusText(code)))
	}
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

// noise returns n bytes without repetitions.
func noise(n int) []byte {
	b := make([]byte, n)
	state := uint32(2463534242)
	for i := range b {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		b[i] = byte(state)
	}
	return b
}

// read fetches path and reads the body to its end.
func read(t testing.TB, s fetch.Source, path string) ([]byte, error) {
	t.Helper()
	object, err := s.Fetch(t.Context(), path, 1<<30)
	if err != nil {
		wantErrorType(t, err)
		return nil, err
	}
	defer func() {
		if err := object.Body.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	data, err := io.ReadAll(object.Body)
	if err != nil {
		wantErrorType(t, err)
	}
	return data, err
}

// wantErrorType checks the rules for every error.
func wantErrorType(t testing.TB, err error) {
	t.Helper()
	var e *fetch.Error
	if !errors.As(err, &e) {
		t.Errorf("error %v (%T) is not a *fetch.Error", err, err)
		return
	}
	if len(e.Detail) > 200 || strings.ContainsAny(e.Detail, "\r\n\t") {
		t.Errorf("Detail %q is not one line of at most 200 bytes", e.Detail)
	}
	if e.Path == "" || e.Source == "" {
		t.Errorf("error %v: Path %q, Source %q", err, e.Path, e.Source)
	}
}

func wantIs(t testing.TB, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("error is %v, want one that is %v", err, w)
		}
	}
}

func wantIsNot(t testing.TB, err error, not ...error) {
	t.Helper()
	for _, w := range not {
		if errors.Is(err, w) {
			t.Errorf("error is %v, want one that is not %v", err, w)
		}
	}
}

func wantData(t testing.TB, got []byte, err error, want []byte) {
	t.Helper()
	if err != nil {
		t.Fatalf("error after %d of %d bytes: %v", len(got), len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, other ones than the %d wanted", len(got), len(want))
	}
}

// metric returns the value of a counter or gauge with labels a=b, or the number
// of observations of a histogram.
func metric(t testing.TB, c *fetch.Chain, name string, labels ...string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatalf("Gather: %v", err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && hasLabels(m, labels) {
				return m.Counter.GetValue() + m.Gauge.GetValue() + float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return 0
}

func hasLabels(m *dto.Metric, labels []string) bool {
	for _, want := range labels {
		found := false
		for _, l := range m.Label {
			found = found || l.GetName()+"="+l.GetValue() == want
		}
		if !found {
			return false
		}
	}
	return true
}
