package proxy_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// The client of the go command accepts the own log as a checksum database, for private
// and for public modules.
func TestUnified(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Content.Unified = true })
	h.code.Module("lib", lib)
	ops := newClient(h)
	client := modsumdb.NewClient(ops)
	for _, m := range []module.Version{
		{Path: "corp.example/lib", Version: "v1.0.0"}, {Path: "example.com/hello", Version: "v1.0.0"}, {Path: "example.com/Upper", Version: "v1.0.0-RC.1"},
		{Path: "golang.org/toolchain", Version: "v0.0.1-go1.99.0.linux-amd64"}, {Path: "example.com/hello", Version: "v1.1.0"},
	} {
		lines, err := client.Lookup(m.Path, m.Version)
		if err != nil {
			t.Fatalf("%s: %v\n%s", m, err, h.logs)
		}
		if len(lines) != 1 || !strings.HasPrefix(lines[0], m.Path+" "+m.Version+" h1:") {
			t.Errorf("%s: %q", m, lines)
		}
		if strings.HasPrefix(m.Path, "corp.") {
			continue
		}
		public, err := h.mirror.Lookup(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := h.log.Find(t.Context(), m)
		if err != nil || entry.Public == nil || entry.Public.Name != proxytest.Database || entry.Public.ID != public.ID || len(entry.Public.Head) == 0 ||
			!bytes.Equal(entry.Record().Text, public.Text) {
			t.Errorf("%s: the log has %+v, %v", m, entry, err)
		}
	}
	if h.log.Size() != 5 {
		t.Errorf("the log has %d entries", h.log.Size())
	}
	if err := ops.Broken(); err != nil {
		t.Error(err)
	}
	h.wantStatus("sumdb/log.corp.example/lookup/example.com/hello@v1.9.0", http.StatusNotFound)
	h.wantStatus("sumdb/log.corp.example/lookup/corp.example/lib@v1.9.0", http.StatusNotFound)
	h.wantStatus("cached-only/sumdb/log.corp.example/lookup/corp.example/lib@v1.9.0", http.StatusNotFound)
	h.ok("cached-only/sumdb/log.corp.example/lookup/corp.example/lib@v1.0.0")
	if data := h.ok("sumdb/log.corp.example/tile/8/data/000.p/5"); !strings.Contains(data, "corp.example/lib v1.0.0 h1:") {
		t.Errorf("data tile %q", data)
	}
	// The public database is served beside it, and has no private names.
	h.ok("sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.0.0")
	h.wantStatus("sumdb/"+proxytest.Database+"/lookup/corp.example/lib@v1.0.0", http.StatusForbidden, "GONOSUMDB")
	leaks := h.server.Leaks()
	if len(leaks) != 1 || leaks[0].Kind != proxy.PublicDatabase || leaks[0].Module != "corp.example/lib" || leaks[0].Client != "127.0.0.1" || leaks[0].Requests != 1 {
		t.Errorf("leaks: %+v", leaks)
	}
}

// Without Unified the own log is not served, and a client that has its key is not sent
// elsewhere.
func TestNotUnified(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.wantStatus("sumdb/log.corp.example/supported", http.StatusForbidden, "--unified")
	h.wantStatus("sumdb/log.corp.example/lookup/corp.example/lib@v1.0.0", http.StatusForbidden, "--unified")
	h.wantStatus("sumdb/other.example/supported", http.StatusNotFound, "not served here")
}

// A frozen log accepts nothing new, and serves its entries.
func TestPrivateFrozen(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib, strings.Replace(lib, "v1.0.0", "v1.1.0", 1))
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	copyBack(t, filepath.Join(h.dir, "log"))
	again := openPrivate(t, h.world, h.code, h.dir, nil)
	again.ok("corp.example/lib/@v/v1.0.0.zip")
	for range 3 {
		again.wantStatus("corp.example/lib/@v/v1.1.0.zip", http.StatusServiceUnavailable, "the private checksum log is read-only", "assay log check")
	}
	if n := strings.Count(again.logs.String(), "find the newest signed head"); n != 1 {
		t.Errorf("the log has the whole reason %d times", n)
	}
	// The program's log has the full reason once, and a short line for each request.
	refused := 0
	for line := range strings.Lines(again.logs.String()) {
		if strings.Contains(line, "request refused") {
			refused++
			if len(line) > 400 || !strings.Contains(line, "signs nothing new") {
				t.Errorf("a line of %d bytes for a request: %s", len(line), line)
			}
		}
	}
	if refused != 3 {
		t.Errorf("%d lines for 3 requests", refused)
	}
}

// copyBack replaces a directory by a copy of it, as an administrator who restores it
// does.
func copyBack(t *testing.T, dir string) {
	t.Helper()
	other := dir + ".backup"
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, dir); err != nil {
		t.Fatal(err)
	}
}

// A client that has seen more entries of the own log than there are keeps the proof, and
// the error says to whom to send it.
func TestUnifiedLostEntries(t *testing.T) {
	t.Parallel()
	unified := func(c *proxy.Config, _ *vcs.Config) { c.Content.Unified = true }
	h := startPrivate(t, unified)
	ops := newClient(h)
	look := func(version string) error {
		_, err := modsumdb.NewClient(ops).Lookup("example.com/hello", version)
		return err
	}
	if err := look("v1.0.0"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(h.dir, "log")
	old := map[string][]byte{}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		old[file.Name()] = data
	}
	if err := look("v1.1.0"); err != nil {
		t.Fatal(err)
	}
	h.stop()
	for name, data := range old { // into the same files, beside the newer guard
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := openPrivate(t, h.world, h.code, h.dir, unified)
	ops.Remote = again.askOwn
	err = look("v1.0.0")
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "keep $(go env GOPATH)/pkg/sumdb/log.corp.example/latest") || strings.Contains(err.Error(), "remove") {
		t.Errorf("a client that has seen more: %v", err)
	}
	checkText(t, again.get("sumdb/log.corp.example/tile/8/0/000.p/2"))
	if err := ops.Broken(); err != nil {
		t.Error(err)
	}
}

// newClient returns the go command's side of the own log of h.
func newClient(h *hosts) *sumdbtest.Client {
	return &sumdbtest.Client{Key: h.log.Key, Remote: h.askOwn}
}

// askOwn sends a request to the own log.
func (h *hosts) askOwn(path string) ([]byte, error) {
	resp, err := http.Get(h.url + "/sumdb/" + h.log.Name() + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s %q %w", path, resp.Status, b.String(), err)
	}
	return b.Bytes(), nil
}
