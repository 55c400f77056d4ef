package pinlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// interposed is a store whose requests a test may delay, fail, or answer before they are done.
type interposed struct {
	storage.Store
	mu     sync.Mutex
	before func(op, key string) error
	after  func(op, key string) error
}

func (s *interposed) set(before, after func(op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

func (s *interposed) do(op, key string, request func() error) error {
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(op, key); err != nil {
			return err
		}
	}
	err := request()
	if err == nil && after != nil {
		err = after(op, key)
	}
	return err
}

func (s *interposed) Open(ctx context.Context, key string) (o storage.Object, err error) {
	err = s.do("open", key, func() error { o, err = s.Store.Open(ctx, key); return err })
	return o, err
}

func (s *interposed) Apply(ctx context.Context, b storage.Batch) error {
	return s.do("create", b.Create[0].Info.Key, func() error { return s.Store.Apply(ctx, b) })
}

func (s *interposed) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	return s.do("create", info.Key, func() error { return s.Store.Create(ctx, info, r) })
}

func (s *interposed) State(ctx context.Context, name string) (v []byte, err error) {
	err = s.do("state", name, func() error { v, err = s.Store.State(ctx, name); return err })
	return v, err
}

func (s *interposed) SwapState(ctx context.Context, name string, old, value []byte) error {
	return s.do("swap", name, func() error { return s.Store.SwapState(ctx, name, old, value) })
}

// interpose puts an interposed store between c and the bucket.
func interpose(c *pinlog.Config) *interposed {
	s := &interposed{Store: c.Bucket.Store}
	c.Bucket.Store = s
	return s
}

func isBatch(op, key string) bool { return op == "create" && strings.Contains(key, "/batches/") }

