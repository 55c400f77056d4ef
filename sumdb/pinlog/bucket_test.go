package pinlog_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// TestMain gives all stores in buckets credentials of their own, and hides those of the user that runs the
// tests.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "testaccess", "AWS_SECRET_ACCESS_KEY": "testsecret123", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "", "AWS_SESSION_TOKEN": "",
	} {
		os.Setenv(name, value)
	}
	os.Exit(m.Run())
}

// fleet is several replicas of a log in one bucket, and a witness of all heads that they show.
type fleet struct {
	t      testing.TB
	server *s3test.Server // nil: the bucket is elsewhere
	url    string
	dir    string
	key    string // file
	witness
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	server := s3test.Start(t)
	f := newFleetAt(t, server.URL)
	f.server = server
	return f
}

// newFleetAt returns a fleet whose bucket is on the server at url.
func newFleetAt(t testing.TB, url string) *fleet {
	t.Helper()
	f := &fleet{t: t, url: url, dir: t.TempDir()}
	f.key = filepath.Join(f.dir, "key")
	secret, verifier, err := note.GenerateKey(rand.Reader, logName)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.key, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.witness = witness{t: t, key: verifier}
	return f
}

// store opens the bucket, as a process of its own does.
func (f *fleet) store() storage.Store {
	f.t.Helper()
	store, err := s3.Open(context.Background(), s3.Options{Bucket: "bucket", Prefix: "store", Endpoint: f.url, PathStyle: true, Spool: f.t.TempDir()})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { store.Close() })
	return store
}

// config is that of the replica with a data directory of this name.
func (f *fleet) config(name string) pinlog.Config {
	return pinlog.Config{Dir: filepath.Join(f.dir, name), Bucket: &pinlog.Bucket{Store: f.store(), Key: f.key, KeyUnused: true}}
}

// create begins the log in the bucket.
func (f *fleet) create() {
	f.t.Helper()
	if _, err := pinlog.Create(context.Background(), f.config("admin")); err != nil {
		f.t.Fatal(err)
	}
}

// begin opens the first replica of a new log.
func (f *fleet) begin(name string) *pinlog.Log {
	f.t.Helper()
	f.create()
	return openLog(f.t, f.trusting(name))
}

// witness keeps every head that it is shown, and each of its entries.
type witness struct {
	t   testing.TB
	key string

	mu    sync.Mutex
	heads map[string]bool
}

// see keeps the newest head of l. It is nil if l has none.
func (w *witness) see(l *pinlog.Log) []byte {
	head, err := l.Latest(context.Background())
	if err != nil {
		return nil
	}
	w.keep(head)
	return head
}

func (w *witness) keep(head []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.heads == nil {
		w.heads = map[string]bool{}
	}
	w.heads[string(head)] = true
}

// check checks that all heads are of one log: that of the entries of l, whose tree is computed again here.
func (w *witness) check(l *pinlog.Log) {
	w.t.Helper()
	w.see(l)
	leaves := []tlog.Hash{}
	hashes := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		all := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			all[i] = leaves[x]
		}
		return all, nil
	})
	size := int64(0)
	for e, err := range l.Entries("") {
		if err != nil {
			w.t.Fatal(err)
		}
		more, err := tlog.StoredHashes(size, e.Record().Text, hashes)
		if err != nil {
			w.t.Fatal(err)
		}
		leaves = append(leaves, more...)
		size++
	}
	var trees []tlog.Tree
	for head := range w.heads {
		trees = append(trees, treeOf(w.t, w.key, []byte(head)))
	}
	slices.SortFunc(trees, func(a, b tlog.Tree) int { return int(a.N - b.N) })
	for i, tree := range trees {
		if tree.N > size {
			w.t.Fatalf("a head of %d entries was shown, and the log has %d", tree.N, size)
		}
		if root, err := tlog.TreeHash(tree.N, hashes); err != nil || root != tree.Hash {
			w.t.Errorf("the head of %d entries is not of the log: %v", tree.N, err)
		}
		if i == 0 || trees[i-1].N == 0 {
			continue
		}
		old := trees[i-1]
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err == nil {
			err = tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
		}
		if err != nil {
			w.t.Errorf("the head of %d entries contradicts the one of %d: %v", tree.N, old.N, err)
		}
	}
}

