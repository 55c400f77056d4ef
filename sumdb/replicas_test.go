package sumdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// replica is a process that shares a store with others.
type replica struct {
	*sumdb.Mirror
	t        *testing.T
	store    storage.Store
	evidence string
	shown    atomic.Pointer[sumdbtest.Log] // what its upstream shows
	logged   lines
	stop     func() // kills it
}

// lines is what a replica has logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

func bucketStore(t *testing.T, server *s3test.Server) storage.Store {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	store, err := s3.Open(t.Context(), s3.Options{
		Bucket: "bucket", Endpoint: server.URL, Region: "us-east-1", PathStyle: true, Spool: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// newReplica starts a replica whose store is in the bucket of server, with its own directory.
func newReplica(t *testing.T, server *s3test.Server, log *sumdbtest.Log) *replica {
	t.Helper()
	return startReplica(t, bucketStore(t, server), log, filepath.Join(t.TempDir(), "evidence"))
}

func startReplica(t *testing.T, store storage.Store, log *sumdbtest.Log, evidence string) *replica {
	t.Helper()
	r, err := tryReplica(t, store, log, evidence)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return r
}

// tryReplica starts a replica, with the board of its store.
func tryReplica(t *testing.T, store storage.Store, log *sumdbtest.Log, evidence string) (*replica, error) {
	t.Helper()
	r := &replica{t: t, store: store, evidence: evidence}
	r.shown.Store(log)
	logger := slog.New(slog.NewTextHandler(&r.logged, nil))
	board := news.New(store, logger)
	var err error
	r.Mirror, err = sumdb.Open(t.Context(), sumdb.Config{
		Key: log.Key(), Store: store, Evidence: evidence, News: board, Logger: logger,
		Fetch: func(ctx context.Context, path string, limit int64) ([]byte, error) {
			return r.shown.Load().Fetch(ctx, path, limit)
		},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { board.Run(ctx) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		r.Close()
	})
	t.Cleanup(r.stop)
	return r, nil
}

// await waits until a condition holds, or fails after a long time.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after a long time", what)
		}
	}
}

// lateNews is a store that says that a state is not there when the process has stored it meanwhile.
type lateNews struct {
	storage.Store
	meanwhile atomic.Pointer[func()]
}

func (s *lateNews) State(ctx context.Context, name string) ([]byte, error) {
	value, err := s.Store.State(ctx, name)
	if meanwhile := s.meanwhile.Load(); meanwhile != nil && errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, "/latest") {
		(*meanwhile)()
	}
	return value, err
}

// The first head is found while a client's request looks whether another replica has stored one: the client gets it.
func TestFirstHeadMeanwhile(t *testing.T) {
	log := newLog(t, 300)
	store := &lateNews{Store: bucketStore(t, s3test.Start(t))}
	r := startReplica(t, store, log, filepath.Join(t.TempDir(), "evidence"))
	meanwhile := func() {
		if err := r.Refresh(t.Context()); err != nil {
			t.Errorf("Refresh: %v", err)
		}
	}
	store.meanwhile.Store(&meanwhile)
	if head, err := r.Latest(t.Context()); err != nil || !bytes.Equal(head, log.Head(300)) {
		t.Errorf("Latest = %q, %v", head, err)
	}
}

func (r *replica) frozen() bool {
	_, frozen := r.Frozen()
	return frozen
}

// hasFile reports whether the directory of r has a file of evidence whose name has this prefix and suffix.
func (r *replica) hasFile(prefix, suffix string) bool {
	return slices.ContainsFunc(evidenceFiles(r.t, r.evidence), func(path string) bool {
		name := filepath.Base(path)
		return strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix)
	})
}

// showFork shows the fork to r, which must refuse it.
func (r *replica) showFork(fork *sumdbtest.Log) {
	r.t.Helper()
	r.shown.Store(fork)
	if err := r.Refresh(r.t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		r.t.Fatalf("Refresh with a fork = %v, want ErrFrozen", err)
	}
}

