package fetch_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/fetch"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "a b") // with a space
	for name, content := range files {
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func fileURL(root string) string {
	return "file://" + strings.ReplaceAll(filepath.ToSlash(root), " ", "%20")
}

func TestDirectory(t *testing.T) {
	root := tree(t, map[string]string{
		"example.com/!a/@v/v1.0.0.zip": "zip",
		"example.com/!a/@v/list":       "",
		"outside/secret":               "secret",
	})
	inside := filepath.Join(root, "example.com")
	for name, target := range map[string]string{"leads-out": "../outside/secret", "leads-in": "!a/@v/v1.0.0.zip", "absolute": "/etc/hostname"} {
		if err := os.Symlink(target, filepath.Join(inside, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := newChain(t, fetch.Config{List: fileURL(inside)})
	for _, test := range []struct {
		path, want string
		err        error
	}{
		{"!a/@v/v1.0.0.zip", "zip", nil},
		{"!a/@v/list", "", nil},
		{"leads-in", "zip", nil},
		{"!a/@v/v1.0.1.zip", "", fs.ErrNotExist},
		{"!a/@v", "", fs.ErrNotExist},
		{"!a/@v/list/x", "", fs.ErrNotExist},
		{"../outside/secret", "", fs.ErrNotExist},
		{"!a/../../outside/secret", "", fs.ErrNotExist},
		{strings.Repeat("x", 5000), "", fs.ErrNotExist},
		{"leads-out", "", fetch.ErrUnavailable},
		{"absolute", "", fetch.ErrUnavailable},
	} {
		data, err := read(t, c, test.path)
		all, source, err2 := c.ReadAll(t.Context(), test.path, 10)
		if string(data) != test.want || string(all) != test.want || (err == nil) != (test.err == nil) || (err2 == nil) != (err == nil) {
			t.Errorf("%q: %q %v, %q %v, want %q %v", test.path, data, err, all, err2, test.want, test.err)
		}
		if test.err != nil {
			wantIs(t, err, test.err)
			wantIs(t, err2, test.err)
		} else if source != fileURL(inside) {
			t.Errorf("source is %q", source)
		}
		if test.err == fetch.ErrUnavailable {
			wantIsNot(t, err, fs.ErrNotExist)
		}
	}
	if k := metric(t, c, "assay_upstream_requests_total", "upstream="+fileURL(inside), "outcome=not_found"); k != 8 { // without those that are not paths
		t.Errorf("not_found counted %v times", k)
	}
}

// A directory that is not mounted says nothing about its files.
func TestDirectoryMissing(t *testing.T) {
	root := tree(t, map[string]string{"x": "x"})
	list := fileURL(root) + "," + fileURL(filepath.Join(root, "x")) + "|" + fileURL(filepath.Join(root, "not")) + "," + fileURL(root)
	_, err := read(t, newChain(t, fetch.Config{List: list}), "y")
	wantIs(t, err, fetch.ErrUnavailable)
	wantIsNot(t, err, fs.ErrNotExist)
}

func TestDirectoryBody(t *testing.T) {
	root := tree(t, map[string]string{"x": "12345"})
	c := newChain(t, fetch.Config{List: fileURL(root)})
	if _, err := c.Fetch(t.Context(), "x", 4); err == nil {
		t.Error("no error over the limit")
	} else {
		wantIs(t, err, fetch.ErrTooLarge)
	}

	object, err := c.Fetch(t.Context(), "x", 5)
	if err != nil || object.Size != 5 {
		t.Fatalf("Fetch: %v, %v", object, err)
	}
	if err := os.Truncate(filepath.Join(root, "x"), 3); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(object.Body)
	wantIs(t, err, fetch.ErrUnavailable, io.ErrUnexpectedEOF)
	if string(data) != "123" {
		t.Errorf("data %q", data)
	}
	_ = object.Body.Close()

	ctx, cancel := context.WithCancel(t.Context())
	if object, err = c.Fetch(ctx, "x", 5); err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	cancel()
	_, err = object.Body.Read(make([]byte, 5))
	wantIs(t, err, context.Canceled)
	_, err = c.Fetch(ctx, "x", 5)
	wantIs(t, err, context.Canceled)
}