// refuses checks that l signs nothing: a pin is refused, and the newest head is one that was shown before.
func (f *fleet) refuses(l *pinlog.Log, want string) {
	f.t.Helper()
	if _, err := l.Pin(f.t.Context(), entry(999_999)); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), want) {
		f.t.Errorf("Pin: %v, want a refusal with %q", err, want)
	}
	if l.Refuses() == nil {
		f.t.Error("the log does not refuse")
	}
	if head, err := l.Latest(f.t.Context()); err == nil && !f.heads[string(head)] {
		f.t.Errorf("a new head was signed: %s", head)
	}
}

// fill pins until l has size entries, and shows each head to the witness.
func (f *fleet) fill(l *pinlog.Log, size int64) {
	f.t.Helper()
	for f.see(l); l.Size() < size; f.see(l) {
		pinOne(f.t, l, entry(l.Size()))
	}
}

// Three replicas that pin at the same time make one log, and each has all of it.
func TestReplicas(t *testing.T) {
	t.Parallel()
	testReplicas(t, newFleet(t))
}

func testReplicas(t *testing.T, f *fleet) {
	logs := []*pinlog.Log{f.begin("r0")}
	for i := 1; i < 3; i++ {
		logs = append(logs, openLog(t, f.config(fmt.Sprintf("r%d", i))))
	}
	var group sync.WaitGroup
	const writers, each = 4, 20
	for i, l := range logs {
		for w := range writers {
			group.Go(func() {
				for n := range int64(each) {
					// Half of the versions are pinned by all replicas.
					number := n*writers + int64(w)
					if n%2 == 0 {
						number += int64(i+1) * 1000
					}
					e, err := l.Pin(t.Context(), entry(number))
					if err != nil {
						t.Errorf("replica %d: Pin(%d): %v", i, number, err)
						return
					}
					if head := f.see(l); treeOf(t, f.witness.key, head).N <= e.ID {
						t.Errorf("replica %d: entry %d is not under the head", i, e.ID)
					}
				}
			})
		}
	}
	group.Wait()
	overtaken := 0.0
	for _, l := range logs {
		overtaken += testutil.ToFloat64(l.Metrics()[1])
	}
	if overtaken == 0 {
		t.Error("no replica was overtaken, as the metrics say")
	}
	const size = each/2*writers + 3*each/2*writers
	for i, l := range logs {
		if err := l.Refresh(t.Context()); err != nil {
			t.Errorf("replica %d: Refresh: %v", i, err)
		}
		if l.Size() != size {
			t.Errorf("replica %d has %d entries, want %d", i, l.Size(), size)
		}
		f.check(l)
		if err := l.Check(t.Context()); err != nil {
			t.Errorf("replica %d: Check: %v", i, err)
		}
	}
	if again := openLog(t, f.trusting("r3")); again.Size() != size {
		t.Errorf("a new replica has %d entries, want %d", again.Size(), size)
	}
}

// trusting is config with the word of the administrator.
func (f *fleet) trusting(name string) pinlog.Config {
	c := f.config(name)
	c.Bucket.Trust = true
	return c
}

// Of two replicas that pin the same version with different hashes at the same time, one wins, and the other
// names both.
func TestReplicasConflict(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.begin("a"), openLog(t, f.config("b"))
	for n := range int64(20) {
		mine, other := entry(n), entry(n)
		other.Zip = sumdbtest.Hash("other")
		var errs [2]error
		var group sync.WaitGroup
		group.Go(func() { _, errs[0] = a.Pin(t.Context(), mine) })
		group.Go(func() { _, errs[1] = b.Pin(t.Context(), other) })
		group.Wait()
		lost := slices.IndexFunc(errs[:], func(err error) bool { return err != nil })
		var conflict *pinlog.ConflictError
		if lost < 0 || !errors.As(errs[lost], &conflict) || errs[1-lost] != nil {
			t.Fatalf("errors %v, want one conflict", errs)
		}
		hashes := []string{mine.Zip, other.Zip}
		if conflict.Have.Zip != hashes[1-lost] || conflict.Got.Zip != hashes[lost] {
			t.Errorf("the conflict has %s and got %s, want %s and %s", conflict.Have.Zip, conflict.Got.Zip, hashes[1-lost], hashes[lost])
		}
		for _, l := range []*pinlog.Log{a, b} {
			if e, err := l.Find(t.Context(), mine.Module); err != nil || e.Zip != hashes[1-lost] {
				t.Errorf("Find = %v, %v, want the winner's", e, err)
			}
			f.see(l)
		}
	}
	f.check(a)
}

