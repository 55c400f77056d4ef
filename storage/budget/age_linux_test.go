package budget_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// aged is a world of zips that were stored two hours ago, with an age of one hour and no limit.
func aged(t *testing.T, names ...string) *world {
	w := &world{t: t, dir: t.TempDir(), maxAge: time.Hour}
	db, err := bolt.Open(w.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range names {
		body := content(key, 300_000)
		info := storage.Info{Key: key, Size: int64(len(body)), Proof: "sum.example", Time: time.Now().Add(-2 * time.Hour)}
		if err := db.Create(t.Context(), info, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}

// What was not used for longer than the age is evicted, and its space is given back. What is used, read at the moment,
// kept, or has no upstream any more, stays.
func TestAge(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 30 {
		names = append(names, zipKey(fmt.Sprint("old", i)))
	}
	kept := "pinned/own/example.com/p/@v/v1.0.0.zip"
	w := aged(t, append(names, zipKey("used"), zipKey("read"), zipKey("gone"), kept)...)
	w.gone.Store(zipKey("gone"), true)
	w.open()
	if r, err := w.store.Report(); err != nil || r.Limit != 0 || r.Objects != 33 {
		t.Errorf("report %+v, %v", r, err)
	}
	w.read("used", content(zipKey("used"), 300_000))
	reader, err := w.store.Open(t.Context(), zipKey("read"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w.fetch("new", content("new", 300_000))
	before := w.du()
	w.eventually("the old zips are evicted", func() bool {
		_ = w.store.EvictOld(t.Context()) // an error says that Run has not begun
		r, err := w.store.Report()
		return err == nil && r.Objects == 4
	})
	for _, key := range []string{zipKey("used"), zipKey("read"), zipKey("gone"), zipKey("new"), kept} {
		if !w.has(key) {
			t.Errorf("%s was evicted", key)
		}
	}
	w.eventually("the space is given back", func() bool { return w.du() < before-8<<20 })
	damaged := func(d storage.Damage) { t.Errorf("%s: %v", d.Key, d.Err) }
	if _, err := w.store.Verify(t.Context(), storage.VerifyOptions{Damage: damaged}); err != nil {
		t.Error(err)
	}
}

// While no upstream answers nothing is evicted because of its age; without an age nothing is.
func TestAgeNotNow(t *testing.T) {
	t.Parallel()
	w := aged(t, zipKey("old"))
	w.dead.Store(true)
	w.open()
	w.eventually("an upstream is asked", func() bool { return w.store.EvictOld(t.Context()) != nil && w.asked.Load() > 0 })
	if !w.has(zipKey("old")) {
		t.Error("a zip was evicted although no upstream answers")
	}
	w.close()
	w.maxAge, w.limit = 0, 64<<20
	w.dead.Store(false)
	w.open()
	if err := w.store.EvictOld(t.Context()); err != nil || !w.has(zipKey("old")) {
		t.Errorf("without an age: %v", err)
	}
}

// A zip that is used while its upstream is asked stays.
func TestAgeUsedMeanwhile(t *testing.T) {
	t.Parallel()
	w := aged(t, zipKey("old"))
	asked := make(chan struct{})
	w.onAsk = func() {
		w.read("old", content(zipKey("old"), 300_000))
		close(asked)
	}
	w.open()
	w.eventually("an upstream is asked", func() bool {
		_ = w.store.EvictOld(t.Context())
		select {
		case <-asked:
			return true
		default:
			return false
		}
	})
	if !w.has(zipKey("old")) {
		t.Error("a zip was evicted although it was used a moment before")
	}
}

// An age alone is no limit: what no disk could hold otherwise is stored.
func TestAgeIsNoLimit(t *testing.T) {
	t.Parallel()
	w := aged(t)
	w.open()
	for i := range 20 {
		if name := fmt.Sprint("n", i); !w.fetch(name, content(name, 2<<20)) {
			t.Errorf("%s is not stored", name)
		}
	}
	err := w.store.Create(t.Context(), storage.Info{Key: "pinned/own/example.com/p/@v/v1.0.0.zip", Size: 8 << 20}, bytes.NewReader(make([]byte, 8<<20)))
	if errors.Is(err, storage.ErrNoLarge) || err != nil {
		t.Error(err)
	}
}
