package pinlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

const logName = "sum.corp.example/log"

// openLog opens or creates the log in c.Dir, and closes it with the test.
func openLog(t testing.TB, c pinlog.Config) *pinlog.Log {
	t.Helper()
	l, err := pinlog.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return l
}

// newStore opens an empty store, and closes it with the test.
func newStore(t testing.TB) storage.Store {
	t.Helper()
	store, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return store
}

// newOwnLog returns an empty log and its configuration.
func newOwnLog(t testing.TB) (*pinlog.Log, pinlog.Config) {
	t.Helper()
	c := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName}
	return openLog(t, c), c
}

// entry returns the content of filler module number n.
func entry(n int64) pinlog.Entry {
	mod := sumdbtest.Filler(n)
	return pinlog.Entry{Module: mod, Zip: sumdbtest.Hash(mod.Path), Mod: sumdbtest.Hash(mod.Path + "/go.mod"),
		Origin: fmt.Sprintf("https://git.corp.example/m%d 1f3870be", n)}
}

// fill pins filler modules until l has size entries. Concurrent pins share a write, so their
// numbers are in any order.
func fill(t testing.TB, l *pinlog.Log, size int64) {
	t.Helper()
	var group sync.WaitGroup
	for n := l.Size(); n < size; n++ {
		group.Go(func() {
			if _, err := l.Pin(context.Background(), entry(n)); err != nil {
				t.Errorf("Pin(%d): %v", n, err)
			}
		})
	}
	group.Wait()
	if l.Size() != size {
		t.Fatalf("Size = %d, want %d", l.Size(), size)
	}
}

func pinOne(t testing.TB, l *pinlog.Log, e pinlog.Entry) pinlog.Entry {
	t.Helper()
	stored, err := l.Pin(t.Context(), e)
	if err != nil {
		t.Fatalf("Pin(%v): %v", e.Module, err)
	}
	return stored
}

func latest(t testing.TB, l *pinlog.Log) []byte {
	t.Helper()
	head, err := l.Latest(t.Context())
	if err != nil {
		t.Fatalf("Latest: %v", err)
	}
	return head
}

// treeOf opens a head with nothing but the key of l.
func treeOf(t testing.TB, key string, head []byte) tlog.Tree {
	t.Helper()
	verifier, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(head, note.VerifierList(verifier))
	if err != nil {
		t.Fatalf("head %q: %v", head, err)
	}
	tree, err := tlog.ParseTree([]byte(n.Text))
	if err != nil {
		t.Fatalf("head %q: %v", head, err)
	}
	return tree
}

// serve returns the file at path below the root of the database l.
func serve(ctx context.Context, l *pinlog.Log, path string) ([]byte, error) {
	if path == "latest" {
		return l.Latest(ctx)
	}
	escaped, isLookup := strings.CutPrefix(path, "lookup/")
	if !isLookup {
		tile, err := tlog.ParseTilePath(path)
		if err != nil {
			return nil, fs.ErrNotExist
		}
		return l.Tile(ctx, tile)
	}
	escapedPath, escapedVersion, _ := strings.Cut(escaped, "@")
	modPath, err1 := module.UnescapePath(escapedPath)
	version, err2 := module.UnescapeVersion(escapedVersion)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	e, err := l.Find(ctx, module.Version{Path: modPath, Version: version})
	if err != nil {
		return nil, err
	}
	return l.Reply(ctx, e.Record())
}

// goCommand is a go command whose newest head is seen, which may be empty. It looks up all mods and
// returns its newest head afterwards.
func goCommand(t testing.TB, l *pinlog.Log, seen []byte, mods ...module.Version) []byte {
	t.Helper()
	ops := &sumdbtest.Client{Key: l.Key, Seen: seen, Cached: true, Remote: func(path string) ([]byte, error) {
		return serve(t.Context(), l, strings.TrimPrefix(path, "/"))
	}}
	c := modsumdb.NewClient(ops)
	for _, mod := range mods {
		for _, suffix := range []string{"", "/go.mod"} {
			lines, err := c.Lookup(mod.Path, mod.Version+suffix)
			want := fmt.Sprintf("%s %s%s %s", mod.Path, mod.Version, suffix, sumdbtest.Hash(mod.Path+suffix))
			if err != nil || len(lines) != 1 || lines[0] != want {
				t.Fatalf("a client looks %s up at size %d: %q, %v, want %q; %v", mod, l.Size(), lines, err, want, ops.Broken())
			}
		}
	}
	if err := ops.Broken(); err != nil {
		t.Fatalf("security error: %v", err)
	}
	return ops.Seen
}