// A head that one replica stores is that of the other ones soon, without a request to upstream.
func TestHeadByNews(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a, b, c := newReplica(t, server, log), newReplica(t, server, log), newReplica(t, server, log)
	refresh(t, a.Mirror)
	await(t, "the first head", func() bool { return b.Size() == 300 && c.Size() == 300 })
	log.Fill(70_000)
	refresh(t, b.Mirror)
	await(t, "the next head", func() bool { return a.Size() == 70_000 && c.Size() == 70_000 })
	if n := log.Requests("latest"); n != 2 {
		t.Errorf("%d requests for the latest head, want 2", n)
	}
	verify(t, a.Mirror, log, log.Head(300), 42)
}

// A record or a tile that is in the store and beyond our head makes a replica read the stored head, before
// it asks upstream: here it has none.
func TestBeyondReadsTheStore(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	store := bucketStore(t, server)
	board := func() *news.Board { return news.New(store, slog.New(slog.DiscardHandler)) } // which does not run
	openBeside := func(fetch sumdb.FetchFunc) *sumdb.Mirror {
		m, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: store, Fetch: fetch, News: board()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	a, empty := openBeside(log.Fetch), openBeside(nil)
	refresh(t, a)
	if head, err := empty.Latest(t.Context()); err != nil || !bytes.Equal(head, log.Head(300)) {
		t.Errorf("Latest of a replica without a head = %s, %v", head, err)
	}
	offline := openBeside(nil)
	log.Fill(1000)
	lookup(t, a, sumdbtest.Filler(900))
	if _, err := a.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 3, W: 200}); err != nil {
		t.Fatal(err)
	}
	if offline.Size() != 300 {
		t.Fatalf("the head is %d before it is needed", offline.Size())
	}
	if _, err := offline.Reply(t.Context(), lookup(t, offline, sumdbtest.Filler(900))); err != nil {
		t.Errorf("Reply to a record beyond our head: %v", err)
	}
	tiled := openBeside(nil)
	log.Fill(2000)
	refresh(t, a)
	if _, err := tiled.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 7, W: 208}); err != nil {
		t.Errorf("Tile beyond our head: %v", err)
	}
}

// Three replicas with many clients each build cold, over a slow bucket, while the database grows and shows
// heads of several sizes: no client gets an error, and what is stored is proved.
func TestReplicasStorm(t *testing.T) {
	log := newLog(t, 3000)
	server := s3test.Start(t)
	server.Fail(func(s3test.Request) s3test.Fault {
		return s3test.Fault{Wait: time.Duration(rand.IntN(6)) * time.Millisecond}
	})
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, newReplica(t, server, log))
	}
	var growing sync.Mutex // Log.Fill is for one goroutine
	grow := func() {
		growing.Lock()
		defer growing.Unlock()
		size := log.Size()
		log.Fill(size + rand.Int64N(40) + 1)
		log.ShowLookup([]int64{-1, size, size - 100, 2500}[rand.IntN(4)])
	}
	const modules, clients = 40, 50
	var build sync.WaitGroup
	for _, r := range replicas {
		for range clients {
			build.Go(func() {
				for _, id := range rand.Perm(modules) {
					if rand.IntN(25) == 0 {
						grow()
					}
					record, err := r.Lookup(t.Context(), sumdbtest.Filler(int64(id*60)))
					if err == nil {
						_, err = r.Reply(t.Context(), record)
					}
					if err != nil {
						t.Errorf("lookup: %v", err)
						return
					}
				}
			})
		}
	}
	build.Wait()
	if n := log.Requests("lookup/"); n > modules*len(replicas) {
		t.Errorf("%d lookups at upstream", n)
	}
	server.Fail(nil)
	for _, r := range replicas {
		r.stop()
	}
	checkStore(t, replicas[0].store, log)
	offline, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: replicas[0].store})
	if err != nil {
		t.Fatal(err)
	}
	defer offline.Close()
	for id := range int64(modules) {
		verify(t, offline, log, nil, id*60)
	}
}

// A fork that one replica sees freezes all of them, and each has the evidence. None takes what is new, all
// serve what they have. A replica that starts later is frozen, too.
func TestForkFreezesAll(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a, b, c := newReplica(t, server, log), newReplica(t, server, log), newReplica(t, server, log)
	lookup(t, a.Mirror, sumdbtest.Filler(10))
	await(t, "the head", func() bool { return b.Size() == 300 && c.Size() == 300 })
	fork := forkOf(log, 200, 400)
	a.showFork(fork)
	replicas := []*replica{a, b, c}
	await(t, "the freeze", func() bool { return b.frozen() && c.frozen() })
	replicas = append(replicas, newReplica(t, server, log))
	log.Fill(500)
	for i, r := range replicas {
		checkEvidence(t, log, fork, readEvidence(t, r.evidence), 300, 400)
		if err := r.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("replica %d: Refresh = %v, want ErrFrozen", i, err)
		}
		if _, err := r.Lookup(t.Context(), sumdbtest.Filler(20)); !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("replica %d: Lookup of what is not held = %v, want ErrFrozen", i, err)
		}
		verify(t, r.Mirror, log, nil, 10)
	}
	checkStore(t, a.store, log)
}

