package pinlog_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// A bucket that was emptied gets no second log with the key of the first one: not by a replica that has seen the
// first one without entries, not by one whose administrator says that the bucket is the newest state, and by
// assay log create only if nothing here has seen the first one.
func TestBucketEmptied(t *testing.T) {
	t.Parallel()
	f, elsewhere := newFleet(t), newFleet(t).store()
	empty := f.snapshot()
	f.create()
	guarded := func(name string) pinlog.Config {
		c := f.trusting(name)
		c.Guard, c.Bucket.Guard = filepath.Join(f.dir, "guard-file"), elsewhere
		return c
	}
	a, err := pinlog.Open(t.Context(), guarded("a")) // all guards are of no entries
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b := f.trusting("b")
	pinOne(t, openLog(t, b), entry(1))
	empty()

	refuses := func(c pinlog.Config, want string) {
		t.Helper()
		l, err := pinlog.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		f.refuses(l, want)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	refuses(f.config("a"), "it has no log of this name")
	refuses(f.trusting("a"), "it has no log of this name") // again: it has kept evidence
	onlyFile, onlyState := f.trusting("file"), f.config("state")
	onlyFile.Guard, onlyState.Bucket.Guard = filepath.Join(f.dir, "guard-file"), elsewhere
	refuses(onlyFile, "guard-file is about one with 0 entries")
	refuses(onlyState, "it has no log of this name")
	refuses(f.trusting("new"), "assay log create")
	for _, name := range []string{"admin", "a"} {
		if _, err := pinlog.Create(t.Context(), f.config(name)); err == nil {
			t.Errorf("Create with the directory %s has begun a second log", name)
		}
	}
	c := f.config("other")
	c.Guard = filepath.Join(f.dir, "guard-file")
	if _, err := pinlog.Create(t.Context(), c); err == nil {
		t.Error("Create with a guard of the first log has begun a second one")
	}
	if keys := f.server.Keys("store/o/log/"); len(keys) > 0 {
		t.Errorf("the bucket has %v", keys)
	}
}

// A log without entries is new for an hour. One that says that it begins later, by more than clocks differ, is not: it
// would be new for ever.
func TestBucketBegan(t *testing.T) {
	t.Parallel()
	for age, signs := range map[time.Duration]bool{time.Minute: true, -time.Minute: true, 2 * time.Hour: false, -time.Hour: false, -10000 * time.Hour: false} {
		f := newFleet(t)
		object, err := pinlog.FirstBatch(f.key, time.Now().Add(-age))
		if err == nil {
			err = f.store().Create(t.Context(), storage.Info{Key: storage.LogDir(logName) + "/batches/000000000000", Size: int64(len(object))}, bytes.NewReader(object))
		}
		if err != nil {
			t.Fatal(err)
		}
		l := openLog(t, f.config("new"))
		if signs {
			pinOne(t, l, entry(1))
		} else {
			f.refuses(l, "log-trust-bucket")
		}
	}
}
