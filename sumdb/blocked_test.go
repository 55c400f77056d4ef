package sumdb_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// soon bounds a wait for something that must not wait for a blocked store.
const soon = 20 * time.Second

// inTime returns the error of do, which must end although a store is blocked.
func inTime(t *testing.T, what string, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(soon):
		t.Fatalf("%s waits for a blocked store", what)
		return nil
	}
}

// blockedStore is a store in which operations (apply, open, state) may block.
type blockedStore struct {
	storage.Store
	block func(op, key string)
}

func (s *blockedStore) Apply(ctx context.Context, b storage.Batch) error {
	s.block("apply", "")
	return s.Store.Apply(ctx, b)
}

func (s *blockedStore) Open(ctx context.Context, key string) (storage.Object, error) {
	s.block("open", key)
	return s.Store.Open(ctx, key)
}

func (s *blockedStore) State(ctx context.Context, name string) ([]byte, error) {
	s.block("state", name)
	return s.Store.State(ctx, name)
}

// A client that has left, or a stop, does not wait until another one has stored the same proof, which
// the disk may delay. What depends on a stored proof does not wait for other dependents.
func TestStoreLeaves(t *testing.T) {
	t.Parallel()
	log := newLog(t, 700)
	store := newStore(t)
	blocked, entered, wait := &blockedStore{Store: store, block: func(string, string) {}}, make(chan struct{}), make(chan struct{})
	m := open(t, log, blocked, "", log.Fetch)
	release := sync.OnceFunc(func() { close(wait) })
	defer release()
	p := prove(t, m, 300)
	var once sync.Once
	blocked.block = func(op, _ string) {
		if op == "apply" {
			once.Do(func() {
				close(entered)
				<-wait
			})
		}
	}
	done := make(chan error, 1)
	go func() { done <- p.Store(context.Background(), nil, gomod(300)) }()
	<-entered
	left, leave := context.WithCancel(t.Context())
	leave()
	for what, do := range map[string]func() error{
		"Store":  func() error { return p.Store(left, nil, gomod(2)) },
		"Lookup": func() error { _, err := m.Lookup(left, sumdbtest.Filler(300)); return err },
	} {
		if err := inTime(t, what, do); !errors.Is(err, context.Canceled) {
			t.Errorf("%s of a client that has left = %v, want context.Canceled", what, err)
		}
	}
	if store.has(gomod(2).Info.Key) {
		t.Error("what a client has left is stored")
	}
	release()
	if err := <-done; err != nil {
		t.Errorf("Store = %v", err)
	}
	keep(t, p, gomod(2))
	verify(t, open(t, log, store, "", nil), log, log.Head(700), 300)
}

// The stored head is of another process and is read and verified slowly, or never: other heads, and
// the records that depend on them, do not wait.
func TestSlowStoredHead(t *testing.T) {
	t.Parallel()
	for _, slow := range []string{"state", "open"} { // reading the head; and then a tile, to verify it
		t.Run(slow, func(t *testing.T) {
			log := newLog(t, 700)
			store := newStore(t)
			blocked, entered, wait := &blockedStore{Store: store, block: func(string, string) {}}, make(chan struct{}), make(chan struct{})
			m := open(t, log, blocked, "", log.Fetch)
			release := sync.OnceFunc(func() { close(wait) })
			defer release()
			refresh(t, m)
			other := open(t, log, store, "", log.Fetch) // of another process
			for _, size := range []int64{1500, 1600} {  // the first head leaves tiles that the second one does not have
				log.Fill(size)
				refresh(t, other)
			}
			log.Fill(2000)
			var mu sync.Mutex
			judging, first := false, true
			blocked.block = func(op, _ string) {
				mu.Lock()
				judging = judging || op == "state"
				this := judging && first && op == slow
				first = first && !this
				mu.Unlock()
				if this {
					close(entered)
					<-wait
				}
			}
			done := make(chan error, 1)
			go func() { done <- m.Refresh(context.Background()) }()
			select {
			case <-entered:
			case err := <-done:
				t.Fatalf("Refresh = %v, and has not read the stored head", err)
			}
			log.Fill(2500)
			if err := inTime(t, "another head", func() error {
				_, err := m.Lookup(t.Context(), sumdbtest.Filler(2400))
				return err
			}); err != nil || m.Size() != 2500 {
				t.Errorf("Lookup = %v, our head is %d", err, m.Size())
			}
			release()
			if err := <-done; err != nil && !errors.Is(err, sumdb.ErrInvalid) {
				t.Errorf("Refresh = %v", err)
			}
			verify(t, open(t, log, store, "", nil), log, log.Head(1600), 2400)
			checkStore(t, store, log)
		})
	}
}
