package content_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb"
)

// replica is a Library that shares a bucket with others.
type replica struct {
	*content.Library
	t     *testing.T
	world *proxytest.World
	store storage.Store
	board *news.Board
}

// client is a client without a credential.
type client string

func (c client) Key() string         { return string(c) }
func (c client) Request() string     { return "" }
func (c client) Site() string        { return string(c) }
func (c client) Keep(int) error      { return nil }
func (c client) HasCredential() bool { return false }
func (c client) Covers(string) bool  { return true }
func (c client) In(string) bool      { return false }
func (c client) Limited() bool       { return false }

// newReplica makes a replica on the bucket of server, whose upstream shows a fault of world; "off" is none.
func newReplica(t *testing.T, server *s3test.Server, world *proxytest.World, fault string, change ...func(*content.Config)) *replica {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	log, dir := slog.New(slog.DiscardHandler), t.TempDir()
	store, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: server.URL, Region: "us-east-1", PathStyle: true, Spool: filepath.Join(dir, "spool"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	list := "off"
	if fault != "off" {
		list = world.URL(fault)
	}
	chain, err := fetch.New(fetch.Config{List: list, RedirectHosts: []string{"127.0.0.1"}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	var ask sumdb.FetchFunc
	if fault != "off" {
		ask = chain.SumDB(proxytest.Database, "http://127.0.0.1:1", true)
	}
	mirror, err := sumdb.Open(t.Context(), sumdb.Config{Key: world.GOSUMDB(), Store: store, Fetch: ask, Evidence: filepath.Join(dir, "evidence"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	board := news.New(store, log)
	c := content.Config{
		Store: store, Databases: []*sumdb.Mirror{mirror}, News: board, Logger: log,
		Scratch: filepath.Join(dir, "scratch"), Evidence: filepath.Join(dir, "evidence"),
		Times: content.Times{Answer: time.Minute}, // the machine may be busy
	}
	for _, change := range change {
		change(&c)
	}
	policy, err := privacy.New("")
	if err != nil {
		t.Fatal(err)
	}
	lib, err := content.New(t.Context(), c, content.Settings{Upstream: chain, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	board.Subscribe(content.PurgeKind, func(_ context.Context, changes news.Changes) error { lib.Purged(changes); return nil })
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { board.Run(ctx) })
	t.Cleanup(func() {
		closing, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		_ = lib.Close(closing) // what hangs is aborted
		cancel()
		running.Wait()
		chain.Close()
		mirror.Close()
		store.Close()
	})
	return &replica{lib, t, world, store, board}
}

// get returns what a client gets for a path.
func (r *replica) get(path string) ([]byte, error) {
	req, err := request.Parse(path)
	if err != nil {
		return nil, err
	}
	q := &content.Ask{Client: client("192.0.2.1"), Req: req, Path: path}
	o := r.Origin(req.Module)
	if err := o.Admit(r.t.Context(), q); err != nil {
		return nil, err
	}
	if !req.Immutable() {
		m, _, err := o.Answer(r.t.Context(), q)
		if err != nil {
			return nil, err
		}
		return m.Text(), nil
	}
	got, err := o.Object(r.t.Context(), q, false)
	if err != nil {
		return nil, err
	}
	defer got.Object.Close()
	return io.ReadAll(got.Object)
}

// want gets a path, which must be as in the world.
func (r *replica) want(path string) {
	r.t.Helper()
	if got, err := r.get(path); err != nil || !bytes.Equal(got, r.world.File(path)) {
		r.t.Errorf("%s: %.100q, %v", path, got, err)
	}
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// addModules adds n modules, and returns the paths of their files.
func addModules(world *proxytest.World, n int) (paths []string) {
	for i := range n {
		m := module.Version{Path: fmt.Sprintf("example.com/m%d", i), Version: "v1.0.0"}
		world.AddModule(m, []txtar.File{{Name: "m.go", Data: []byte("package m\n")}})
		for _, file := range []string{"info", "mod", "zip"} {
			paths = append(paths, m.Path+"/@v/v1.0.0."+file)
		}
	}
	return paths
}

const zipPath = "example.com/m0/@v/v1.0.0.zip"

// Clients of three replicas that request the same at the same time cost the upstream one request for each object.
// No lease is left.
func TestReplicasFetchOnce(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	paths := addModules(world, 30)
	var all []*replica
	for range 3 {
		r := newReplica(t, server, world, "ok")
		r.LeaseTime(time.Minute) // the machine may be busy
		all = append(all, r)
	}
	var clients sync.WaitGroup
	for _, r := range all {
		for range 5 {
			clients.Go(func() {
				for _, path := range paths {
					r.want(path)
				}
			})
		}
	}
	clients.Wait()
	twice := 0
	for _, path := range paths {
		if n := world.Count(path); n != 1 {
			t.Logf("%d requests for %s", n, path)
			twice += n - 1
		}
	}
	if twice > len(paths)*2/100 {
		t.Errorf("%d of %d objects were requested again", twice, len(paths))
	}
	eventually(t, "leases are left", func() bool { return len(server.Keys("s/lease/")) == 0 })
	own := 0
	for _, r := range all {
		own += r.LeaseCount("own")
	}
	if own == 0 {
		t.Error("the metrics count no fetch with a lease")
	}
}

// An object whose lease a killed replica has left is fetched when the lease has not changed for its time, and the
// lease is removed.
func TestLeaseOfKilled(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 1)
	r := newReplica(t, server, world, "ok")
	r.LeaseTime(6 * time.Second)
	if err := content.LeaveLease(t.Context(), r.store, zipPath); err != nil {
		t.Fatal(err)
	}
	r.want(zipPath)
	eventually(t, "the lease is left", func() bool { return len(server.Keys("s/lease/")) == 0 })
}

// A lease whose owner lives longer than its time is not taken: the other replica waits.
func TestLeaseIsKept(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 1)
	a, b := newReplica(t, server, world, "gated"), newReplica(t, server, world, "ok")
	for _, r := range []*replica{a, b} {
		r.LeaseTime(6 * time.Second) // a busy machine is late by less; 4 thirds are less than an idle upstream may take
	}
	var clients sync.WaitGroup
	clients.Go(func() { a.want(zipPath) })
	eventually(t, "the first one does not fetch", func() bool { return world.Count(zipPath) == 1 })
	clients.Go(func() { b.want(zipPath) })
	name := content.LeaseOf(zipPath)
	eventually(t, "the lease does not change", func() bool {
		value, err := b.store.State(t.Context(), name)
		return err == nil && bytes.Contains(value, []byte(" 4 ")) // 4 thirds of its time are over
	})
	world.OpenGate()
	clients.Wait()
	if n := world.Count(zipPath); n != 1 {
		t.Errorf("%d requests", n)
	}
	if a.LeaseCount("own") == 0 || b.LeaseCount("shared") == 0 {
		t.Errorf("the metrics count %d own leases, and %d fetches that were shared", a.LeaseCount("own"), b.LeaseCount("shared"))
	}
}

// A zip that another replica fetches is waited for longer than other objects, and not so long that an own fetch would
// come too late for the clients.
func TestPatience(t *testing.T) {
	const answer = 28 * time.Second
	if d := content.Patience(request.Zip, answer); d < answer/2 || d > answer*3/4 {
		t.Errorf("a zip is waited for for %v", d)
	}
	if d := content.Patience(request.Mod, answer); d > answer/3 {
		t.Errorf("a go.mod is waited for for %v", d)
	}
}

// What killed replicas have left of leases is removed, and no lease that may be in use.
func TestSweepLeases(t *testing.T) {
	server := s3test.Start(t)
	r := newReplica(t, server, proxytest.New(t), "off")
	for name, age := range map[string]time.Duration{"lease/00/01": 2 * time.Hour, "lease/00/02": -2 * time.Hour, "lease/00/03": time.Minute, "lease/00/04": 0} {
		if err := r.store.SetState(t.Context(), name, fmt.Appendf(nil, "lease nonce 3 %d\nkey", time.Now().Add(-age).Unix())); err != nil {
			t.Fatal(err)
		}
	}
	store := r.store.(*s3.DB)
	if n, err := content.SweepLeases(t.Context(), store); err != nil || n != 2 {
		t.Errorf("SweepLeases = %d, %v, want 2", n, err)
	}
	if left := server.Keys("s/lease/"); !slices.Equal(left, []string{"s/lease/00/03", "s/lease/00/04"}) {
		t.Errorf("left: %q", left)
	}
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "DELETE" {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	if err := content.LeaveLease(t.Context(), store, zipPath); err != nil {
		t.Fatal(err)
	}
	if n, err := content.SweepLeases(t.Context(), store); err != nil || n != 0 {
		t.Errorf("SweepLeases = %d, %v, want 0", n, err)
	}
}

// A fetch that failed releases its lease, and the next replica fetches.
func TestLeaseAfterFailure(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 1)
	a, b := newReplica(t, server, world, "500"), newReplica(t, server, world, "ok")
	if _, err := a.get(zipPath); err == nil {
		t.Error("an upstream that answers 500: no error")
	}
	b.want(zipPath)
}

// Without leases, because the store refuses them or does not answer, objects are fetched all the same.
func TestNoLeases(t *testing.T) {
	for name, fault := range map[string]s3test.Fault{"refused": {Before: 403, Code: "AccessDenied"}, "slow": {Wait: 5 * time.Second}, "lost": {After: 500}} {
		t.Run(name, func(t *testing.T) {
			world, server := proxytest.New(t), s3test.Start(t)
			paths := addModules(world, 3)
			r := newReplica(t, server, world, "ok")
			server.Fail(func(r s3test.Request) s3test.Fault {
				if strings.HasPrefix(r.Key, "s/lease/") {
					return fault
				}
				return s3test.Fault{}
			})
			for _, path := range paths {
				r.want(path)
			}
			if n := r.LeaseCount("none"); n == 0 {
				t.Error("the metrics count no fetch without a lease")
			}
		})
	}
}

// One request for a lease fails while others are answered: the next fetches have leases.
func TestOneLeaseFails(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	paths := addModules(world, 6)
	r := newReplica(t, server, world, "ok")
	r.LeaseTime(time.Minute)
	failing, failed, others := "s/"+content.LeaseName(paths[0]), make(chan struct{}), make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && r.Key == failing {
			failing = ""
			close(failed)
			return s3test.Fault{Hold: others, Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	var clients sync.WaitGroup
	clients.Go(func() { r.want(paths[0]) })
	<-failed
	r.want(paths[1])
	close(others)
	clients.Wait()
	r.want(paths[2])
	if none, own := r.LeaseCount("none"), r.LeaseCount("own"); none != 1 || own < 2 {
		t.Errorf("%v fetches had no lease, and %v one; want 1, and 2 or more", none, own)
	}
}

// A fill that waits for another replica holds no place.
func TestWaitingTakesNoPlace(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 2)
	a := newReplica(t, server, world, "gated")
	b := newReplica(t, server, world, "ok", func(c *content.Config) { c.Fills.Zips = 1 })
	var clients sync.WaitGroup
	clients.Go(func() { a.want(zipPath) })
	eventually(t, "the first one does not fetch", func() bool { return world.Count(zipPath) == 1 })
	clients.Go(func() { b.want(zipPath) })
	eventually(t, "the second one does not wait", func() bool { return b.Places()["zips"].Stats().Running == 0 && server.Requests("GET") > 0 })
	b.want("example.com/m1/@v/v1.0.0.zip")
	world.OpenGate()
	clients.Wait()
	if n := world.Count(zipPath); n != 1 {
		t.Errorf("%d requests for what was waited for", n)
	}
}

// Replicas ask for a list once, together, and use each other's answers, also while one of them remembers that there
// was none.
func TestReplicasShareAnswers(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 1)
	var all []*replica
	for range 3 {
		all = append(all, newReplica(t, server, world, "ok", func(c *content.Config) { c.Times.Fresh = time.Hour }))
	}
	const list, latest, late = "example.com/m0/@v/list", "example.com/m0/@latest", "example.com/late/@v/list"
	var clients sync.WaitGroup
	for _, r := range all {
		clients.Go(func() { r.want(list); r.want(latest) })
	}
	clients.Wait()
	for _, r := range all {
		r.want(list)
	}
	for _, path := range []string{list, latest} {
		if n := world.Count(path); n != 1 {
			t.Errorf("%d requests for %s", n, path)
		}
	}
	if _, err := all[0].get(late); !content.IsAbsence(err) {
		t.Errorf("a list that is not there: %v", err)
	}
	world.AddModule(module.Version{Path: "example.com/late", Version: "v1.0.0"}, nil)
	all[1].want(late)
	world.ResetCounts()
	all[0].want(late)
	if n := world.Count(late); n != 0 {
		t.Errorf("%d requests for what another replica has fetched", n)
	}
}

// An answer that is no longer current is renewed once, for all replicas.
func TestReplicasRenewOnce(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 1)
	const list = "example.com/m0/@v/list"
	old := newReplica(t, server, world, "ok")
	old.want(list)
	name := storage.Key(list)
	value, err := old.store.State(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := bytes.Cut(value, []byte("\n"))
	aged := fmt.Appendf(nil, "%d\n%s", time.Now().Add(-30*time.Minute).UnixMilli(), text)
	if err := old.store.SetState(t.Context(), name, aged); err != nil {
		t.Fatal(err)
	}
	world.ResetCounts()
	var clients sync.WaitGroup
	for range 3 {
		r := newReplica(t, server, world, "ok")
		clients.Go(func() { r.want(list) })
	}
	clients.Wait()
	if n := world.Count(list); n != 1 {
		t.Errorf("%d requests for a new answer", n)
	}
}

// What one replica has purged leaves the memory of the others, and a replica that has missed news drops all of it.
func TestPurgeReachesReplicas(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	paths := addModules(world, 2)
	a, b := newReplica(t, server, world, "ok"), newReplica(t, server, world, "ok")
	hot := func(path string) bool { return b.Origin("example.com/m0").Hot(path) != nil }
	for _, path := range paths {
		b.want(path)
		b.want(path)
	}
	mod := module.Version{Path: "example.com/m0", Version: "v1.0.0"}
	items, err := content.Purge(t.Context(), a.store, mod)
	if err != nil || len(items) != 3 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	if !hot("example.com/m0/@v/v1.0.0.mod") || !hot("example.com/m1/@v/v1.0.0.mod") {
		t.Fatal("nothing is in memory")
	}
	if err := content.TellPurged(t.Context(), a.board, items); err != nil {
		t.Fatal(err)
	}
	eventually(t, "purged files are still in memory", func() bool {
		return !hot("example.com/m0/@v/v1.0.0.mod") && !hot("example.com/m0/@v/v1.0.0.info") && !hot(zipPath)
	})
	b.want("example.com/m1/@v/v1.0.0.mod")
	b.Purged(news.Changes{All: true})
	if hot("example.com/m1/@v/v1.0.0.mod") {
		t.Error("after missed news there is something in memory")
	}
}

// A list made of held versions has what another replica has stored, without news about each object.
func TestHeldListOfReplicas(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	addModules(world, 1)
	a, b := newReplica(t, server, world, "ok"), newReplica(t, server, world, "off")
	a.want("example.com/m0/@v/v1.0.0.info")
	const list = "example.com/m0/@v/list"
	if got, err := b.get(list); string(got) != "v1.0.0\n" {
		t.Errorf("list %q, %v", got, err)
	}
	world.AddModule(module.Version{Path: "example.com/m0", Version: "v1.1.0"}, nil)
	a.want("example.com/m0/@v/v1.1.0.info")
	eventually(t, "the list stays old", func() bool {
		got, err := b.get(list)
		return err == nil && string(got) == "v1.0.0\nv1.1.0\n"
	})
}

// Absences that several replicas save at the same time are all kept, under one secret. A burst of them is written
// in few requests.
func TestAbsencesOfReplicas(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	a, b := newReplica(t, server, world, "ok"), newReplica(t, server, world, "ok")
	var keys []string
	for i := range 600 {
		keys = append(keys, fmt.Sprintf("example.com/none%d/@v/list", i))
	}
	server.Fail(nil)
	a.NoteAbsences(keys[:300]...)
	b.NoteAbsences(keys[300:]...)
	eventually(t, "nothing is written", func() bool { return len(server.Keys("s/absent/")) > 1 })
	if n := server.Requests("PUT"); n > 2*(16+1)+20 { // of each replica 16 states and the secret; some that met another
		t.Errorf("%d PUTs for a burst", n)
	}
	for _, r := range []*replica{a, b} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
	late := newReplica(t, server, world, "ok")
	for _, key := range keys {
		if stated, err := late.Absence(t.Context(), key); err != nil || stated.IsZero() {
			t.Fatalf("%s: %v, %v", key, stated, err)
		}
	}
}

// A bucket that is away makes errors, and nothing of it sticks.
func TestReplicaWithoutBucket(t *testing.T) {
	world, server := proxytest.New(t), s3test.Start(t)
	paths := addModules(world, 2)
	r := newReplica(t, server, world, "ok")
	r.want(paths[0])
	r.want(paths[0])
	server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Before: 403, Code: "AccessDenied"} })
	if _, err := r.get(paths[1]); err == nil || content.IsAbsence(err) {
		t.Errorf("without a bucket: %v", err)
	}
	if r.Origin("example.com/m0").Hot(paths[0]) == nil {
		t.Error("what was requested before is not in memory")
	}
	if err := r.Pushed(t.Context(), "https://git.example/x"); err == nil {
		t.Error("Pushed without a bucket: no error")
	}
	server.Fail(nil)
	for _, path := range paths {
		r.want(path)
	}
	if err := r.Pushed(t.Context(), "https://git.example/x"); err != nil {
		t.Error(errors.Unwrap(err), err)
	}
}