// A file of evidence that is moved away at one replica thaws none: it comes back, and the log names the
// command. Thaw thaws all, which go on with the heads that they have missed; the files keep their text
// under another name, and a replica that was away does not freeze them again.
func TestThawAll(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a, b, away := newReplica(t, server, log), newReplica(t, server, log), newReplica(t, server, log)
	refresh(t, a.Mirror)
	await(t, "the head", func() bool { return b.Size() == 300 && away.Size() == 300 })
	fork := forkOf(log, 200, 400)
	a.showFork(fork)
	await(t, "the freeze", func() bool { return b.frozen() && away.frozen() })
	away.stop()

	file, _ := b.Frozen()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := b.Recheck(t.Context()); err != nil || !b.frozen() {
		t.Fatalf("frozen is %v after the file was moved away at one replica: %v", b.frozen(), err)
	}
	checkEvidence(t, log, fork, readEvidence(t, b.evidence), 300, 400)
	if !b.logged.has("assay sumdb thaw " + testName + " --reason TEXT") {
		t.Error("the log does not name the command")
	}

	a.shown.Store(log)
	cleared, err := b.Thaw(t.Context(), "the database has explained it")
	if err != nil || len(cleared) != 1 || cleared[0] != file {
		t.Fatalf("Thaw = %q, %v", cleared, err)
	}
	await(t, "the thaw", func() bool { return !a.frozen() && !b.frozen() })
	log.Fill(600)
	refresh(t, a.Mirror)
	await(t, "the next head", func() bool { return b.Size() == 600 })
	back := startReplica(t, bucketStore(t, server), log, away.evidence)
	for name, r := range map[string]*replica{"a": a, "b": b, "back": back} {
		if r.frozen() || !r.hasFile("fork-", ".txt.cleared") || r.hasFile("fork-", ".txt") {
			t.Errorf("%s: frozen %v, evidence %q", name, r.frozen(), evidenceFiles(t, r.evidence))
		}
	}
	if _, err := a.Thaw(t.Context(), "again"); err == nil || !strings.Contains(err.Error(), "is not frozen") {
		t.Errorf("Thaw of what is not frozen = %v", err)
	}
	a.showFork(fork) // it is refused again
	await(t, "the next freeze", func() bool { return b.frozen() && back.frozen() })
}

// Without a mirror, a command thaws the running replicas by the store alone.
func TestThawByStore(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a := newReplica(t, server, log)
	refresh(t, a.Mirror)
	a.showFork(forkOf(log, 200, 400))
	await(t, "evidence in the store", func() bool { return len(server.Keys("s/sumdb/"+testName+"/forks")) == 1 })
	store := bucketStore(t, server)
	c := sumdb.Config{Store: store, News: news.New(store, slog.New(slog.DiscardHandler)), Evidence: t.TempDir()}
	if _, err := sumdb.Thaw(t.Context(), c, "other.example", "test"); err == nil {
		t.Error("Thaw of another database: no error")
	}
	if cleared, err := sumdb.Thaw(t.Context(), c, testName, "test"); err != nil || len(cleared) != 1 {
		t.Fatalf("Thaw = %q, %v", cleared, err)
	}
	await(t, "the thaw", func() bool { return !a.frozen() })
	state, err := store.State(t.Context(), "sumdb/"+testName+"/forks")
	if err != nil || !strings.Contains(string(state), `"reason":"test"`) {
		t.Errorf("the store has %s, %v, want the reason", state, err)
	}
}

