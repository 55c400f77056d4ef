package sumdb_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	modsumdb "golang.org/x/mod/sumdb"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// rot changes the bytes of the stored head on disk, and restarts the store.
func (s *realStore) rot() {
	s.t.Helper()
	if err := s.Close(); err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.dir, "meta.db")
	data, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	rotten := bytes.ReplaceAll(data, []byte(`"tiles":{`), []byte(`"tiles":[`)) // only the head has tiles
	if bytes.Equal(rotten, data) {
		s.t.Fatal("there is no head in the store")
	}
	if err := os.WriteFile(path, rotten, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.open()
	if _, err := s.State(s.t.Context(), headState); !errors.Is(err, storage.ErrDamaged) {
		s.t.Fatalf("the rotten head is read: %v", err)
	}
}

// The store finds its head damaged: the mirror takes the head from the history, and the next commit
// replaces the damaged one.
func TestHeadRots(t *testing.T) {
	t.Parallel()
	log := newLog(t, 700)
	shown := log
	store, evidence := newStore(t), t.TempDir()
	m := open(t, log, store, evidence, fetchFrom(&shown))
	refresh(t, m)
	lookup(t, m, sumdbtest.Filler(4))
	for _, size := range []int64{700, 900} { // the size of upstream's log after the restart
		m.Close()
		store.rot()
		log.Fill(size)
		m = open(t, log, store, evidence, fetchFrom(&shown))
		if m.Size() != 700 {
			t.Fatalf("Size = %d, want 700 from the history", m.Size())
		}
		refresh(t, m)
		m.Close()
		store.reopen()
		var setFetch func(sumdb.FetchFunc)
		m, setFetch = openChanging(t, log, store, evidence)
		verify(t, m, log, log.Head(700), 4)
		if m.Size() != size {
			t.Fatalf("Size = %d after a restart, want %d", m.Size(), size)
		}
		setFetch(fetchFrom(&shown))
	}

	for _, key := range store.keys() {
		if strings.Contains(key, "/head/") {
			store.set(key, nil)
		}
	}
	m.Close()
	store.rot()
	if _, err := sumdb.Open(t.Context(), sumdb.Config{Key: log.Key(), Store: store}); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("Open without a history: %v, want ErrDamaged", err)
	}
}

// A store that was restored from a backup has an older head. Clients that have seen a newer one
// still get answers, because the mirror fetches the newer head. After that, only these clients can
// detect a fork that began after the backup.
func TestMirrorSetBack(t *testing.T) {
	t.Parallel()
	log, store, m := mirrored(t, 300)
	refresh(t, m)
	lookup(t, m, sumdbtest.Filler(7))
	m.Close()
	backup := make(map[string]string)
	reopen := func(files map[string]string) {
		t.Helper()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"meta.db", "blobs.db"} {
			path := filepath.Join(store.dir, name)
			if data, ok := files[name]; ok {
				writeFile(t, path, data) // into the same files
			} else {
				files[name] = string(readFile(t, path))
			}
		}
		store.open()
	}
	reopen(backup)
	log.Fill(900)
	m = open(t, log, store, "", log.Fetch)
	refresh(t, m)
	verify(t, m, log, nil, 7, 800)
	m.Close()

	reopen(backup)
	m = open(t, log, store, "", log.Fetch)
	if m.Size() != 300 {
		t.Fatalf("the backup has a head of %d records", m.Size())
	}
	verify(t, m, log, log.Head(900), 7, 800)
	m.Close()

	reopen(backup)
	m = open(t, log, store, "", forkOf(log, 400, 1000).Fetch)
	refresh(t, m)
	client := &sumdbtest.Client{Key: log.Key, Seen: log.Head(900), Remote: func(path string) ([]byte, error) {
		return answers(t.Context(), m, strings.TrimPrefix(path, "/"))
	}}
	mod := sumdbtest.Filler(7)
	if _, err := modsumdb.NewClient(client).Lookup(mod.Path, mod.Version); err == nil || !strings.Contains(err.Error(), "inconsistent") {
		t.Errorf("a client that has seen the other history looks up: %v", err)
	}
}
