package content_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// Many absences of long names take no more memory than those of short names.
func TestLongAbsences(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	keep := content.Absences(5000, 20000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
		t.Errorf("5000 absences take %d MB", grown>>20)
	}
	runtime.KeepAlive(keep)
}

// All that a server remembers about objects takes less memory than the program reserves
// for it.
func TestIndexMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	keep := content.Indexes()
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if grown > 16<<20 {
		t.Errorf("%d bytes", grown)
	}
	t.Logf("%d KiB", grown>>10)
	runtime.KeepAlive(keep)
}

// A parsed list has only valid versions of the module, each once, in order.
func FuzzParseVersions(f *testing.F) {
	for _, seed := range []string{"", "v1.0.0\n", "v1.0.0 2020-01-01T00:00:00Z\r\nv0.9.0", "<html>\nv1 is here", "v2.0.0\nv2.0.0+incompatible\nv1.0.0-pre", "\xff\nv1.0.0", "v0.0.0-20200101000000-abcdefabcdef"} {
		f.Add("example.com/a", []byte(seed))
		f.Add("example.com/a/v2", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, path string, data []byte) {
		versions, err := content.ParseVersions(path, data)
		if err != nil {
			return
		}
		list := versions.Text()
		last := ""
		for line := range strings.Lines(string(list)) {
			v := strings.TrimSuffix(line, "\n")
			if module.Check(path, v) != nil || module.IsPseudoVersion(v) {
				t.Fatalf("%q in the list of %q", v, path)
			}
			if last != "" && (semver.Compare(last, v) > 0 || last == v) {
				t.Fatalf("%q before %q", last, v)
			}
			last = v
		}
		if again, err := content.ParseVersions(path, list); err != nil || !bytes.Equal(again.Text(), list) {
			t.Fatalf("parsed twice: %q, %v, want %q", again.Text(), err, list)
		}
	})
}
func TestHotIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 8 << 20
	if kept := content.Hot(5000, 8<<10, limit); kept == 0 || kept > limit {
		t.Errorf("%d bytes are kept", kept)
	}
}

// Large objects are bounded, too, and those that are requested once displace none.
func TestHotScan(t *testing.T) {
	t.Parallel()
	if kept := content.Hot(5000, 64<<10, 8<<20); kept == 0 || kept > 8<<20 {
		t.Errorf("%d bytes are kept", kept)
	}
	if before, after := content.Scan(100_000, 64<<10); before == 0 || after != before {
		t.Errorf("%d bytes are kept after the scan, %d before it", after, before)
	}
	if before, after := content.Scan(10, 65<<10); before != 0 || after != 0 {
		t.Errorf("%d bytes of objects that are too large are kept", after)
	}
}

// For any number of absences, states are limited in number and size; and one client does
// not use up the space of another.
func TestAbsencesAreBounded(t *testing.T) {
	t.Parallel()
	store, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	count := func(client string) (n int) {
		for name, data := range absenceStates(t, store) {
			if len(data) > content.MaxAbsenceState {
				t.Errorf("state %s has %d bytes", name, len(data))
			}
			n += bytes.Count(data, []byte("example.com/"+client+"/"))
		}
		return n
	}
	content.KeepAbsences(store, "honest", 1000)
	content.KeepAbsences(store, "hostile", 9000)
	if n := count("hostile"); n != content.MaxClientAbsences {
		t.Errorf("%d absences of one client, want %d", n, content.MaxClientAbsences)
	}
	if n := count("honest"); n != 1000 {
		t.Errorf("%d absences of the other are left, want 1000", n)
	}
	if n := len(content.EncodeAbsences(5000, 100)); n > content.MaxAbsenceState || n < content.MaxAbsenceState*9/10 {
		t.Errorf("a state of 5000 absences has %d bytes, want %d at most", n, content.MaxAbsenceState)
	}
}

// A zip that would not be complete in 20 minutes is aborted after the first minute; a
// faster one is not.
func TestSlowZip(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size  int64
		rate  int
		given bool
	}{
		{100 << 20, 1, true},
		{100 << 20, 80_000, true},
		{100 << 20, 100_000, false},
		{1000, 1, false},
	} {
		t.Run(fmt.Sprintf("%d of %d", test.rate, test.size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, err := bolt.Open(t.TempDir(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				begin := time.Now()
				got, err := content.Arrive(t.Context(), store, test.size, test.rate)
				took := time.Since(begin)
				if test.given && (err == nil || took > 62*time.Second) || !test.given && (err != nil || got != test.size) {
					t.Errorf("%d bytes after %v: %v", got, took, err)
				}
			})
		})
	}
}

// waitingStore is a store whose drafts wait for room, for some minutes, once.
type waitingStore struct{ storage.Store }

type waitingDraft struct {
	storage.Draft
	waited bool
}

func (s waitingStore) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := s.Store.Draft(ctx, size)
	return &waitingDraft{Draft: d}, err
}

func (d *waitingDraft) Write(p []byte) (int, error) {
	if !d.waited {
		time.Sleep(10 * time.Minute)
		d.waited = true
	}
	return d.Draft.Write(p)
}

// A zip whose bytes wait for room in the store does not come too slowly.
func TestWaitingZip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, err := bolt.Open(t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		const size = 10 << 20
		if got, err := content.Arrive(t.Context(), waitingStore{store}, size, 100_000); err != nil || got != size {
			t.Errorf("%d bytes: %v", got, err)
		}
	})
}

// absenceStates returns the states with absences.
func absenceStates(t *testing.T, store storage.Store) map[string][]byte {
	t.Helper()
	states := map[string][]byte{}
	for i := range 256 {
		name := fmt.Sprintf("absent/%02x", i)
		data, err := store.State(t.Context(), name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		states[name] = data
	}
	if len(states) == 0 {
		t.Fatal("no absences are kept")
	}
	return states
}

// Predictions for a site belong to it: together with the clients there they have the memory, and the
// votes against an upstream, of one site.
func TestPredictionsAreOfTheirSite(t *testing.T) {
	for _, site := range []string{"192.0.2.1", "2001:db8:1::/48", "unknown"} {
		if got := content.SiteOfPrediction(content.Config{}, site); got != site {
			t.Errorf("predictions for %s are of %s", site, got)
		}
	}
}
