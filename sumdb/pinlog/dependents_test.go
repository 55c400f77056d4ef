package pinlog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// filesOf returns objects that depend on the entry of filler module number n, size bytes each.
func filesOf(n int64, size int) pinlog.Dependents {
	var d pinlog.Dependents
	for _, ext := range []string{"zip", "mod", "info"} {
		key := storage.PinnedIn(logName).Key(fmt.Sprintf("%s/@v/v1.0.0.%s", entry(n).Module.Path, ext))
		d.Objects = append(d.Objects, storage.Small{Info: storage.Info{Key: key, Proof: logName}, Content: []byte(strings.Repeat("x", size))})
	}
	return d
}

// holds returns how many of the objects are in store.
func holds(t *testing.T, store storage.Store, d pinlog.Dependents) (n int) {
	for _, o := range d.Objects {
		if _, err := store.Stat(t.Context(), o.Info.Key); err == nil {
			n++
		}
	}
	return n
}

// countingStore counts the changes of a store by their names.
type countingStore struct {
	storage.Store
	mu    sync.Mutex
	calls map[string]int
	fail  error // of each batch
}

func (s *countingStore) count(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[call]++
}

func (s *countingStore) Apply(ctx context.Context, b storage.Batch) error {
	s.count("Apply")
	if s.fail != nil {
		return s.fail
	}
	return s.Store.Apply(ctx, b)
}

func (s *countingStore) SetState(ctx context.Context, name string, value []byte) error {
	s.count("SetState")
	return s.Store.SetState(ctx, name, value)
}

// logWith returns an empty log whose store counts its changes.
func logWith(t *testing.T) (*pinlog.Log, *countingStore, pinlog.Config) {
	t.Helper()
	store := &countingStore{Store: newStore(t), calls: map[string]int{}}
	c := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName, Store: store}
	l, err := pinlog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // again, in some tests
	clear(store.calls)
	return l, store, c
}

// The files of a version are one batch with the guard of its entry. What is refused is pinned alone, or
// not at all: a conflict stores nothing.
func TestDependents(t *testing.T) {
	t.Parallel()
	l, store, _ := logWith(t)
	conflict := entry(0)
	conflict.Zip = entry(1).Zip
	refused := filesOf(2, 10)
	refused.Permit = func() error { return errors.New("no") }
	taken := filesOf(3, 10)
	if err := store.Create(t.Context(), storage.Info{Key: taken.Objects[1].Info.Key, Size: 5}, strings.NewReader("other")); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	for _, tt := range []struct {
		name   string
		e      pinlog.Entry
		with   pinlog.Dependents
		fail   error
		stored bool
		held   int
		calls  map[string]int
		err    bool
	}{
		{"new", entry(0), filesOf(0, 10), nil, true, 3, map[string]int{"Apply": 1}, false},
		{"known", entry(0), filesOf(5, 10), nil, false, 0, map[string]int{}, false},
		{"conflict", conflict, filesOf(6, 10), nil, false, 0, map[string]int{}, true},
		{"none", entry(1), pinlog.Dependents{}, nil, false, 0, map[string]int{"SetState": 1}, false},
		{"not permitted", entry(2), refused, nil, false, 0, map[string]int{"SetState": 1}, false},
		{"a key is taken", entry(3), taken, nil, false, 1, map[string]int{"Apply": 1, "SetState": 1}, false},
		{"no room for the files", entry(4), filesOf(4, 10), full, false, 0, map[string]int{"Apply": 1, "SetState": 1}, false},
		{"too much for a batch", entry(7), filesOf(7, storage.MaxBatch/2), nil, false, 0, map[string]int{"SetState": 1}, false},
		{"a large one", entry(8), filesOf(8, storage.MaxSmall+1), nil, false, 0, map[string]int{"Apply": 1, "SetState": 1}, false},
	} {
		store.fail = tt.fail
		clear(store.calls)
		before := l.Size()
		pinned, stored, err := l.PinWith(t.Context(), tt.e, tt.with)
		if stored != tt.stored || (err != nil) != tt.err || err == nil && pinned.Module != tt.e.Module {
			t.Errorf("%s: PinWith = %v, %v, %v", tt.name, pinned, stored, err)
		}
		if n := holds(t, store, tt.with); n != tt.held || !maps.Equal(store.calls, tt.calls) {
			t.Errorf("%s: %d objects are stored, by %v", tt.name, n, store.calls)
		}
		if grown := l.Size() > before; grown != (len(tt.calls) > 0) {
			t.Errorf("%s: the log has %d entries, and had %d", tt.name, l.Size(), before)
		}
	}
}