// A replica finds what another one has pinned, without news, and serves the tiles of a head that a client has
// from another one.
func TestReplicaFinds(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.begin("a"), openLog(t, f.config("b"))
	e := pinOne(t, a, entry(1))
	if found, err := b.Find(t.Context(), e.Module); err != nil || found.Zip != e.Zip {
		t.Errorf("Find = %v, %v", found, err)
	}
	pinOne(t, a, entry(2))
	if _, err := b.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 0, W: 2}); err != nil {
		t.Errorf("Tile: %v", err)
	}
	if !bytes.Equal(latest(t, a), latest(t, b)) {
		t.Error("the heads of two replicas differ")
	}
	e = pinOne(t, a, entry(3))
	if _, err := b.Reply(t.Context(), e.Record()); err != nil {
		t.Errorf("Reply: %v", err)
	}
	if b.Shows(entry(4).Module) {
		t.Error("an entry is shown that is not there")
	}
	if _, err := b.Find(t.Context(), module.Version{Path: "no.example/x", Version: "v1.0.0"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find of an absent version: %v", err)
	}
}

// A log in a bucket begins once, by Create alone, and then needs no word in the first hour.
func TestBucketBegins(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, c := range []pinlog.Config{f.config("fresh"), f.trusting("trusting")} {
		f.refuses(openLog(t, c), "assay log create")
	}
	if keys := f.server.Keys("store/o/log/"); len(keys) > 0 {
		t.Errorf("a log that refuses has written %v", keys)
	}
	var group sync.WaitGroup
	created := make([]error, 4)
	for i := range created {
		c := f.config(fmt.Sprintf("r%d", i))
		group.Go(func() { _, created[i] = pinlog.Create(t.Context(), c) })
	}
	group.Wait()
	for _, err := range created {
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create: %v", err)
		}
	}
	if !slices.Contains(created, nil) {
		t.Errorf("none of several at the same time has created the log: %v", created)
	}
	var logs []*pinlog.Log
	for i := range created {
		logs = append(logs, openLog(t, f.config(fmt.Sprintf("s%d", i))))
	}
	for i, l := range logs {
		pinOne(t, l, entry(int64(i)))
		f.see(l)
	}
	f.check(logs[3])
	f.refuses(openLog(t, f.config("late")), "log-trust-bucket")
}

// snapshot returns all that a bucket has, and a function that puts it back.
func (f *fleet) snapshot() (restore func()) {
	values := map[string][]byte{}
	for _, key := range f.server.Keys("") {
		f.server.Change(key, func(b []byte) []byte { values[key] = bytes.Clone(b); return b })
	}
	return func() {
		for _, key := range f.server.Keys("") {
			f.server.Change(key, func([]byte) []byte { return nil })
		}
		for key, value := range values {
			f.server.Change(key, func([]byte) []byte { return bytes.Clone(value) })
		}
	}
}

// A bucket that is set back to any earlier state, or emptied, makes no replica sign: not one that runs, not
// one that is started again, and not a new one, of which there is no guard, a guard in a file, or one in
// another bucket.
func TestBucketSetBack(t *testing.T) {
	t.Parallel()
	for state := range 6 {
		t.Run(fmt.Sprint(state), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			elsewhere := newFleet(t).store()
			guarded := func(name string) pinlog.Config {
				c := f.trusting(name)
				c.Guard, c.Bucket.Guard = filepath.Join(f.dir, "guard-file"), elsewhere
				return c
			}
			restores := []func(){f.snapshot()}
			f.create()
			restores = append(restores, f.snapshot())
			a, err := pinlog.Open(t.Context(), guarded("a"))
			if err != nil {
				t.Fatal(err)
			}
			f.see(a)
			for n := range int64(4) {
				if n > 0 {
					restores = append(restores, f.snapshot())
				}
				pinOne(t, a, entry(n))
				f.see(a)
			}
			b := openLog(t, f.trusting("b"))
			f.see(b)
			restores = append(restores, f.snapshot())
			pinOne(t, a, entry(10))
			pinOne(t, a, entry(11))
			f.see(a)
			restores[state]()

			f.refuses(a, "was set back")
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			f.refuses(openLog(t, f.config("a")), "was set back")
			f.refuses(openLog(t, f.config("new")), "")
			onlyFile, onlyState := f.trusting("file"), f.trusting("state")
			onlyFile.Guard, onlyState.Bucket.Guard = filepath.Join(f.dir, "guard-file"), elsewhere
			f.refuses(openLog(t, onlyFile), "was set back")
			f.refuses(openLog(t, onlyState), "was set back")
			// The evidence of the others stops one that has seen nothing, whatever its administrator says.
			f.refuses(openLog(t, f.trusting("trusting")), "was set back")
			if err := b.Refresh(t.Context()); err != nil {
				t.Errorf("Refresh: %v", err)
			}
			f.refuses(b, "was set back")
		})
	}
}

