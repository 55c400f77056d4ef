package fetch_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// BenchmarkFetch fetches a zip of 50 MB over loopback, and compares with net/http alone.
func BenchmarkFetch(b *testing.B) {
	data := noise(50 << 20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }))
	b.Cleanup(server.Close)
	c, err := fetch.New(fetch.Config{List: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	buf := make([]byte, 128<<10)
	b.Run("chain", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			object, err := c.Fetch(b.Context(), zipPath, 1<<30)
			if err != nil {
				b.Fatal(err)
			}
			drain(b, object.Body, buf)
		}
	})
	b.Run("plain", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			resp, err := http.Get(server.URL)
			if err != nil {
				b.Fatal(err)
			}
			drain(b, resp.Body, buf)
		}
	})
}

func BenchmarkReadAll(b *testing.B) {
	server := httptest.NewServer(text("module example.com/a\n"))
	b.Cleanup(server.Close)
	c, err := fetch.New(fetch.Config{List: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	for b.Loop() {
		if _, _, err := c.ReadAll(b.Context(), "example.com/a/@v/v1.0.0.mod", 100); err != nil {
			b.Fatal(err)
		}
	}
}

func drain(b *testing.B, body io.ReadCloser, buf []byte) {
	b.Helper()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{body}, buf); err != nil {
		b.Fatal(err)
	}
	if err := body.Close(); err != nil {
		b.Fatal(err)
	}
}
