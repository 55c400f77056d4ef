package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// kills is how many processes are killed: as many as the variable KILLS says, or so many.
func kills(t *testing.T, usually int) int {
	t.Helper()
	text := os.Getenv("KILLS")
	if text == "" {
		return usually
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("KILLS is %q; it must be a number of processes", text)
	}
	return n
}

// Three servers that share a bucket and a log of their own are killed again and again, also while they start, in the
// middle of fills and pins. Nothing that a client was sent is lost, no client is sent wrong bytes, and no two heads that
// clients were shown contradict each other. KILLS=1000 kills them for longer.
func TestReplicasKilled(t *testing.T) {
	t.Parallel()
	f := newKilledFleet(t)
	for _, r := range f.replicas {
		f.start(r)
	}
	clients := []*fleetClient{newFleetClient(f), newFleetClient(f)}
	var work sync.WaitGroup
	t.Cleanup(work.Wait) // the clients end with the context of the test
	var unfinished atomic.Int32
	var versions []module.Version
	total, killed, begun := kills(t, 8), 0, time.Now()
	// Two heads are the fewest that can contradict each other.
	for round := 0; killed < total || len(f.sent.trees()) < 2; round++ {
		if unfinished.Load() < 24 { // otherwise they have enough to do
			for _, m := range f.release(len(versions)) {
				versions = append(versions, m)
				for _, c := range clients {
					unfinished.Add(1)
					work.Go(func() {
						c.fetch(m)
						unfinished.Add(-1)
					})
				}
			}
		}
		f.sent.await(rand.IntN(10), 2*time.Second)
		time.Sleep(rand.N(50 * time.Millisecond)) // so that not every kill comes right after an answer
		victims := f.victims(round)
		for _, r := range victims {
			f.kill(r)
			killed++
		}
		for _, r := range victims {
			if rand.IntN(4) == 0 {
				f.killStarting(r, rand.N(600*time.Millisecond))
				killed++
			}
			f.start(r)
		}
	}
	f.killAll()
	t.Logf("%d servers were killed in %.0f s, %d versions were wanted: clients were sent %s", killed, time.Since(begun).Seconds(), len(versions), f.sent)
	f.withBucketAlone(f.checkSent)
	// What the killed servers have left must not stop the next ones.
	for _, r := range f.replicas {
		f.start(r)
	}
	work.Wait()
	f.killAll()
	t.Logf("after %.0f s clients had all", time.Since(begun).Seconds())
	f.withBucketAlone(func(url string) {
		f.checkSent(url)
		f.checkHeads(url)
		f.checkLines(url, versions)
	})
	for _, c := range clients {
		if err := c.Broken(); err != nil {
			t.Error(err)
		}
		f.command("log", "check", "--head", f.file("head", c.Seen))
	}
	f.command("verify")
}

// killedFleet is servers that share a bucket and a log of their own, and are killed while clients fetch public and
// private versions from them.
type killedFleet struct {
	t         *testing.T
	program   string
	args, env []string // of each server
	public    *proxytest.World
	code      *vcstest.World
	repo      *vcstest.Repo // of the newest private module
	key       string        // of the log
	sent      *sent

	mu       sync.Mutex // guards the URLs
	replicas []*fleetReplica
}

// fleetReplica is one server of a killedFleet.
type fleetReplica struct {
	dir string
	url string // empty while it does not run
	cmd *exec.Cmd
}

// fleetLog is the name of the log of a killedFleet.
const fleetLog = "sum.corp.example"

func newKilledFleet(t *testing.T) *killedFleet {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &killedFleet{t: t, program: program, public: proxytest.New(t), code: vcstest.New(t)}
	for range 3 {
		f.replicas = append(f.replicas, &fleetReplica{dir: t.TempDir()})
	}
	key := filepath.Join(t.TempDir(), "key")
	f.args = []string{"--store", bucketURL(s3test.Start(t).URL), "--log-key", key, "--unified", "--private", vcstest.PageHost,
		"--upstream", f.public.URL("slow"), "--sumdb", f.public.GOSUMDB(), "--ca-file", f.code.CAFile(), "--log-level", "warn"}
	f.env = slices.Concat(noAuthorities(), bucketEnv, []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "HTTPS_PROXY=" + f.code.Proxy()})
	f.key, _, _ = strings.Cut(f.command("log", "create", "--log-key", key, "--log-name", fleetLog), "\n")
	f.sent = newSent(t, f.key)
	return f
}