// While a part of all requests fails, is cut off, loses its answer or is told to come again, three replicas
// make one log, and lose nothing that they have acknowledged.
func TestReplicasInTrouble(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	var logs []*pinlog.Log
	for i := range 3 {
		logs = append(logs, openLog(t, f.trusting(fmt.Sprintf("r%d", i))))
	}
	row := map[string]int{}
	f.server.Fail(func(r s3test.Request) s3test.Fault {
		request := r.Op + r.Key
		fault := trouble(r)
		if fault == (s3test.Fault{}) || row[request] == 3 { // a request has five attempts
			delete(row, request)
			return s3test.Fault{}
		}
		row[request]++
		return fault
	})
	var group sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[int64]pinlog.Entry{}
	for i, l := range logs {
		for w := range int64(3) {
			group.Go(func() {
				for n := range int64(8) {
					number := n*100 + w*10 + int64(i)
					e, err := l.Pin(t.Context(), entry(number))
					f.see(l)
					mu.Lock()
					if err == nil {
						acknowledged[number] = e
					}
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	f.server.Fail(nil)
	if len(acknowledged) < 36 {
		t.Errorf("only %d of 72 pins succeeded", len(acknowledged))
	}
	for _, l := range logs {
		if err := l.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for number, e := range acknowledged {
			if found, err := l.Find(t.Context(), entry(number).Module); err != nil || found.ID != e.ID || found.Zip != e.Zip {
				t.Errorf("entry %d is %v, %v; want number %d", number, found, err, e.ID)
			}
		}
		f.check(l)
		if err := l.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
	}
}

func trouble(r s3test.Request) s3test.Fault {
	switch {
	case r.N%17 == 3:
		return s3test.Fault{Before: http.StatusServiceUnavailable, Code: "SlowDown"}
	case r.N%11 == 5:
		return s3test.Fault{After: -1}
	case r.N%23 == 7:
		return s3test.Fault{After: http.StatusInternalServerError, Code: "InternalError"}
	case r.N%29 == 2 && r.Op == "GET":
		return s3test.Fault{Cut: 100}
	case r.N%7 == 4 && r.Op == "PUT" && r.Conditional:
		return s3test.Fault{Before: http.StatusConflict, Code: "ConditionalRequestConflict"}
	}
	return s3test.Fault{}
}

// errLost is the error of an answer that got lost.
var errLost = errors.New("the answer got lost")

// An append whose creation has an unknown outcome finds its own batch, and appends nothing twice.
func TestReplicaLostAnswer(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	c := f.trusting("a")
	store := interpose(&c)
	a := openLog(t, c)
	store.set(nil, func(op, key string) error {
		if isBatch(op, key) {
			return errLost
		}
		return nil
	})
	for n := range int64(3) {
		if e := pinOne(t, a, entry(n)); e.ID != n {
			t.Errorf("entry %d has the number %d", n, e.ID)
		}
		f.see(a)
	}
	f.check(a)
	if a.Size() != 3 {
		t.Errorf("Size = %d", a.Size())
	}
}

// A request that is not done is an error, and nothing is signed; the next pin tries again.
func TestReplicaFailedSteps(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"open", "create", "state"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.create()
			c := f.trusting("a")
			store := interpose(&c)
			a := openLog(t, c)
			f.fill(a, 2)
			for nth := range 8 {
				var count atomic.Int64 // some requests are sent at the same time
				store.set(func(o, _ string) error {
					if o == op && count.Add(1) == int64(nth+1) {
						return errLost
					}
					return nil
				}, nil)
				_, err := a.Pin(t.Context(), entry(int64(100+nth)))
				failed := count.Load() > int64(nth)
				f.see(a)
				if failed && err == nil && op != "create" {
					t.Errorf("request %d of a pin failed, and the pin did not", nth)
				}
				if err != nil && !errors.Is(err, errLost) {
					t.Errorf("Pin: %v", err)
				}
				store.set(nil, nil)
				pinOne(t, a, entry(int64(100+nth)))
				f.see(a)
			}
			f.check(a)
			if err := a.Check(t.Context()); err != nil {
				t.Errorf("Check: %v", err)
			}
		})
	}
}

// A writer that stalls before it creates its batch loses against others who have written meanwhile, and its
// entries follow theirs.
func TestReplicaStalls(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	c := f.trusting("a")
	store := interpose(&c)
	a, b := openLog(t, c), openLog(t, f.trusting("b"))
	f.fill(a, 2)
	stalled, wake := make(chan struct{}), make(chan struct{})
	var once sync.Once
	store.set(func(op, key string) error {
		if isBatch(op, key) {
			once.Do(func() { close(stalled); <-wake })
		}
		return nil
	}, nil)
	done := make(chan pinlog.Entry)
	go func() {
		e, err := a.Pin(context.Background(), entry(50))
		if err != nil {
			t.Errorf("Pin: %v", err)
		}
		done <- e
	}()
	<-stalled
	for n := range int64(3) {
		pinOne(t, b, entry(10+n))
		f.see(b)
	}
	close(wake)
	if e := <-done; e.ID != 5 {
		t.Errorf("the entry of the writer that stalled has the number %d, want 5", e.ID)
	}
	f.see(a)
	f.check(a)
}

// A writer that stalls while the bucket is set back, and others go on, signs nothing when it wakes, whether
// the others have reached its number or not.
func TestReplicaStallsWhileSetBack(t *testing.T) {
	t.Parallel()
	for others := range 4 {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.create()
			c := f.trusting("a")
			store := interpose(&c)
			a := openLog(t, c)
			f.fill(a, 1)
			old := f.snapshot()
			f.fill(a, 3)
			stalled, wake := make(chan struct{}), make(chan struct{})
			var once sync.Once
			store.set(func(op, key string) error {
				if isBatch(op, key) {
					once.Do(func() { close(stalled); <-wake })
				}
				return nil
			}, nil)
			failed := make(chan error)
			go func() {
				_, err := a.Pin(context.Background(), entry(50))
				failed <- err
			}()
			<-stalled
			old()
			b := openLog(t, f.trusting("b")) // its administrator is wrong
			for n := range others {
				pinOne(t, b, entry(int64(10+n)))
			}
			close(wake)
			if err := <-failed; !errors.Is(err, sumdb.ErrFrozen) {
				t.Errorf("Pin: %v, want ErrFrozen", err)
			}
			f.refuses(a, "was set back")
			if err := b.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			if b.Refuses() == nil {
				t.Error("the other replica does not refuse")
			}
		})
	}
}