// A store with open evidence is copied out of the bucket, and one process has it alone: it is frozen by a file,
// which can be moved away as any other. So it is when the evidence in the store is damaged.
func TestEvidenceMovesToOneProcess(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a := newReplica(t, server, log)
	refresh(t, a.Mirror)
	fork := forkOf(log, 200, 400)
	a.showFork(fork)
	await(t, "evidence in the store", func() bool { return len(server.Keys("s/"+forksState)) == 1 })
	a.stop()
	forked, err := a.store.State(t.Context(), forksState)
	if err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string][]byte{"evidence": forked, "damaged": []byte("{")} {
		store, dir := newStore(t), filepath.Join(t.TempDir(), "evidence")
		if err := store.SetState(t.Context(), forksState, state); err != nil {
			t.Fatal(err)
		}
		m := open(t, log, store, dir, log.Fetch)
		file, frozen := m.Frozen()
		if !frozen || len(evidenceFiles(t, dir)) != 1 {
			t.Fatalf("%s: Frozen = %q, %v; files %q", name, file, frozen, evidenceFiles(t, dir))
		}
		if name == "evidence" {
			checkEvidence(t, log, fork, readEvidence(t, dir), 300, 400)
		}
		if _, frozen := open(t, log, store, dir, log.Fetch).Frozen(); !frozen {
			t.Errorf("%s: not frozen after a restart", name)
		}
		if err := errors.Join(os.Remove(file), m.Recheck(t.Context())); err != nil {
			t.Fatal(err)
		}
		if _, frozen := m.Frozen(); frozen {
			t.Errorf("%s: frozen after the file was moved away", name)
		}
		if _, frozen := open(t, log, store, dir, log.Fetch).Frozen(); frozen {
			t.Errorf("%s: frozen again after a restart", name)
		}
	}
}

// With one process Thaw does what moving the file away does.
func TestThawAlone(t *testing.T) {
	log := newLog(t, 50)
	shown := log
	dir := t.TempDir()
	m := open(t, log, newStore(t), dir, fetchFrom(&shown))
	refresh(t, m)
	if _, err := m.Thaw(t.Context(), "test"); err == nil {
		t.Error("Thaw of a mirror that is not frozen: no error")
	}
	shown = forkOf(log, 10, 60)
	if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Fatalf("Refresh = %v", err)
	}
	file, _ := m.Frozen()
	if cleared, err := m.Thaw(t.Context(), "test"); err != nil || !slices.Equal(cleared, []string{file}) {
		t.Fatalf("Thaw = %q, %v, want %s", cleared, err, file)
	}
	if _, frozen := m.Frozen(); frozen {
		t.Error("still frozen")
	}
	checkEvidence(t, log, shown, readEvidence(t, dir), 50, 60)
	if _, frozen := open(t, log, newStore(t), dir, log.Fetch).Frozen(); frozen {
		t.Error("frozen after a restart")
	}
}

// A fork that is seen while the bucket is away freezes that replica at once, and the others when the bucket
// is back. A replica that is killed before has the file, and shares it when it starts again.
func TestForkWhileBucketIsAway(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed %v", killed), func(t *testing.T) {
			log := newLog(t, 300)
			server := s3test.Start(t)
			a, b := newReplica(t, server, log), newReplica(t, server, log)
			refresh(t, a.Mirror)
			if _, err := a.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 0, W: 256}); err != nil {
				t.Fatal(err)
			}
			await(t, "the head", func() bool { return b.Size() == 300 })
			server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Before: 403, Code: "AccessDenied"} })
			fork := forkOf(log, 299, 300)
			a.shown.Store(fork)
			if err := a.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
				t.Fatalf("Refresh = %v, want ErrFrozen", err)
			}
			checkEvidence(t, log, fork, readEvidence(t, a.evidence), 300, 300)
			if b.frozen() {
				t.Fatal("frozen by nothing")
			}
			if killed {
				a.stop()
			}
			server.Fail(nil)
			if killed {
				startReplica(t, bucketStore(t, server), log, a.evidence)
			}
			await(t, "the freeze", func() bool { return b.frozen() && len(evidenceFiles(t, b.evidence)) == 1 })
			checkEvidence(t, log, fork, readEvidence(t, b.evidence), 300, 300)
		})
	}
}

// silent is a store whose news get lost.
type silent struct{ storage.Store }

func (s silent) SwapState(ctx context.Context, name string, old, value []byte) error {
	if name == "news" {
		return errors.New("lost")
	}
	return s.Store.SwapState(ctx, name, old, value)
}