// Pins at the same time share the batches. Each is told whether its files are in one.
func TestManyDependents(t *testing.T) {
	t.Parallel()
	l, store, c := logWith(t)
	var group sync.WaitGroup
	const pins, size = 40, 30_000 // more than one batch has room for
	for n := range int64(pins) {
		group.Go(func() {
			with := filesOf(n, size)
			_, stored, err := l.PinWith(t.Context(), entry(n), with)
			if held := holds(t, store, with); err != nil || stored != (held == 3) || held != 0 && held != 3 {
				t.Errorf("%d: %v, %v, %d objects", n, stored, err, held)
			}
		})
	}
	group.Wait()
	if n := store.calls["Apply"]; n == 0 || n > pins {
		t.Errorf("%d batches for %d pins", n, pins)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if again := openLog(t, c); again.Size() != pins || again.Refuses() != nil {
		t.Errorf("the log has %d entries, and refuses: %v", again.Size(), again.Refuses())
	}
}

// The guard that is stored with files is one as any other: an older log beside it signs nothing.
func TestGuardOfDependents(t *testing.T) {
	t.Parallel()
	l, _, c := logWith(t)
	pinOne(t, l, entry(0))
	old := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Store: c.Store}
	if err := os.CopyFS(old.Dir, os.DirFS(c.Dir)); err != nil {
		t.Fatal(err)
	}
	if _, stored, err := l.PinWith(t.Context(), entry(1), filesOf(1, 10)); err != nil || !stored {
		t.Fatalf("PinWith = %v, %v", stored, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := openLog(t, old)
	if err := again.Refuses(); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), "the store has the tree of 2 entries") {
		t.Errorf("Refuses = %v", err)
	}
	if _, stored, err := again.PinWith(t.Context(), entry(2), filesOf(2, 10)); !errors.Is(err, sumdb.ErrFrozen) || stored || holds(t, c.Store, filesOf(2, 10)) > 0 {
		t.Errorf("PinWith of a frozen log = %v, %v", stored, err)
	}
}

// pacedStore is a store whose batches wait for a value each, if there is a channel, and then fail with an
// error, if there is one.
type pacedStore struct {
	storage.Store
	next chan error
}

func (s *pacedStore) Apply(ctx context.Context, b storage.Batch) error {
	if s.next != nil {
		if err := <-s.next; err != nil {
			return err
		}
	}
	return s.Store.Apply(ctx, b)
}

// Stored is called when the files may be in the store and their entries are not shown yet: by a caller
// that stores them together with its own, if the caller of PinWith has given up.
func TestStoredAfterPinGaveUp(t *testing.T) {
	t.Parallel()
	for _, fail := range []error{nil, errors.New("disk full")} {
		t.Run(fmt.Sprint(fail), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &pacedStore{Store: newStore(t)}
				l := openLog(t, pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName, Store: store})
				store.next = make(chan error)
				var told []int64
				begin := func(ctx context.Context, n int64) <-chan error {
					with := filesOf(n, 10)
					with.Stored = func() {
						if held := holds(t, store, with); (held == 3) != (fail == nil || n == 0) || l.Shows(entry(n).Module) {
							t.Errorf("%d: %d files are stored, the entry is shown: %v", n, held, l.Shows(entry(n).Module))
						}
						told = append(told, n)
					}
					done := make(chan error, 1)
					go func() {
						_, _, err := l.PinWith(ctx, entry(n), with)
						done <- err
					}()
					synctest.Wait()
					return done
				}
				first := begin(t.Context(), 0)
				second := begin(t.Context(), 1) // the next that writes
				ctx, cancel := context.WithCancel(t.Context())
				third := begin(ctx, 2)
				store.next <- nil
				if err := <-first; err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the second one writes for the third one, too
				cancel()
				if err := <-third; !errors.Is(err, context.Canceled) {
					t.Fatalf("PinWith = %v: the third call wrote the log itself, nothing is tested", err)
				}
				if !slices.Equal(told, []int64{0}) {
					t.Errorf("told about %v before the second batch", told)
				}
				store.next <- fail
				if err := <-second; err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(told, []int64{0, 1, 2}) {
					t.Errorf("told about %v, want all three", told)
				}
				for n := range int64(3) {
					if !l.Shows(entry(n).Module) {
						t.Errorf("entry %d is not shown", n)
					}
				}
			})
		})
	}
}

