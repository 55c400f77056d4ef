package pinlog_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// A writer that has read its batch back, and stalls before the shared guard has its tree, signs nothing when it
// wakes, if the bucket was set back meanwhile and others went on: the guard has as many entries, or more.
func TestReplicaStallsBeforeGuard(t *testing.T) {
	t.Parallel()
	for others := range 3 {
		for _, op := range []string{"state", "swap"} {
			t.Run(fmt.Sprint(op, others), func(t *testing.T) {
				t.Parallel()
				testStallBeforeGuard(t, op, int64(others+1))
			})
		}
	}
}

// testStallBeforeGuard stalls a writer at the request op for the guard, while others pin so many entries.
func testStallBeforeGuard(t *testing.T, op string, others int64) {
	f, elsewhere := newFleet(t), newFleet(t)
	pinOne(t, f.begin("first"), entry(0))
	c := f.trusting("a")
	store := interpose(&c)
	guard := &interposed{Store: elsewhere.store()}
	c.Bucket.Guard = guard
	a := openLog(t, c)
	pinOne(t, a, entry(1))
	f.see(a)
	old := f.snapshot()
	stalled, wake := make(chan struct{}), make(chan struct{})
	written := false
	store.set(nil, func(op, key string) error {
		if isBatch(op, key) {
			guard.set(func(now, _ string) error {
				// The first look at the guard after the batch is the one that reads it back.
				if !written {
					written = now == "state"
				} else if now == op || now == "swap" {
					guard.set(nil, nil)
					close(stalled)
					<-wake
				}
				return nil
			}, nil)
		}
		return nil
	})
	failed := make(chan error)
	go func() {
		_, err := a.Pin(context.Background(), entry(50))
		failed <- err
	}()
	<-stalled
	old()
	d := f.config("b") // only the shared guard vouches for it
	d.Bucket.Guard = elsewhere.store()
	b := openLog(t, d)
	for n := range others {
		pinOne(t, b, entry(10+n))
		f.see(b)
	}
	close(wake)
	if err := <-failed; !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Pin: %v, want ErrFrozen", err)
	}
	f.refuses(a, "was set back")
	if err := b.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	f.check(b)
}

// A writer that stalls before the shared guard has its tree, while others go on from its batch, signs with them
// when it wakes.
func TestReplicaBehindGuard(t *testing.T) {
	t.Parallel()
	f, elsewhere := newFleet(t), newFleet(t)
	f.begin("first")
	c := f.trusting("a")
	guard := &interposed{Store: elsewhere.store()}
	c.Bucket.Guard = guard
	a := openLog(t, c)
	pinOne(t, a, entry(1))
	stalled, wake := make(chan struct{}), make(chan struct{})
	var once sync.Once
	guard.set(func(op, _ string) error {
		if op == "swap" {
			once.Do(func() { close(stalled); <-wake })
		}
		return nil
	}, nil)
	d := f.trusting("b")
	d.Bucket.Guard = elsewhere.store()
	b := openLog(t, d)
	var group sync.WaitGroup
	// Both entries are of one batch, or the second one waits for the first: it must not take a wrong number.
	for _, n := range []int64{50, 51} {
		group.Go(func() { pinOne(t, a, entry(n)) })
	}
	<-stalled
	for n := range int64(3) {
		pinOne(t, b, entry(10+n))
		f.see(b)
	}
	close(wake)
	group.Wait()
	f.see(a)
	if a.Size() != 6 {
		t.Errorf("the log has %d entries, want 6", a.Size())
	}
	f.check(a)
	if err := a.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// Replicas that share a guard in a file, in one process and in several, pin without an error, and the file has
// their newest tree.
func TestReplicasFileGuard(t *testing.T) {
	t.Parallel()
	if args := childArgs(); args != nil {
		pinWithFileGuard(t, args)
		return
	}
	f := newFleet(t)
	f.create()
	guard := filepath.Join(f.dir, "guard-file")
	var logs []*pinlog.Log
	for i := range 3 {
		c := f.trusting(fmt.Sprint("r", i))
		c.Guard = guard
		logs = append(logs, openLog(t, c))
	}
	const each, children = 60, 2
	var group sync.WaitGroup
	for child := range children {
		group.Go(func() {
			cmd := startChild(t, "TestReplicasFileGuard", f.url, f.key, filepath.Join(f.dir, fmt.Sprint("child", child)), guard,
				fmt.Sprint((child+1)*100_000), fmt.Sprint(each))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("child: %v\n%s", err, out)
			}
		})
	}
	for i, l := range logs {
		group.Go(func() {
			for n := range int64(each) {
				if _, err := l.Pin(t.Context(), entry(int64(i)*1000+n)); err != nil {
					t.Errorf("replica %d: %v", i, err)
				}
				f.see(l)
			}
		})
	}
	group.Wait()
	const size = each * (3 + children)
	if err := logs[0].Refresh(t.Context()); err != nil || logs[0].Size() != size {
		t.Errorf("the log has %d entries (%v), want %d", logs[0].Size(), err, size)
	}
	f.check(logs[0])
	if text, err := os.ReadFile(guard); err != nil || !strings.Contains(string(text), fmt.Sprintf("\nsize %d\n", size)) {
		t.Errorf("the guard has %q (%v), want %d entries", text, err, size)
	}
	if left, err := filepath.Glob(guard + "*.new"); err != nil || len(left) > 0 {
		t.Errorf("%v, %v: temporary files are left", left, err)
	}
}

// pinWithFileGuard is another process with a replica.
func pinWithFileGuard(t *testing.T, args []string) {
	store, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Prefix: "store", Endpoint: args[0], PathStyle: true, Spool: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	l := openLog(t, pinlog.Config{Dir: args[2], Guard: args[3], Bucket: &pinlog.Bucket{Store: store, Key: args[1]}})
	var first, count int64
	if _, err := fmt.Sscan(args[4]+" "+args[5], &first, &count); err != nil {
		t.Fatal(err)
	}
	for n := range count {
		pinOne(t, l, entry(first+n))
	}
}

// A guard that a replica has seen, and that is gone, is an error: a new one would know nothing of what the other
// replicas have signed. A restart is the word of the administrator.
func TestReplicaGuardGone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	c := f.trusting("a")
	c.Guard = filepath.Join(f.dir, "guard-file")
	left := c.Guard + ".0123456789abcdef.new" // by a replica that was killed long ago
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, time.Time{}, time.Now().Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	a, err := pinlog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	pinOne(t, a, entry(1))
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file is left: %v", err)
	}
	text, err := os.ReadFile(c.Guard)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.Guard); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Pin(t.Context(), entry(2)); err == nil || !strings.Contains(err.Error(), "guard-file, which this replica has seen, is gone") {
		t.Errorf("Pin: %v, want an error", err)
	}
	if _, err := os.Stat(c.Guard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the guard was made again: %v", err)
	}
	if err := os.WriteFile(c.Guard, text, 0o600); err != nil {
		t.Fatal(err)
	}
	pinOne(t, a, entry(2))
	if err := os.Remove(c.Guard); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openLog(t, c)
	pinOne(t, a, entry(3))
	f.check(a)
}