// The news of a fork are lost, because the replica that saw it ended before it told the others: they see
// its evidence before they take the next head.
func TestForkWithoutNews(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	b := newReplica(t, server, log)
	refresh(t, b.Mirror)
	a := startReplica(t, silent{bucketStore(t, server)}, log, t.TempDir())
	fork := forkOf(log, 200, 400)
	a.showFork(fork)
	await(t, "evidence in the store", func() bool { return len(server.Keys("s/sumdb/"+testName+"/forks")) == 1 })
	a.stop()
	log.Fill(350)
	if err := b.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) || b.Size() != 300 {
		t.Errorf("Refresh = %v, at %d, want ErrFrozen at 300", err, b.Size())
	}
	checkEvidence(t, log, fork, readEvidence(t, b.evidence), 300, 400)
}

// A replica whose store has evidence that cannot be read must not guess. If the bucket is away, it does not
// start; if the evidence is damaged, it is frozen until an administrator says otherwise.
func TestUnreadableEvidence(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	refresh(t, newReplica(t, server, log).Mirror)
	server.Fail(func(r s3test.Request) s3test.Fault {
		if strings.HasSuffix(r.Key, "/forks") {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	if _, err := tryReplica(t, bucketStore(t, server), log, t.TempDir()); err == nil || !strings.Contains(err.Error(), "evidence") {
		t.Errorf("Open without the evidence = %v", err)
	}
	server.Fail(nil)
	for name, damage := range map[string]func(storage.Store) error{
		"not a list": func(s storage.Store) error { return s.SetState(t.Context(), forksState, []byte("{")) },
		"empty":      func(s storage.Store) error { return s.SetState(t.Context(), forksState, nil) },
		"a name of no file": func(s storage.Store) error {
			return s.SetState(t.Context(), forksState, []byte(`[{"file":"`+testName+`-20260101T/../../../x","text":"x"}]`))
		},
		"damaged": func(s storage.Store) error {
			err := s.SetState(t.Context(), forksState, []byte("[]"))
			server.Change("s/"+forksState, func(value []byte) []byte { return value[:len(value)-1] })
			return err
		},
	} {
		if err := damage(bucketStore(t, server)); err != nil {
			t.Fatal(err)
		}
		r := newReplica(t, server, log)
		if file, frozen := r.Frozen(); !frozen || file != "" || len(evidenceFiles(t, r.evidence)) > 0 {
			t.Errorf("%s: Frozen = %q, %v; files %q", name, file, frozen, evidenceFiles(t, r.evidence))
		}
		if cleared, err := r.Thaw(t.Context(), "test"); err != nil || len(cleared) > 0 || r.frozen() {
			t.Errorf("%s: Thaw = %q, %v; frozen %v", name, cleared, err, r.frozen())
		}
		refresh(t, newReplica(t, server, log).Mirror)
	}
}

const forksState = "sumdb/" + testName + "/forks"

// The bucket is set back to a state before the fork, or before the thaw: the replicas share the evidence
// again, or are frozen again. Neither is lost.
func TestEvidenceInBucketThatWasSetBack(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a, b := newReplica(t, server, log), newReplica(t, server, log)
	refresh(t, a.Mirror)
	a.showFork(forkOf(log, 200, 400))
	await(t, "the freeze", b.frozen)
	key := server.Keys("s/" + forksState)[0]
	var frozen []byte
	server.Change(key, func(value []byte) []byte { frozen = bytes.Clone(value); return nil })
	if err := b.Recheck(t.Context()); err != nil || !b.frozen() || len(server.Keys(key)) == 0 {
		t.Fatalf("Recheck = %v; frozen %v, the store has %q", err, b.frozen(), server.Keys(key))
	}
	if _, err := b.Thaw(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	await(t, "the thaw", func() bool { return !a.frozen() })
	server.Change(key, func([]byte) []byte { return frozen })
	if err := errors.Join(a.Recheck(t.Context()), b.Recheck(t.Context())); err != nil || !a.frozen() || !b.frozen() {
		t.Errorf("Recheck = %v; frozen %v, %v", err, a.frozen(), b.frozen())
	}
}

// The bucket is set back to an older head, or loses it: a replica stores its own again, because that
// continues the older one. A fresh replica that has seen the older head takes the newer one over.
func TestHeadInBucketThatWasSetBack(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a := newReplica(t, server, log)
	refresh(t, a.Mirror)
	key := server.Keys("s/sumdb/" + testName + "/latest")[0]
	var old []byte
	server.Change(key, func(value []byte) []byte { old = bytes.Clone(value); return value })
	log.Fill(1000)
	refresh(t, a.Mirror)
	for _, before := range [][]byte{old, nil} {
		server.Change(key, func([]byte) []byte { return before })
		server.Change("s/news", func([]byte) []byte { return nil }) // set back, too: everything is looked at
		await(t, "the head is stored again", func() bool {
			value, err := a.store.State(t.Context(), headState)
			return err == nil && bytes.Contains(value, []byte("1000"))
		})
		if fresh := newReplica(t, server, log); fresh.Size() != 1000 {
			t.Errorf("a fresh replica begins at %d", fresh.Size())
		}
	}
	server.Change(key, func([]byte) []byte { return old })
	if fresh := newReplica(t, server, log); fresh.Size() != 300 && fresh.Size() != 1000 {
		t.Errorf("a fresh replica begins at %d", fresh.Size())
	}
	log.Fill(1500)
	refresh(t, a.Mirror)
	value, err := a.store.State(t.Context(), headState)
	if err != nil || !bytes.Contains(value, []byte("1500")) {
		t.Errorf("the store has %.100s, %v", value, err)
	}
	checkStore(t, a.store, log)
}

// The bucket is set back, and another process stores a head of a fork there: the replica refuses it, and
// freezes.
func TestForkInBucket(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	a := newReplica(t, server, log)
	refresh(t, a.Mirror)
	fork := forkOf(log, 200, 500)
	server.Change("s/"+headState, func([]byte) []byte { return nil })
	for _, key := range server.Keys("o/sumdb/") {
		server.Change(key, func([]byte) []byte { return nil })
	}
	store := bucketStore(t, server)
	victim, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: store, Fetch: fork.Fetch, News: news.New(store, slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	if err := victim.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the freeze", a.frozen)
	if a.Size() != 300 {
		t.Errorf("the head is %d", a.Size())
	}
	checkEvidence(t, log, fork, readEvidence(t, a.evidence), 300, 500)
}

// The evidence of a conflict that one replica finds is in the directory of each, and in the store.
func TestConflictIsShared(t *testing.T) {
	log := newLog(t, 100)
	mod := module.Version{Path: "example.com/moved", Version: "v1.0.0"}
	first := log.Add(mod, sumdbtest.Hash("first"), sumdbtest.Hash("mod"))
	second := log.Add(mod, sumdbtest.Hash("second"), sumdbtest.Hash("mod"))
	server := s3test.Start(t)
	a, b := newReplica(t, server, log), newReplica(t, server, log)
	log.Point(mod, second)
	late := prove2(t, a.Mirror, mod)
	log.Point(mod, first)
	lookup(t, b.Mirror, mod)
	if err := late.Store(t.Context(), nil); !errors.Is(err, sumdb.ErrInvalid) {
		t.Fatalf("Store of a second record = %v, want ErrInvalid", err)
	}
	await(t, "the evidence", func() bool { return b.hasFile("conflict-", ".txt") })
	if ours, theirs := readEvidence(t, a.evidence), readEvidence(t, b.evidence); ours != theirs || !strings.Contains(ours, sumdbtest.Hash("second")) {
		t.Errorf("evidence %q and %q", ours, theirs)
	}
	if keys := server.Keys("o/sumdb/" + testName + "/evidence/conflict-"); len(keys) != 1 {
		t.Errorf("the bucket has %q", keys)
	}
	if a.frozen() || b.frozen() {
		t.Error("frozen by a conflict")
	}
}

func prove2(t *testing.T, m *sumdb.Mirror, mod module.Version) *sumdb.Proof {
	t.Helper()
	p, err := m.Prove(t.Context(), mod)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Of several replicas one polls in each interval; a replica that starts beside them does not; and one that
// is alone among those that are stopped goes on.
func TestOnePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t, 300)
		store := newMemory(t)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		start := func(ctx context.Context) *sumdb.Mirror {
			board := news.New(store, slog.New(slog.DiscardHandler))
			m, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: store, Fetch: log.Fetch, News: board})
			if err != nil {
				t.Fatal(err)
			}
			running.Go(func() { board.Run(ctx) })
			running.Go(func() { _ = m.Run(ctx) })
			return m
		}
		var mirrors []*sumdb.Mirror
		for range 3 {
			mirrors = append(mirrors, start(ctx))
			time.Sleep(20 * time.Second)
		}
		const hours = 5
		before := log.Requests("latest")
		if before != 1 {
			t.Errorf("%d polls at the start, want 1", before)
		}
		for range hours {
			log.Fill(log.Size() + 10)
			time.Sleep(time.Hour)
			for _, m := range mirrors {
				if m.Size() != log.Size() {
					t.Errorf("a head of %d after an hour, want %d", m.Size(), log.Size())
				}
			}
		}
		if n := log.Requests("latest") - before; n < 5*hours || n > 7*hours {
			t.Errorf("%d polls in %d hours, want about 6 in each", n, hours)
		}
		cancel()
		running.Wait()
		for _, m := range mirrors {
			m.Close()
		}
		ctx, cancel = context.WithCancel(t.Context())
		last := start(ctx)
		before = log.Requests("latest")
		time.Sleep(time.Hour)
		if n := log.Requests("latest") - before; n < 5 || n > 7 {
			t.Errorf("%d polls of one replica in an hour", n)
		}
		cancel()
		running.Wait()
		last.Close()
	})
}

