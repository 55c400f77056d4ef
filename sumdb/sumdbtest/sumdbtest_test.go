package sumdbtest_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// client is the outside of an x/mod sumdb.Client that keeps nothing.
type client struct {
	t         *testing.T
	key, base string
	latest    []byte
	security  bool
}

func (c *client) ReadRemote(path string) ([]byte, error) {
	response, err := http.Get(c.base + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return data, err
}

func (c *client) ReadConfig(file string) ([]byte, error) {
	if file == "key" {
		return []byte(c.key), nil
	}
	return c.latest, nil
}

func (c *client) WriteConfig(file string, old, new []byte) error { c.latest = new; return nil }
func (c *client) ReadCache(string) ([]byte, error)               { return nil, fs.ErrNotExist }
func (c *client) WriteCache(string, []byte)                      {}
func (c *client) Log(string)                                     {}
func (c *client) SecurityError(string)                           { c.security = true }

// A real client believes the log, and does not believe its fork.
func TestClient(t *testing.T) {
	log := sumdbtest.NewLog(t, "sum.test.example")
	log.Fill(300)
	log.OnLookup = func(mod module.Version) {
		if mod.Path == "example.com/New" {
			log.Add(mod, sumdbtest.Hash("zip"), sumdbtest.Hash("mod"))
		}
	}
	server := httptest.NewServer(log.Handler())
	defer server.Close()
	c := &client{t: t, key: log.Key(), base: server.URL}
	for path, version := range map[string]string{"filler.example/m7": "v1.0.0", "filler.example/m299": "v1.0.0/go.mod", "example.com/New": "v1.2.3"} {
		lines, err := modsumdb.NewClient(c).Lookup(path, version)
		if err != nil || len(lines) != 1 {
			t.Errorf("Lookup(%s, %s) = %q, %v", path, version, lines, err)
		}
	}
	if _, err := modsumdb.NewClient(c).Lookup("example.com/other", "v1.0.0"); err == nil {
		t.Error("Lookup of an unknown module succeeded")
	}
	if log.Size() != 301 || c.security {
		t.Errorf("Size = %d, security error %v", log.Size(), c.security)
	}

	fork := log.Fork(200)
	fork.Fill(400)
	if !bytes.Equal(fork.Head(200), log.Head(200)) {
		t.Error("a fork differs before it begins")
	}
	fork.Add(module.Version{Path: "example.com/x", Version: "v1.0.0"}, sumdbtest.Hash("a"), sumdbtest.Hash("b"))
	log.AddText([]byte("other\n"))
	forked := httptest.NewServer(fork.Handler())
	defer forked.Close()
	fresh := &client{t: t, key: log.Key(), base: server.URL}
	both := modsumdb.NewClient(fresh)
	if _, err := both.Lookup("filler.example/m7", "v1.0.0"); err != nil {
		t.Error(err)
	}
	fresh.base = forked.URL
	if _, err := both.Lookup("example.com/x", "v1.0.0"); err == nil || !fresh.security {
		t.Errorf("Lookup in a fork: %v, security error %v", err, fresh.security)
	}
}

func TestServeFile(t *testing.T) {
	log := sumdbtest.NewLog(t, "sum.test.example")
	log.Fill(300)
	// x/mod's server is the measure of the formats.
	for path, want := range map[string]int{
		"tile/8/0/000": 8192, "tile/8/0/001.p/44": 44 * 32, "tile/8/0/001.p/3": 96, "tile/8/1/000.p/1": 32,
		"tile/8/0/000.p/12": 12 * 32,
	} {
		if data, err := log.ServeFile(path); err != nil || len(data) != want {
			t.Errorf("%s: %d bytes, %v, want %d", path, len(data), err, want)
		}
	}
	data, err := log.ServeFile("tile/8/data/001.p/44")
	if records := bytes.Split(bytes.TrimSuffix(data, []byte("\n\n")), []byte("\n\n")); err != nil || len(records) != 44 {
		t.Errorf("data tile: %d records, %v", len(records), err)
	}
	for _, path := range []string{
		"", "latests", "lookup/", "lookup/example.com/x", "lookup/example.com/X@v1.0.0", "lookup/example.com/x@v1.0.0",
		"tile/8/0/001", "tile/8/0/001.p/45", "tile/8/1/000.p/2", "tile/8/2/000.p/1", "tile/8/63/000.p/1", "tile/4/0/000", "tile/8/data/001", "supported",
	} {
		if data, err := log.ServeFile(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v, want fs.ErrNotExist", path, data, err)
		}
	}
	if n := log.Requests("tile/8/0/001"); n != 4 {
		t.Errorf("Requests = %d, want 4", n)
	}
}

func TestHooks(t *testing.T) {
	log := sumdbtest.NewLog(t, "sum.test.example")
	log.Fill(30)
	verifier, err := note.NewVerifier(log.Key())
	if err != nil {
		t.Fatal(err)
	}
	size := func(path string) int64 {
		data, err := log.ServeFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if path != "latest" {
			_, _, data, _ = tlog.ParseRecord(data)
		}
		n, err := note.Open(data, note.VerifierList(verifier))
		if err != nil {
			t.Fatal(err)
		}
		tree, err := tlog.ParseTree([]byte(n.Text))
		if err != nil {
			t.Fatal(err)
		}
		return tree.N
	}
	const path = "lookup/filler.example/m3@v1.0.0"
	log.ShowLatest(10)
	log.ShowLookup(20)
	if a, b := size("latest"), size(path); a != 10 || b != 20 {
		t.Errorf("sizes shown: %d, %d, want 10, 20", a, b)
	}
	log.ShowLatest(-1)
	log.ShowLookup(-1)
	if a, b := size("latest"), size(path); a != 30 || b != 30 {
		t.Errorf("sizes shown: %d, %d, want 30", a, b)
	}
	log.Point(sumdbtest.Filler(3), 4)
	if data, err := log.ServeFile(path); err != nil || !strings.HasPrefix(string(data), "4\nfiller.example/m4 ") {
		t.Errorf("lookup of what points elsewhere = %q, %v", data, err)
	}
	log.Tamper(func(path string, data []byte, err error) ([]byte, error) { return nil, errors.New("down: " + path) })
	if _, err := log.Fetch(t.Context(), "latest", 1000); err == nil || err.Error() != "down: latest" {
		t.Errorf("Fetch = %v", err)
	}
	log.Tamper(nil)
	if _, err := log.Fetch(t.Context(), "latest", 10); err == nil {
		t.Error("Fetch ignores its limit")
	}
	if other := log.Rekeyed(); other.Key() == log.Key() || other.Name() != log.Name() {
		t.Errorf("Rekeyed: %s", other.Key())
	}
	if again := sumdbtest.NewLog(t, "sum.test.example"); again.Key() != log.Key() {
		t.Error("the key of a name is not always the same")
	}
}