// The go command's client accepts the log at all sizes at which its structure changes, both a new
// client and a client with each earlier head.
func TestLogClient(t *testing.T) {
	t.Parallel()
	l, c := newOwnLog(t)
	sizes := []int64{1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 1000}
	if !testing.Short() {
		sizes = append(sizes, 65535, 65536, 65600)
	}
	var seen []byte
	var heads [][]byte
	for _, size := range sizes {
		fill(t, l, size)
		mods := []module.Version{sumdbtest.Filler(0), sumdbtest.Filler(size / 2), sumdbtest.Filler(size - 1)}
		goCommand(t, l, nil, mods...)
		seen = goCommand(t, l, seen, mods...)
		if tree := treeOf(t, l.Key(), seen); tree.N != size {
			t.Fatalf("the client has seen %d entries, want %d", tree.N, size)
		}
		heads = append(heads, seen)
	}
	for _, head := range heads {
		goCommand(t, l, head, sumdbtest.Filler(3))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := openLog(t, c)
	for _, head := range heads {
		goCommand(t, again, head, sumdbtest.Filler(5))
	}
	if err := again.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// The log serves exactly what x/mod computes from the same records.
func TestLogFormats(t *testing.T) {
	t.Parallel()
	l, _ := newOwnLog(t)
	twin := sumdbtest.NewLog(t, "twin.example")
	fill(t, l, 500) // pins one after another wait for the disk each time
	for e, err := range l.Entries("") {
		if err != nil || e.ID != twin.Size() {
			t.Fatalf("entry %d is %+v, %v", twin.Size(), e, err)
		}
		twin.Add(e.Module, e.Zip, e.Mod)
	}
	for n := twin.Size(); n < 600; n++ {
		e := pinOne(t, l, entry(n))
		if e.ID != n {
			t.Fatalf("entry %d has the number %d", n, e.ID)
		}
		twin.Add(e.Module, e.Zip, e.Mod)
	}
	if got, want := treeOf(t, l.Key(), latest(t, l)), twin.Tree(600); got != want {
		t.Errorf("the head is %v, want %v", got, want)
	}
	for _, tile := range append(tlog.NewTiles(8, 0, 600), tlog.Tile{H: 8, L: 0, N: 2, W: 7}, tlog.Tile{H: 8, L: 0, N: 0, W: 255},
		tlog.Tile{H: 8, L: -1, N: 0, W: 256}, tlog.Tile{H: 8, L: -1, N: 2, W: 88}, tlog.Tile{H: 8, L: -1, N: 1, W: 3}) {
		want, err := twin.Tile(tile)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := l.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d; %v", tile.Path(), len(got), len(want), err)
		}
	}
	for path, want := range map[string]error{
		"tile/8/0/002.p/89": sumdb.ErrBeyond, "tile/8/0/003": sumdb.ErrBeyond, "tile/8/data/002": sumdb.ErrBeyond,
		"tile/8/2/000.p/1": sumdb.ErrBeyond, "tile/7/0/000": fs.ErrNotExist, "tile/10/0/000.p/1": fs.ErrNotExist,
	} {
		if _, err := serve(t.Context(), l, path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	beyond := entry(600)
	beyond.ID = 600
	if _, err := l.Reply(t.Context(), beyond.Record()); !errors.Is(err, sumdb.ErrBeyond) {
		t.Errorf("Reply beyond the head: %v", err)
	}
	beyond.ID = 5
	if _, err := l.Reply(t.Context(), beyond.Record()); !errors.Is(err, sumdb.ErrInvalid) {
		t.Errorf("Reply with a record that is another's: %v", err)
	}
	// A mirror of ours accepts the log, too.
	m, err := sumdb.Open(t.Context(), sumdb.Config{Key: l.Key(), Store: newStore(t),
		Fetch: func(ctx context.Context, path string, _ int64) ([]byte, error) { return serve(ctx, l, path) }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if r, err := m.Lookup(t.Context(), sumdbtest.Filler(599)); err != nil || r.ID != 599 {
		t.Errorf("a mirror looks up record 599: %v, %v", r.ID, err)
	}
	if data, err := m.Tile(t.Context(), tlog.Tile{H: 8, L: -1, N: 0, W: 256}); err != nil || len(data) == 0 {
		t.Errorf("a mirror asks for records: %v", err)
	}
}

func TestLogEmpty(t *testing.T) {
	t.Parallel()
	l, c := newOwnLog(t)
	empty := treeOf(t, l.Key(), latest(t, l))
	if root, _ := tlog.TreeHash(0, nil); empty != (tlog.Tree{N: 0, Hash: root}) {
		t.Errorf("the head of an empty log is %v", empty)
	}
	if _, err := l.Find(t.Context(), sumdbtest.Filler(1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find: %v", err)
	}
	if l.Name() != logName || !strings.HasPrefix(l.Key(), logName+"+") {
		t.Errorf("name %q, key %q", l.Name(), l.Key())
	}
	key := l.Key()
	l.Close()
	if again := openLog(t, pinlog.Config{Dir: c.Dir}); again.Key() != key || again.Refuses() != nil {
		t.Errorf("opened again: key %q, want %q; %v", again.Key(), key, again.Refuses())
	}
}

func TestLogName(t *testing.T) {
	t.Parallel()
	l := openLog(t, pinlog.Config{Dir: t.TempDir()})
	if ok, _ := filepath.Match("assay-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]", l.Name()); !ok {
		t.Errorf("made up the name %q", l.Name())
	}
	if _, err := sumdb.ParseGOSUMDB(l.Key()); err != nil {
		t.Errorf("the key is no GOSUMDB: %v", err)
	}
	_, c := newOwnLog(t)
	c.Dir, c.Name = l2dir(t), "other.example"
	if _, err := pinlog.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "a new name is a new log") {
		t.Errorf("opened with another name: %v", err)
	}
	for _, name := range []string{"with space", "plus+plus", "slash.example/", "https://x.example", "x.example/../y", "./x.example", ".."} {
		dir := filepath.Join(t.TempDir(), "log")
		if _, err := pinlog.Open(t.Context(), pinlog.Config{Dir: dir, Name: name}); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "is not host[/path]") {
			t.Errorf("name %q: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "key")); err == nil {
			t.Errorf("name %q: a key was made", name)
		}
	}
}

// l2dir returns the directory of a closed log.
func l2dir(t *testing.T) string {
	l, c := newOwnLog(t)
	l.Close()
	return c.Dir
}

func TestLogFind(t *testing.T) {
	t.Parallel()
	l, c := newOwnLog(t)
	mirrored := entry(1)
	mirrored.Origin = ""
	mirrored.Public = &pinlog.PublicProof{Name: "sum.golang.org", ID: 4711, Head: sumdbtest.NewLog(t, "sum.golang.org").Head(0)}
	private := entry(2)
	private.Origin = "https://user:an@secret@git.corp.example/x 1f3870be"
	private.Time = time.Date(2026, 11, 20, 10, 15, 0, 123, time.FixedZone("", 3600))
	first, second := pinOne(t, l, mirrored), pinOne(t, l, private)
	if second.Origin != "https://git.corp.example/x 1f3870be" || !second.Time.Equal(private.Time) {
		t.Errorf("stored %+v", second)
	}
	if first.Time.IsZero() || time.Since(first.Time) > time.Minute {
		t.Errorf("stored with the time %v", first.Time)
	}
	for range 2 {
		for _, want := range []pinlog.Entry{first, second} {
			got, err := l.Find(t.Context(), want.Module)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("Find(%v): %v\n%s", want.Module, err, diff)
			}
		}
		l.Close()
		l = openLog(t, c)
	}
	text, err := os.ReadFile(filepath.Join(c.Dir, "entries"))
	if err != nil || !bytes.Contains(text, second.Record().Text) || bytes.Contains(text, []byte("secret")) {
		t.Errorf("entries: %q, %v", text, err)
	}
}

func TestLogEntries(t *testing.T) {
	t.Parallel()
	l, _ := newOwnLog(t)
	for _, path := range []string{"corp.example/a", "corp.example/ab", "corp.example/a/b", "other.example/a", "corp.example/a/v2"} {
		version := "v1.0.0"
		if strings.HasSuffix(path, "v2") {
			version = "v2.0.0"
		}
		e := entry(0)
		e.Module = module.Version{Path: path, Version: version}
		pinOne(t, l, e)
	}
	for prefix, want := range map[string]string{
		"":                 "0 1 2 3 4",
		"corp.example":     "0 1 2 4",
		"corp.example/":    "0 1 2 4",
		"corp.example/a":   "0 2 4",
		"corp.example/a/b": "2",
		"corp":             "",
	} {
		var ids []string
		for e, err := range l.Entries(prefix) {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, fmt.Sprint(e.ID))
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("Entries(%q) = %s, want %s", prefix, got, want)
		}
	}
	for range l.Entries("") {
		break // the loop must not go on
	}
}

func TestLogConflict(t *testing.T) {
	t.Parallel()
	l, c := newOwnLog(t)
	first := pinOne(t, l, entry(1))
	moved := entry(1)
	moved.Zip, moved.Origin = sumdbtest.Hash("moved"), "https://git.corp.example/m1 deadbeef"
	for range 2 {
		again := entry(1)
		again.Origin = "somewhere else"
		if got := pinOne(t, l, again); got.ID != 0 || got.Origin != first.Origin {
			t.Errorf("the same again is %+v, want the first", got)
		}
		_, err := l.Pin(t.Context(), moved)
		var conflict *pinlog.ConflictError
		if !errors.As(err, &conflict) || cmp.Diff(first, conflict.Have) != "" || conflict.Got.Zip != moved.Zip {
			t.Fatalf("Pin with another hash: %#v", err)
		}
		for _, part := range []string{first.Zip, moved.Zip, first.Origin, moved.Origin, first.Module.Path} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not name %s", err, part)
			}
		}
		if l.Size() != 1 {
			t.Errorf("Size = %d", l.Size())
		}
		l.Close()
		l = openLog(t, c)
	}
	moved = entry(1)
	moved.Mod = sumdbtest.Hash("moved")
	if _, err := l.Pin(t.Context(), moved); !errors.As(err, new(*pinlog.ConflictError)) {
		t.Errorf("Pin with another hash of go.mod: %v", err)
	}
}

// Of concurrent pins of one version one wins, and all of them get the same result.
func TestLogConcurrent(t *testing.T) {
	t.Parallel()
	l, _ := newOwnLog(t)
	var group sync.WaitGroup
	var mu sync.Mutex
	winners := make(map[string]map[string]bool) // path → hashes that were returned
	for n := range int64(400) {
		group.Go(func() {
			e := entry(n % 40)
			if n%3 == 0 {
				e.Zip = sumdbtest.Hash("other")
			}
			stored, err := l.Pin(t.Context(), e)
			var conflict *pinlog.ConflictError
			switch {
			case errors.As(err, &conflict):
				stored = conflict.Have
			case err != nil:
				t.Errorf("Pin: %v", err)
			case stored.Zip != e.Zip:
				t.Errorf("Pin(%v) with %s returns %s and no error", e.Module, e.Zip, stored.Zip)
			}
			mu.Lock()
			defer mu.Unlock()
			if winners[e.Module.Path] == nil {
				winners[e.Module.Path] = make(map[string]bool)
			}
			winners[e.Module.Path][stored.Zip] = true
			// Each returned entry is signed.
			if _, err := l.Reply(t.Context(), stored.Record()); err != nil {
				t.Errorf("Reply after Pin: %v", err)
			}
		})
	}
	group.Wait()
	if l.Size() != 40 || len(winners) != 40 {
		t.Errorf("%d entries of %d modules, want 40", l.Size(), len(winners))
	}
	for path, hashes := range winners {
		if len(hashes) != 1 {
			t.Errorf("%s has %d contents", path, len(hashes))
		}
	}
	if err := l.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// Pins that wait during a write share the next write.
func TestLogGroups(t *testing.T) {
	t.Parallel()
	l, c := newOwnLog(t)
	fill(t, l, 500)
	heads, err := os.ReadFile(filepath.Join(c.Dir, "heads"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(heads, []byte("go.sum database tree\n")); n > 250 {
		t.Errorf("500 entries at the same time were signed with %d heads", n)
	}
}

func TestLogCanceled(t *testing.T) {
	t.Parallel()
	l, _ := newOwnLog(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Pin(ctx, entry(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("Pin: %v", err)
	}
	l.Close()
	if _, err := l.Pin(t.Context(), entry(0)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Pin after Close: %v", err)
	}
	if err := l.Witness(latest(t, l)); err != nil {
		t.Errorf("Witness of our own head after Close: %v", err)
	}
}

func TestLogInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, c := newOwnLog(t)
		if _, err := pinlog.Open(t.Context(), c); !errors.Is(err, storage.ErrInUse) || !strings.Contains(err.Error(), c.Dir) {
			t.Errorf("opened twice: %v", err)
		}
		if err := pinlog.Adopt(t.Context(), c, nil); !errors.Is(err, storage.ErrInUse) {
			t.Errorf("adopted while it is open: %v", err)
		}
		if err := l.Refuses(); err != nil {
			t.Error(err)
		}
	})
}

func TestLogReadOnly(t *testing.T) {
	t.Parallel()
	l, c := newOwnLog(t)
	fill(t, l, 300)
	c.ReadOnly = true
	before := listing(t, c.Dir)
	reader := openLog(t, c) // while l writes
	goCommand(t, reader, nil, sumdbtest.Filler(3), sumdbtest.Filler(299))
	pinOne(t, reader, entry(7)) // an entry that it has
	if _, err := reader.Pin(t.Context(), entry(300)); !errors.Is(err, pinlog.ErrReadOnly) {
		t.Errorf("Pin: %v", err)
	}
	if err := reader.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if diff := cmp.Diff(before, listing(t, c.Dir)); diff != "" {
		t.Errorf("a reader changed the files:\n%s", diff)
	}
	pinOne(t, l, entry(300))
	if reader.Size() != 300 {
		t.Errorf("Size = %d", reader.Size())
	}
	none := pinlog.Config{Dir: filepath.Join(t.TempDir(), "none"), ReadOnly: true}
	if _, err := pinlog.Open(t.Context(), none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that is not there: %v", err)
	}
	if _, err := os.Stat(none.Dir); err == nil {
		t.Error("a reader made a directory")
	}
}

// listing returns all files in dir with their contents.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}

func TestLogMetrics(t *testing.T) {
	t.Parallel()
	l, _ := newOwnLog(t)
	pinOne(t, l, entry(0))
	pinOne(t, l, entry(0))
	moved, bad := entry(0), entry(1)
	moved.Zip, bad.Zip = sumdbtest.Hash("moved"), "h1:nothing"
	if _, err := l.Pin(t.Context(), moved); err == nil {
		t.Error("no conflict")
	}
	if _, err := l.Pin(t.Context(), bad); !errors.Is(err, sumdb.ErrInvalid) {
		t.Errorf("Pin without a hash: %v", err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(l.Metrics()...)
	err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP assay_log_appends_total Appends of module versions to the own log, by result: appended, known, conflict, refused, error.
# TYPE assay_log_appends_total counter
assay_log_appends_total{result="appended"} 1
assay_log_appends_total{result="conflict"} 1
assay_log_appends_total{result="error"} 0
assay_log_appends_total{result="known"} 1
assay_log_appends_total{result="refused"} 1
# HELP assay_log_entries Entries under the newest signed head of the own log.
# TYPE assay_log_entries gauge
assay_log_entries 1
# HELP assay_log_frozen 1 while the own log refuses to sign anything new; with read-only, 1 only if its files contradict each other.
# TYPE assay_log_frozen gauge
assay_log_frozen 0
# HELP assay_log_overtaken_total How often another replica wrote to the own log in the bucket first, so that the entries of this one had to be written again.
# TYPE assay_log_overtaken_total counter
assay_log_overtaken_total 0
`))
	if err != nil {
		t.Error(err)
	}
}

func TestLogFileModes(t *testing.T) {
	t.Parallel()
	_, c := newOwnLog(t)
	for path, want := range map[string]fs.FileMode{"": 0o700, "key": 0o600, "entries": 0o600, "key.pub": 0o644} {
		info, err := os.Stat(filepath.Join(c.Dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got&^want != 0 && os.PathSeparator == '/' {
			t.Errorf("%q has mode %v, want %v", path, got, want)
		}
	}
}