// Replicas that have nothing to do send no requests to the bucket but those of their boards.
func TestIdleReplicas(t *testing.T) {
	log := newLog(t, 300)
	server := s3test.Start(t)
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, newReplica(t, server, log))
	}
	refresh(t, replicas[0].Mirror)
	await(t, "the head", func() bool { return replicas[1].Size() == 300 && replicas[2].Size() == 300 })
	looks := make(chan struct{}, 1000)
	var idle atomic.Bool
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Key == "s/news" && r.Op == "GET" {
			looks <- struct{}{}
		} else if idle.Load() {
			t.Errorf("request %s %s of an idle replica", r.Op, r.Key)
		}
		return s3test.Fault{}
	})
	for n := range 30 {
		idle.Store(n >= 21) // by then what is left of the advance has ended
		<-looks
	}
}

// What a lookup that is not held costs: the record and its tile are looked for once each, and what is
// stored is one request each. Nothing that the bucket has is fetched from upstream.
func TestRequestsOfProof(t *testing.T) {
	log := newLog(t, 70_000)
	server := s3test.Start(t)
	a, b := newReplica(t, server, log), newReplica(t, server, log)
	lookup(t, a.Mirror, sumdbtest.Filler(1000))
	await(t, "the head", func() bool { return b.Size() == 70_000 })
	var mu sync.Mutex
	seen := map[string]int{}
	count := func(do func()) map[string]int {
		mu.Lock()
		clear(seen)
		mu.Unlock()
		do()
		mu.Lock()
		defer mu.Unlock()
		got := map[string]int{}
		for what, n := range seen {
			got[what] = n
		}
		return got
	}
	server.Fail(func(r s3test.Request) s3test.Fault {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(r.Key, "o/") {
			seen[r.Op+" "+strings.TrimPrefix(r.Key, "o/sumdb/"+testName+"/")]++
		}
		return s3test.Fault{}
	})
	got := count(func() { keep(t, prove(t, a.Mirror, 2000), gomod(2000)) })
	want := map[string]int{
		"GET lookup/filler.example/m2000@v1.0.0": 1, "PUT lookup/filler.example/m2000@v1.0.0": 1,
		"GET tile/8/0/007": 1, "PUT tile/8/0/007": 1, "GET tile/8/1/000": 1, "PUT o/" + gomod(2000).Info.Key: 1,
	}
	delete(got, "PUT o/"+gomod(2000).Info.Key)
	delete(want, "PUT o/"+gomod(2000).Info.Key)
	for what, n := range got {
		if n != want[what] && !strings.HasPrefix(what, "PUT o/") {
			t.Errorf("%d × %s, want %d", n, what, want[what])
		}
	}
	before := log.Requests("")
	got = count(func() { lookup(t, b.Mirror, sumdbtest.Filler(2000)) })
	if n := log.Requests("") - before; n != 0 || len(got) != 1 || got["GET lookup/filler.example/m2000@v1.0.0"] != 1 {
		t.Errorf("a record that the bucket has: %d requests to upstream, %v to the bucket", n, got)
	}
}