// A freeze is shown in the metrics of each replica that knows of it, and is announced.
func TestBucketFreezeMetrics(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	b := openLog(t, f.trusting("b"))
	c := f.trusting("a")
	c.Bucket.Announce = func() {
		if err := b.Refresh(context.Background()); err != nil {
			t.Errorf("Refresh: %v", err)
		}
	}
	a := openLog(t, c)
	f.fill(a, 2)
	if b.Size() != 2 {
		t.Errorf("the other replica has %d entries, want 2", b.Size())
	}
	f.see(b)
	old := f.snapshot()
	f.fill(a, 3)
	old()
	f.refuses(a, "was set back")
	for name, l := range map[string]*pinlog.Log{"a": a, "b": b} {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(l.Metrics()...)
		want := "# HELP assay_log_frozen 1 while the own log refuses to sign anything new; with read-only, 1 only if its files contradict each other.\n" +
			"# TYPE assay_log_frozen gauge\nassay_log_frozen 1\n"
		if err := testutil.GatherAndCompare(r, strings.NewReader(want), "assay_log_frozen"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Evidence that cannot be written is written with the next look, or after a restart.
func TestBucketFreezeAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	b := openLog(t, f.trusting("b"))
	c := f.trusting("a")
	store := interpose(&c)
	a, err := pinlog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	f.fill(a, 2)
	old := f.snapshot()
	f.fill(a, 3)
	old()
	store.set(func(op, _ string) error {
		if op == "swap" {
			return errLost
		}
		return nil
	}, nil)
	f.refuses(a, "was set back")
	if err := a.Refresh(t.Context()); !errors.Is(err, errLost) {
		t.Errorf("Refresh: %v, want the error of the bucket", err)
	}
	if err := b.Refresh(t.Context()); err != nil || b.Refuses() != nil {
		t.Errorf("%v, %v: evidence is there that was not written", err, b.Refuses())
	}
	f.see(b)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(f.dir, "a", "bucket", "sum.corp.example%2Flog", "guard-3")); err != nil {
		t.Fatal(err)
	}
	f.refuses(openLog(t, f.trusting("a")), "was set back") // what it kept says so
	if err := b.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	f.refuses(b, "was set back")
}

// A new replica reads a long log with one request for 256 batches, and notices what is missing or wrong.
func TestSegments(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	for n := range int64(600) {
		pinOne(t, a, entry(n))
	}
	f.see(a)
	segments := f.server.Keys("store/o/log/sum.corp.example%2Flog/segments/")
	if len(segments) != 2 {
		t.Fatalf("segments %v, want 2", segments)
	}
	f.server.Fail(nil)
	b := openLog(t, f.trusting("b"))
	if gets := f.server.Requests("GET"); gets > 150 {
		t.Errorf("a new replica sent %d requests to read 600 batches", gets)
	}
	f.check(b)
	if err := b.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	damage := map[string]func(){
		"segment": func() { f.server.Change(segments[1], func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) },
		"none": func() {
			for _, key := range segments {
				f.server.Change(key, func([]byte) []byte { return nil })
			}
		},
	}
	for name, do := range damage {
		restore := f.snapshot()
		do()
		f.check(openLog(t, f.trusting("after "+name)))
		restore()
	}
	batch := func(n int) string {
		return fmt.Sprintf("store/o/log/sum.corp.example%%2Flog/batches/%012d", n)
	}
	for name, do := range map[string]func(){
		"first segment alone": func() { // which is damaged, so nothing is read of it
			f.server.Change(segments[0], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			f.server.Change(segments[1], func([]byte) []byte { return nil })
			for n := range 601 {
				f.server.Change(batch(n), func([]byte) []byte { return nil })
			}
		},
		"hole": func() {
			for n := 520; n < 530; n++ {
				f.server.Change(batch(n), func([]byte) []byte { return nil })
			}
		},
		"end of segment": func() { f.server.Change(batch(511), func([]byte) []byte { return nil }) },
		"behind segment": func() {
			for n := 300; n <= 600; n++ {
				f.server.Change(batch(n), func([]byte) []byte { return nil })
			}
		},
		"swapped": func() {
			var other []byte
			f.server.Change(batch(550), func(b []byte) []byte { other = bytes.Clone(b); return b })
			f.server.Change(batch(551), func([]byte) []byte { return other })
		},
		"flipped": func() { f.server.Change(batch(560), func(b []byte) []byte { b[len(b)-9] ^= 1; return b }) },
	} {
		restore := f.snapshot()
		do()
		l, err := pinlog.Open(t.Context(), f.trusting(strings.ReplaceAll(name, " ", "-")))
		if err != nil {
			t.Errorf("%s: Open: %v", name, err)
			continue
		}
		if l.Refuses() == nil {
			t.Errorf("%s: a new replica signs", name)
		}
		if err := l.Refuses(); name == "first segment alone" && (err == nil || !strings.Contains(err.Error(), "was set back")) {
			t.Errorf("%s: %v, want that the bucket was set back", name, err)
		}
		if err := l.Check(t.Context()); !errors.Is(err, sumdb.ErrInvalid) {
			t.Errorf("%s: Check: %v", name, err)
		}
		l.Close()
		restore()
	}
}

// A program that can write to the bucket, and does not have the key, can add nothing, and what it writes is
// refused.
func TestBucketForged(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	f.fill(a, 2)
	other := newFleet(t)
	stranger := other.begin("x")
	other.fill(stranger, 3)
	const next = "log/sum.corp.example%2Flog/batches/000000000003"
	object, err := other.store().Open(t.Context(), next)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := io.ReadAll(object)
	object.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.store().Create(t.Context(), storage.Info{Key: next, Size: int64(len(forged))}, bytes.NewReader(forged)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Pin(t.Context(), entry(50)); !errors.Is(err, sumdb.ErrInvalid) || !strings.Contains(err.Error(), next) ||
		!strings.Contains(err.Error(), "it names the key "+other.witness.key+", and log-key of this server has "+f.witness.key) {
		t.Errorf("Pin: %v, want an error with both keys, and the key of what is wrong", err)
	}
	before := slices.Clone(f.server.Keys(""))
	f.refuses(openLog(t, f.trusting("b")), "not readable")
	if !slices.Equal(before, f.server.Keys("")) {
		t.Error("a log that refuses has written")
	}
	if err := f.store().Delete(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	pinOne(t, a, entry(50))
	f.check(a)
}

// A batch that the key of the log has signed, in a format that this program does not know, is not taken for one of another
// log: the server is to be updated.
func TestBucketNewerBatch(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	f.fill(a, 2)
	newer, err := pinlog.SignText(f.key, "assay log batch 2\nkey "+f.witness.key+"\nnumber 3\nsomething new\n")
	if err != nil {
		t.Fatal(err)
	}
	const next = "log/sum.corp.example%2Flog/batches/000000000003"
	if err := f.store().Create(t.Context(), storage.Info{Key: next, Size: int64(len(newer))}, bytes.NewReader(newer)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Pin(t.Context(), entry(50)); !errors.Is(err, sumdb.ErrInvalid) || !strings.Contains(err.Error(), "newer version") || strings.Contains(err.Error(), "log-key") {
		t.Errorf("Pin: %v, want that a newer version has written the batch, and nothing of the key", err)
	}
	f.refuses(openLog(t, f.trusting("b")), "update this server")
}

// A replica that always finds that another one has written first gives up in the end, and its callers with it.
func TestReplicaOvertaken(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	c := f.trusting("a")
	store := interpose(&c)
	a, b := openLog(t, c), openLog(t, f.trusting("b"))
	pinlog.SetPatience(a, 200*time.Millisecond)
	others := int64(100)
	store.set(func(op, key string) error {
		if isBatch(op, key) {
			pinOne(t, b, entry(others))
			others++
		}
		return nil
	}, nil)
	// The time may end between two requests, or in one.
	if _, err := a.Pin(t.Context(), entry(1)); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, storage.ErrAway) {
		t.Errorf("Pin: %v, want that the time has ended", err)
	}
	store.set(nil, nil)
	pinlog.SetPatience(a, time.Minute)
	pinOne(t, a, entry(1))
	f.check(a)
}

// A pin that fails after others have written is not taken for one of their entries, which has its number.
func TestReplicaFailsBehindOthers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.create()
	c := f.trusting("a")
	store := interpose(&c)
	a, b := openLog(t, c), openLog(t, f.trusting("b"))
	f.fill(b, 3)
	store.set(func(op, key string) error {
		if isBatch(op, key) {
			return errLost
		}
		return nil
	}, nil)
	if e, err := a.Pin(t.Context(), entry(50)); !errors.Is(err, errLost) {
		t.Errorf("Pin = %v, %v, want an error", e, err)
	}
	if e, err := a.Pin(t.Context(), entry(1)); err != nil || e.ID != 1 {
		t.Errorf("Pin of what another replica has pinned = %v, %v", e, err)
	}
	var group sync.WaitGroup
	for n := range int64(8) {
		group.Go(func() {
			if _, err := a.Pin(t.Context(), entry(60+n/2)); !errors.Is(err, errLost) {
				t.Errorf("Pin: %v, want an error", err)
			}
		})
		pinOne(t, b, entry(100+n))
	}
	group.Wait()
	f.check(a)
}