// command runs a command of the program on the bucket, which must succeed, and returns what it prints.
func (f *killedFleet) command(args ...string) string {
	f.t.Helper()
	cmd := assay(f.program, append(args, "--store", argument(f.args, "--store"), "--data", f.t.TempDir())...)
	cmd.Env = append(cmd.Env, bucketEnv...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Errorf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// file writes a file and returns its name.
func (f *killedFleet) file(name string, content []byte) string {
	f.t.Helper()
	name = filepath.Join(f.t.TempDir(), name)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return name
}

// release makes the next versions after n: a public one, and two of a private module, which now and then is a new one.
func (f *killedFleet) release(n int) []module.Version {
	f.t.Helper()
	public := module.Version{Path: fmt.Sprintf("example.com/public%d", n), Version: "v1.0.0"}
	content := make([]byte, 200<<10)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(content)
	f.public.AddModule(public, []txtar.File{{Name: "data", Data: content}})
	name := fmt.Sprintf("m%d", n/24)
	if n%24 == 0 {
		f.repo = f.code.Module(name)
	}
	versions := []module.Version{public}
	for i := range 2 {
		m := module.Version{Path: vcstest.PageHost + "/" + name, Version: fmt.Sprintf("v1.%d.%d", n, i)}
		f.repo.Commit(fmt.Sprintf("-- go.mod --\nmodule %s\n\n// %s\n-- m.go --\npackage m\n", m.Path, m.Version))
		f.repo.Tag(m.Version)
		versions = append(versions, m)
	}
	return versions
}

// start starts a server, with more options.
func (f *killedFleet) start(r *fleetReplica, more ...string) {
	f.t.Helper()
	url, cmd := startProcessIn(f.t, f.env, f.program, slices.Concat(f.args, []string{"--data", r.dir}, more)...)
	f.mu.Lock()
	defer f.mu.Unlock()
	r.url, r.cmd = url, cmd
}

// kill kills a server.
func (f *killedFleet) kill(r *fleetReplica) {
	f.t.Helper()
	kill(f.t, r.cmd)
	f.mu.Lock()
	defer f.mu.Unlock()
	r.url = ""
}

func (f *killedFleet) killAll() {
	f.t.Helper()
	for _, r := range f.replicas {
		f.kill(r)
	}
}

// killStarting kills a server some time after its process was started.
func (f *killedFleet) killStarting(r *fleetReplica, after time.Duration) {
	f.t.Helper()
	cmd := assay(f.program, slices.Concat([]string{"serve", "--listen", "127.0.0.1:0", "--data", r.dir}, f.args)...)
	cmd.Env = f.env
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	time.Sleep(after)
	kill(f.t, cmd)
}

// victims returns the servers that are killed in a round: in every sixth one all, before that one or two. The third one is
// spared until then: after six seconds it sees that a killed one has left a lease, and fetches what that one would have.
func (f *killedFleet) victims(round int) []*fleetReplica {
	if round%6 == 5 {
		return f.replicas
	}
	spared := f.replicas[round/6%len(f.replicas)]
	others := slices.DeleteFunc(slices.Clone(f.replicas), func(r *fleetReplica) bool { return r == spared })
	first := rand.IntN(len(others))
	return others[first : first+1+rand.IntN(len(others)-first)]
}

// running returns the URL of a server that runs, as far as we know; it is empty if there is none.
func (f *killedFleet) running() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range rand.Perm(len(f.replicas)) {
		if url := f.replicas[i].url; url != "" {
			return url
		}
	}
	return ""
}

// withBucketAlone calls check with the URL of a server that has nothing but the bucket and the word that it is the
// newest state: no directory of the others, no upstream and no code host.
func (f *killedFleet) withBucketAlone(check func(url string)) {
	f.t.Helper()
	r := &fleetReplica{dir: f.t.TempDir()}
	f.start(r, "--upstream", "off", "--vcs", "off", "--log-trust-bucket")
	check(r.url)
	f.kill(r)
}

// ask asks a server for a path, and keeps the answer. The error is that of a connection, as when the server is killed,
// or a request to ask again. Any other answer than 200 fails the test.
func (f *killedFleet) ask(url, path string) ([]byte, error) {
	if url == "" {
		return nil, errors.New("no server runs")
	}
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, url+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: time.Minute} // longer than --answer-timeout
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		f.sent.keep(path, body)
		return body, nil
	case resp.StatusCode == http.StatusGatewayTimeout: // the fetch goes on
	case strings.Contains(path, "/tile/"): // a client that did not get a part of a tile asks for the whole one
	default:
		f.t.Errorf("%s: %d %.500s", path, resp.StatusCode, body)
	}
	return nil, fmt.Errorf("%s: status %d", path, resp.StatusCode)
}

