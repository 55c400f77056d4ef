package daemon

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage/bolt"
)

// While keys are moved the server is alive and responds with the reason; after that the real server
// uses the same listener.
func TestAnswersWhileKeysAreMoved(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(inner, 1000, newConnections(memory.New(100*connectionMemory), connectionMemory, 900), slog.New(slog.DiscardHandler))
	defer l.Close()
	log := newLogger(io.Discard, "text", slog.LevelInfo)
	defer log.Close()
	m := &migration{listener: l, log: log}
	m.state.Store(&bolt.Rekeyed{})
	get := func(path string) (status int, retry, body string) {
		t.Helper()
		resp, err := http.Get("http://" + inner.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Retry-After"), string(text)
	}
	end := m.answer()
	if status, _, body := get("/livez"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("/livez: %d %q", status, body)
	}
	if status, _, body := get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "its objects are being counted") {
		t.Errorf("at first: %d %q", status, body)
	}
	m.state.Store(&bolt.Rekeyed{Done: 17, Total: 42})
	for _, path := range []string{"/readyz", "/", "/example.com/m/@v/list"} {
		if status, retry, body := get(path); status != http.StatusServiceUnavailable || retry == "" || !strings.Contains(body, "17 of 42") {
			t.Errorf("%s: %d, Retry-After %q, %q", path, status, retry, body)
		}
	}
	end()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "real\n") })}
	go server.Serve(l)
	defer server.Close()
	if status, _, body := get("/readyz"); status != http.StatusOK || body != "real\n" {
		t.Errorf("afterwards: %d %q", status, body)
	}
}
