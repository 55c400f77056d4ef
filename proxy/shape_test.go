package proxy_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/content"
)

// Bytes of a zip that no hash covers are neither served nor stored, whether the zip is
// streamed or not, and the correct zip is accepted as soon as an upstream has it.
func TestHiddenBytes(t *testing.T) {
	for name, database := range map[string]bool{"verified": true, "without a database": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			const small = "example.com/hello/@v/v1.0.0.zip"
			large := big(world, 4<<20)
			f := start(t, world, world.URL("ok"), option{database: database})
			for _, path := range []string{small, large} {
				honest := world.File(path)
				world.Set(path, append(bytes.Clone(honest), "hidden"...))
				resp, err := http.Get(f.url + "/" + path)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode != http.StatusForbidden {
					t.Errorf("%s: %s and a whole body of %d bytes", path, resp.Status, len(body))
				}
				if bytes.HasSuffix(body, []byte("hidden")) {
					t.Errorf("%s: the client has what is hidden", path)
				}
				// The second client gets the reason as a text, also for a large zip.
				f.wantStatus(path, http.StatusForbidden, "cannot verify: the zip of ", "are not covered by its hash", "do not use")
				if f.holds(path) {
					t.Errorf("%s is stored", path)
				}
				world.Set(path, honest)
				f.want(path)
			}
		})
	}
}

// A stored zip of an older version with such bytes is found.
func TestStoredShape(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	path := big(world, 1<<20)
	f.want(path)
	object, err := f.store.Open(t.Context(), keyOf(path))
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	if err := content.CheckStored(object); err != nil {
		t.Errorf("an honest zip: %v", err)
	}
	info := object.Info()
	info.Key, info.Size = strings.Replace(info.Key, "v1.0.0", "v1.0.1", 1), info.Size+6
	if err := f.store.Create(t.Context(), info, io.MultiReader(bytes.NewReader(world.File(path)), strings.NewReader("hidden"))); err != nil {
		t.Fatal(err)
	}
	hidden, err := f.store.Open(t.Context(), info.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer hidden.Close()
	if err := content.CheckStored(hidden); err == nil || !strings.Contains(err.Error(), "behind it") {
		t.Errorf("a zip with bytes behind its end: %v", err)
	}
}