// checkSent checks that a server sends all that clients were sent, and records of all private versions of which they
// were sent files.
func (f *killedFleet) checkSent(url string) {
	f.t.Helper()
	for _, path := range f.sent.paths() {
		if _, err := f.ask(url, path); err != nil {
			f.t.Errorf("a client has %s, and it is lost: %v", path, err)
		}
		m, version, isFile := strings.Cut(path, "/@v/")
		record := "sumdb/" + fleetLog + "/lookup/" + m + "@" + strings.TrimSuffix(version, filepath.Ext(version))
		if !isFile || !strings.HasPrefix(path, vcstest.PageHost+"/") || f.sent.file(record) != nil {
			continue
		}
		if _, err := f.ask(url, record); err != nil {
			f.t.Errorf("a client has %s, and its record is lost: %v", path, err)
		}
	}
}

// checkHeads checks that every head that a client was shown is of the log as a server has it, and continues the
// smaller ones.
func (f *killedFleet) checkHeads(url string) {
	f.t.Helper()
	newest, err := f.ask(url, "sumdb/"+fleetLog+"/latest")
	if err != nil {
		f.t.Error(err)
		return
	}
	tiles := &fleetTiles{read: func(path string) ([]byte, error) { return f.ask(url, "sumdb/"+fleetLog+"/"+path) }, kept: map[tlog.Tile][]byte{}}
	hashes := tlog.TileHashReader(f.sent.tree(newest), tiles)
	old := tlog.Tree{}
	for _, tree := range f.sent.trees() {
		if root, err := tlog.TreeHash(tree.N, hashes); err != nil || root != tree.Hash {
			f.t.Errorf("a head of %d entries is not of the log: %v", tree.N, err)
		}
		if old.N > 0 {
			proof, err := tlog.ProveTree(tree.N, old.N, hashes)
			if err == nil {
				err = tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
			}
			if err != nil {
				f.t.Errorf("a head of %d entries contradicts one of %d: %v", tree.N, old.N, err)
			}
		}
		old = tree
	}
}

// checkLines checks that the log has the hashes of all versions as clients have them.
func (f *killedFleet) checkLines(url string, versions []module.Version) {
	f.t.Helper()
	client := modsumdb.NewClient(&sumdbtest.Client{Cached: true, Key: func() string { return f.key },
		Remote: func(path string) ([]byte, error) { return f.ask(url, "sumdb/"+fleetLog+path) }})
	for _, m := range versions {
		for suffix, kind := range map[string]string{"": "zip", "/go.mod": "mod"} {
			want := m.Path + " " + m.Version + suffix + " " + hashOf(f.t, kind, f.sent.file(m.Path+"/@v/"+m.Version+"."+kind))
			if lines, err := client.Lookup(m.Path, m.Version+suffix); err != nil || !slices.Contains(lines, want) {
				f.t.Errorf("clients have %q, the log says %q, %v", want, lines, err)
			}
		}
	}
}

// fleetTiles is the tiles of a log, each read once.
type fleetTiles struct {
	read func(path string) ([]byte, error)
	kept map[tlog.Tile][]byte
}

func (*fleetTiles) Height() int                     { return 8 }
func (*fleetTiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (f *fleetTiles) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range tiles {
		if f.kept[tile] == nil {
			if f.kept[tile], err = f.read(tile.Path()); err != nil {
				return nil, err
			}
		}
		data = append(data, f.kept[tile])
	}
	return data, nil
}

// fleetClient is what go commands of one user keep of the log, and their requests.
type fleetClient struct {
	*killedFleet
	sumdbtest.Client
}

func newFleetClient(f *killedFleet) *fleetClient {
	return &fleetClient{f, sumdbtest.Client{Cached: true, Key: func() string { return f.key }, Remote: func(path string) ([]byte, error) {
		return f.ask(f.running(), "sumdb/"+fleetLog+path)
	}}}
}

// fetch gets a version, its files and its record in some order, each from any server and as often as it takes.
func (c *fleetClient) fetch(m module.Version) {
	parts := []func() error{func() error { return c.lookUp(m) }}
	for _, kind := range []string{"info", "mod", "zip"} {
		parts = append(parts, func() error { return c.get(m.Path + "/@v/" + m.Version + "." + kind) })
	}
	for _, i := range rand.Perm(len(parts)) {
		for parts[i]() != nil {
			select {
			case <-c.t.Context().Done():
				return
			case <-time.After(20 * time.Millisecond): // the server was killed, and another one may run
			}
		}
	}
}