// A bucket that was set back while all replicas are replaced by new ones, which know nothing: one pin is
// refused, and no batch is created.
func TestBucketSetBackFresh(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	f.fill(a, 3)
	restore := f.snapshot()
	f.fill(a, 6)
	restore()
	before := f.server.Keys("")
	for i := range 3 {
		f.refuses(openLog(t, f.config(fmt.Sprintf("new%d", i))), "log-trust-bucket")
	}
	if after := f.server.Keys(""); !slices.Equal(before, after) {
		t.Errorf("keys %v, want %v", after, before)
	}
}

// A bucket that gets its newest state back is one again, and the evidence in it says nothing any longer.
func TestBucketPutBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	f.fill(a, 3)
	old := f.snapshot()
	f.fill(a, 5)
	newest := f.snapshot()
	old()
	f.refuses(a, "was set back")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f.refuses(openLog(t, f.trusting("other")), "was set back")
	newest()
	again := openLog(t, f.config("a"))
	if err := again.Refuses(); err != nil {
		t.Errorf("the log refuses: %v", err)
	}
	pinOne(t, again, entry(100))
	f.check(again)
}

// A client's head that is not of the log freezes every replica that hears of it.
func TestBucketWitness(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.begin("a"), openLog(t, f.config("b"))
	f.fill(a, 3)
	if err := b.Witness(latest(t, a)); err != nil {
		t.Errorf("Witness of a head of another replica: %v", err)
	}
	other := newFleet(t)
	other.key = f.key
	fork := other.begin("x")
	fill(t, fork, 4)
	if err := a.Witness(latest(t, fork)); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Witness: %v, want ErrFrozen", err)
	}
	f.refuses(a, "a client has seen")
	if err := b.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	f.refuses(b, "a client has seen")
	f.refuses(openLog(t, f.trusting("c")), "a client has seen")
}

// A client's head that is shown to a log that is open for reading, without the key, freezes all replicas if the bucket was
// set back: those that run, and those that start later, which have seen nothing.
func TestBucketWitnessReads(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first := f.begin("first")
	f.fill(first, 3)
	old := f.snapshot()
	f.fill(first, 5)
	seen := latest(t, first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	reading := func(announced *bool) *pinlog.Log {
		c := pinlog.Config{ReadOnly: true, Bucket: &pinlog.Bucket{Store: f.store(), Announce: func() { *announced = true }}}
		return openLog(t, c)
	}
	announced := false
	if err := reading(&announced).Witness(seen); err != nil || announced {
		t.Errorf("Witness of a head of the log: %v, announced %v", err, announced)
	}
	newest := f.snapshot()
	old()
	a, b := openLog(t, f.trusting("a")), openLog(t, f.trusting("b")) // the word of their administrator is wrong
	f.see(a)
	if err := reading(&announced).Witness(seen); !errors.Is(err, sumdb.ErrFrozen) || !announced {
		t.Errorf("Witness of a head that the bucket does not have: %v, announced %v", err, announced)
	}
	for _, l := range []*pinlog.Log{a, b} {
		if err := l.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		f.refuses(l, "a client has seen")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f.refuses(openLog(t, f.config("a")), "a client has seen")
	f.refuses(openLog(t, f.trusting("c")), "a client has seen")
	newest()
	again := openLog(t, f.trusting("d"))
	pinOne(t, again, entry(100))
	f.check(again)
}