// A panic while the log is written ends the calls of PinWith that wait for it, and not the log.
func TestPanicOfDependents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &pacedStore{Store: newStore(t)}
		l := openLog(t, pinlog.Config{Dir: filepath.Join(t.TempDir(), "log"), Name: logName, Store: store})
		store.next = make(chan error)
		begin := func(n int64, with pinlog.Dependents) <-chan error {
			done := make(chan error, 1)
			go func() {
				done <- panics.Catch(func() error {
					_, _, err := l.PinWith(t.Context(), entry(n), with)
					return err
				})
			}()
			synctest.Wait()
			return done
		}
		broken := filesOf(1, 10)
		broken.Permit = func() error { panic("broken") }
		first := begin(0, filesOf(0, 10))
		second, third := begin(1, broken), begin(2, pinlog.Dependents{}) // one of them writes for both
		store.next <- nil
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var panicked *panics.Error
		for _, done := range []<-chan error{second, third} {
			select {
			case err := <-done:
				if errors.As(err, &panicked); err == nil {
					t.Error("PinWith returns no error although its batch panicked")
				}
			default:
				t.Error("PinWith waits although its batch panicked")
			}
		}
		if panicked == nil || l.Shows(entry(2).Module) {
			t.Errorf("the panic: %v; the entry beside it is shown: %v", panicked, l.Shows(entry(2).Module))
		}
		close(store.next)
		if t.Failed() {
			return // what follows would wait forever
		}
		pinOne(t, l, entry(3))
		for n := range int64(4) {
			if !l.Shows(entry(n).Module) {
				t.Errorf("entry %d is not shown by the next pin", n)
			}
		}
		if err := l.Check(t.Context()); err != nil || l.Refuses() != nil {
			t.Errorf("Check = %v, refuses: %v", err, l.Refuses())
		}
	})
}

// A log that cannot sign after its files are stored has their entries on disk: the next start pins them.
func TestDependentsWithoutSignature(t *testing.T) {
	t.Parallel()
	l, store, c := logWith(t)
	pinOne(t, l, entry(0))
	blocked := filepath.Join(c.Dir, "head.new", "x") // the temporary file of the newest head cannot be made
	if err := os.MkdirAll(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	with := filesOf(1, 10)
	if _, stored, err := l.PinWith(t.Context(), entry(1), with); err == nil || stored {
		t.Fatalf("PinWith = %v, %v, want an error of the disk", stored, err)
	}
	if n := holds(t, store, with); n != 3 {
		t.Errorf("%d objects, want 3", n)
	}
	if _, err := l.Find(t.Context(), entry(1).Module); err == nil || l.Shows(entry(1).Module) || !l.Shows(entry(0).Module) {
		t.Error("the entry is shown before it is signed")
	}
	if err := errors.Join(l.Close(), os.RemoveAll(filepath.Dir(blocked))); err != nil {
		t.Fatal(err)
	}
	again := openLog(t, c)
	if _, err := again.Find(t.Context(), entry(1).Module); err != nil || again.Refuses() != nil || !again.Shows(entry(1).Module) {
		t.Errorf("after the next start: %v, refuses: %v", err, again.Refuses())
	}
}