// get gets a file. After that any other server must have it, and what clients were sent before.
func (c *fleetClient) get(path string) error {
	if _, err := c.ask(c.running(), path); err != nil {
		return err
	}
	for _, path := range []string{path, c.sent.anyFile()} {
		_, _ = c.ask(c.running(), "cached-only/"+path) // killed, too
	}
	return nil
}

// lookUp gets the record of a version, and verifies it, and the newest head of any server.
func (c *fleetClient) lookUp(m module.Version) error {
	_, _ = c.ask(c.running(), "sumdb/"+fleetLog+"/latest") // killed, perhaps
	_, err := modsumdb.NewClient(&c.Client).Lookup(m.Path, m.Version)
	if errors.Is(err, modsumdb.ErrSecurity) {
		c.t.Errorf("%s: %v", m, err)
	}
	return err
}

// sent is all that clients were sent.
type sent struct {
	t        *testing.T
	verifier note.Verifier
	answers  chan struct{} // one for each new file or record, if the loop waits for it

	mu    sync.Mutex
	whole map[string][]byte  // files, and records without a head, by path
	heads map[tlog.Tree]bool // with valid signatures
}

func newSent(t *testing.T, key string) *sent {
	t.Helper()
	verifier, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	return &sent{t: t, verifier: verifier, answers: make(chan struct{}), whole: map[string][]byte{}, heads: map[tlog.Tree]bool{}}
}

// keep keeps an answer. It must be what earlier ones were.
func (s *sent) keep(path string, body []byte) {
	path = strings.TrimPrefix(path, "cached-only/")
	var head []byte
	switch kind, _, _ := strings.Cut(strings.TrimPrefix(path, "sumdb/"+fleetLog+"/"), "/"); kind {
	case "tile":
		return
	case "latest":
		body, head = nil, body
	case "lookup":
		_, _, rest, err := tlog.ParseRecord(body)
		if err != nil {
			s.t.Errorf("%s: %v: %q", path, err, body)
			return
		}
		body, head = body[:len(body)-len(rest)], rest
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if head != nil {
		s.heads[s.tree(head)] = true
	}
	if body == nil {
		return
	}
	if before, ok := s.whole[path]; ok {
		if !bytes.Equal(before, body) {
			s.t.Errorf("%s has changed:\n%.500q\n%.500q", path, before, body)
		}
		return
	}
	s.whole[path] = body
	select {
	case s.answers <- struct{}{}:
	default:
	}
}

// await waits for some new files and records, but no longer than that.
func (s *sent) await(n int, longest time.Duration) {
	for end := time.After(longest); n > 0; n-- {
		select {
		case <-s.answers:
		case <-end:
			return
		}
	}
}

// tree returns the tree of a head.
func (s *sent) tree(head []byte) tlog.Tree {
	signed, err := note.Open(head, note.VerifierList(s.verifier))
	if err != nil {
		s.t.Errorf("a head: %v: %q", err, head)
		return tlog.Tree{}
	}
	tree, err := tlog.ParseTree([]byte(signed.Text))
	if err != nil {
		s.t.Errorf("a head: %v: %q", err, head)
	}
	return tree
}

// trees returns the trees of all heads, the smallest first.
func (s *sent) trees() []tlog.Tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.heads), func(a, b tlog.Tree) int { return int(a.N - b.N) })
}

// paths returns the paths of all files and records.
func (s *sent) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.whole))
}

// file returns a file or a record; it is nil if no client was sent it.
func (s *sent) file(path string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole[path]
}

// anyFile returns the path of one of the files, of which there must be one.
func (s *sent) anyFile() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var path string
	for path = range s.whole { // in an order of its own
		if !strings.HasPrefix(path, "sumdb/") {
			break
		}
	}
	return path
}

// String says how much it is.
func (s *sent) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := map[string]int{}
	for path := range s.whole {
		switch {
		case strings.HasPrefix(path, "sumdb/"):
			kinds["record"]++
		case strings.HasPrefix(path, vcstest.PageHost+"/"):
			kinds["private"+filepath.Ext(path)]++
		default:
			kinds["public"+filepath.Ext(path)]++
		}
	}
	return fmt.Sprintf("%v and %d heads", kinds, len(s.heads))
}
