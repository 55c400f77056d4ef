package proxy_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
)

const (
	helloInfo = "example.com/hello/@v/v1.0.0.info"
	poisoned  = `{"Version":"v1.0.0","Time":"2037-01-01T00:00:00Z"}`
)

// plant stores a poisoned .info with that time.
func plant(f *fixture, stored time.Time) {
	f.t.Helper()
	info := storage.Info{Key: keyOf(helloInfo), Size: int64(len(poisoned)), Time: stored}
	if err := f.store.Create(f.t.Context(), info, strings.NewReader(poisoned)); err != nil {
		f.t.Fatal(err)
	}
}

// wantHealed waits until the .info is what the world has. Until then every response is
// one of the two, and none is an error.
func (f *fixture) wantHealed() {
	f.t.Helper()
	want := f.world.File(helloInfo)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		a := f.get(helloInfo)
		if a.status == http.StatusOK && bytes.Equal(a.body, want) {
			return
		}
		if a.status != http.StatusOK || string(a.body) != poisoned || time.Now().After(deadline) {
			f.t.Fatalf("%v", a)
		}
	}
}

// An .info that is a day old is fetched again in the background, once.
func TestInfoHealsWithAge(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	plant(f, time.Now().Add(-25*time.Hour))
	if a := f.get(helloInfo); string(a.body) != poisoned {
		t.Errorf("the client has waited for the new one: %v", a)
	}
	f.wantHealed()
	f.wantLogged(t, "info replaced")
	for range 5 {
		f.get(helloInfo)
	}
	if n := world.Count(helloInfo); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// A younger one is not; an old one that the upstream confirms is not fetched twice; one
// that cannot be fetched stays as it is.
func TestInfoStays(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		list string
		age  time.Duration
		asks bool
	}{
		"young":         {"ok", 23 * time.Hour, false},
		"upstream down": {"503", 48 * time.Hour, true},
		"wrong info":    {"wrong-info", 48 * time.Hour, true},
		"upstream off":  {"", 48 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			list := "off"
			if tt.list != "" {
				list = world.URL(tt.list)
			}
			f := start(t, world, list, option{budget: quick})
			plant(f, time.Now().Add(-tt.age))
			for range 3 {
				if a := f.get(helloInfo); string(a.body) != poisoned {
					t.Errorf("%v", a)
				}
			}
			f.close() // waits for work under way
			if asked := world.Count(helloInfo) > 0; asked != tt.asks {
				t.Errorf("asked: %t, want %t", asked, tt.asks)
			}
		})
	}
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	right := world.File(helloInfo)
	if err := f.store.Create(t.Context(), storage.Info{Key: keyOf(helloInfo), Size: int64(len(right)), Time: time.Unix(0, 0)}, bytes.NewReader(right)); err != nil {
		t.Fatal(err)
	}
	for world.Count(helloInfo) == 0 {
		f.want(helloInfo)
	}
	for range 5 {
		f.want(helloInfo)
	}
	f.close()
	if n := world.Count(helloInfo); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// The .info is fetched from the upstream whose zip was proved, if it came from another
// one.
func TestInfoHealsByProof(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"zip", "mod"} {
		liar, world := newWorld(t), newWorld(t)
		for _, suffix := range []string{"zip", "mod"} {
			liar.Set("example.com/hello/@v/v1.0.0."+suffix, nil)
		}
		liar.Set(helloInfo, []byte(poisoned))
		f := start(t, world, liar.URL("sumdb-404")+","+world.URL("ok"), verified())
		if a := f.get(helloInfo); string(a.body) != poisoned {
			t.Fatalf("%v", a)
		}
		f.want("example.com/hello/@v/v1.0.0." + file)
		f.wantHealed()
		if n := liar.Count(helloInfo); n != 1 {
			t.Errorf("%s: the other upstream was asked %d times, want once", file, n)
		}
	}
}

// With one upstream alone, an .info is fetched once, whatever is proved.
func TestInfoFromOneUpstream(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	for _, suffix := range []string{"info", "mod", "zip", "info"} {
		f.want("example.com/hello/@v/v1.0.0." + suffix)
	}
	f.close()
	if n := world.Count(helloInfo); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// After assay verify --repair each .info is fetched again when it is used.
func TestInfoHealsAfterRepair(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	plant(f, time.Now().Add(-time.Hour))
	f.get(helloInfo)
	if err := content.RecheckInfos(t.Context(), f.store); err != nil {
		t.Fatal(err)
	}
	f.close()
	if n := world.Count(helloInfo); n != 0 {
		t.Errorf("asked %d times before, want never", n)
	}
	f.open(world.URL("ok"), verified())
	f.wantHealed()
}

// A client that has read a damaged object for long does not remove what was fetched again meanwhile.
func TestDropOfReplaced(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	const path = "example.com/hello/@v/v1.0.0.zip"
	f.want(path)
	info, err := f.store.Stat(t.Context(), "proved/"+proxytest.Database+"/"+path)
	if err != nil {
		t.Fatal(err)
	}
	origin, before := f.server.Content().Origin("example.com/hello"), info
	before.Time = info.Time.Add(-time.Minute)
	origin.Drop(t.Context(), before, storage.ErrDamaged)
	if !f.holds(path) {
		t.Error("the object of now is removed")
	}
	origin.Drop(t.Context(), info, storage.ErrDamaged)
	if f.holds(path) {
		t.Error("the damaged object stays")
	}
}
