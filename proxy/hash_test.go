package proxy_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/assay-proxy/assay/proxy"
)

// A zip whose directory would take very long to read is refused.
func TestHashZipDirectory(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	b.Grow(80 << 20)
	z := zip.NewWriter(&b)
	comment := strings.Repeat("x", 60_000)
	for i := range 1200 {
		w, err := z.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("example.com/hello@v1.0.0/%d", i), Comment: comment})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	world := newWorld(t)
	world.Set("example.com/hello/@v/v1.0.0.zip", b.Bytes())
	f := start(t, world, world.URL("ok"), option{config: func(c *proxy.Config) { c.Content.Times.Answer = 10 * time.Minute }}) // of a busy machine
	f.wantStatus("example.com/hello/@v/v1.0.0.zip", http.StatusBadGateway, "too large", "the directory of a zip")
}

// The text of every error fits the go command's limits and ends with the request id.
func FuzzErrorText(f *testing.F) {
	f.Add("not found: example.com/a", "because", "go away", "ab-1")
	f.Add("a\n\n\nb", "\x00\xff\u202e\ufffd", strings.Repeat("é", 1000), "")
	f.Add(strings.Repeat("x\n", 20), "", "", strings.Repeat("i", 64))
	f.Fuzz(func(t *testing.T, what, why, next, id string) {
		if len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool { return r > 'z' || r < '0' }) {
			t.Skip("no request id of ours")
		}
		text := proxy.ErrorText(what, why, next, id)
		if strings.Count(text, "\n") > 8 || len(text) > 648 || strings.Contains(text, "\n\n") || strings.HasPrefix(text, "\n") || !utf8.ValidString(text) {
			t.Fatalf("text %q does not fit", text)
		}
		for _, r := range text {
			if !unicode.IsGraphic(r) && !unicode.IsSpace(r) {
				t.Fatalf("text %q has %q", text, r)
			}
		}
		if id != "" && !strings.HasSuffix(text, "request id: "+id+"\n") {
			t.Fatalf("text %q does not end with the id", text)
		}
	})
}
